"""Run one notebook of a plan through papermill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

from bedkd.batch import kernels
from bedkd.batch.forks import SOCKET
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json, write_text

FOLDER = Path(__file__).parents[2] / "notebooks"


def notebook_digest(name: str) -> str:
    """Digest of a notebook's cells: outputs, execution counts and metadata do not count."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:12]


def check_parameters(name: str, parameters: dict) -> None:
    """Raises BedkdError for a parameter that the notebook lacks (papermill would only warn)."""
    import papermill

    if not (FOLDER / f"{name}.ipynb").is_file():
        raise BedkdError(f"there is no notebook {name!r} in {FOLDER}")
    known = papermill.inspect_notebook(str(FOLDER / f"{name}.ipynb"))
    if unknown := sorted(set(parameters) - set(known)):
        raise BedkdError(
            f"notebook {name} has no parameter {unknown[0]!r}; it has {', '.join(known)}"
        )


def execute(name: str, parameters: dict, output: Path) -> None:
    """Run notebook `name` with `parameters`; the executed copy is written to `output` as it goes.

    Raises:
        BedkdError: an unknown parameter, a cell failed (the message is the cell's own), or the
            kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    check_parameters(name, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bedkd-") as folder:
        os.environ["JUPYTER_RUNTIME_DIR"] = folder
        # Kernels that start at once race for TCP ports; sockets in a folder of their own do not.
        kernel = {"transport": "ipc", "ip": str(Path(folder) / "kernel")}
        config = Config(
            {
                "KernelManager": kernel,
                "AsyncKernelManager": {"client_class": "bedkd.batch.kernels.PromptClient"},
                "NotebookClient": {"shutdown_kernel": "immediate"},  # results are on disk by then
            }
        )
        os.environ["TQDM_DISABLE"] = "1"  # a stored bar is noise
        if SOCKET in os.environ:
            os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = kernels.NAME
        try:
            papermill.execute_notebook(
                str(FOLDER / f"{name}.ipynb"),
                str(output),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(FOLDER),
                progress_bar=False,
                config=config,
            )
        except PapermillExecutionError as error:
            what = error.evalue if error.ename == "BedkdError" else f"{error.ename}: {error.evalue}"
            raise BedkdError(what) from error
        except DeadKernelError as error:
            raise BedkdError(
                "the notebook's kernel was killed; too little memory is the usual cause"
            ) from error


def run_job(plan_file: Path, job: str) -> int:
    """Execute a job of the plan. Leaves JOB.ipynb, and JOB.done or JOB.failed beside it."""
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    spec = (plan["jobs"] | plan["summaries"])[job]
    name = job.split("/")[0]
    base = plan_file.parent / "notebooks" / job
    failed = base.with_name(base.name + ".failed")
    failed.unlink(missing_ok=True)
    started = time.perf_counter()
    try:
        execute(name, spec["parameters"], base.with_name(base.name + ".ipynb"))
        seconds = time.perf_counter() - started
        write_json(base.with_name(base.name + ".done"), {"seconds": round(seconds, 1)})
    except (BedkdError, OSError) as error:  # OSError: the disk is full, even for the notebook
        with contextlib.suppress(OSError):
            write_text(failed, f"{error}\n")
        print(f"failed  {name:14} {spec['title']}: {error}", flush=True)
        return 1
    print(f"done    {name:14} {spec['title']:40} {seconds:6.1f} s", flush=True)
    return 0

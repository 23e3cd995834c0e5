"""Run notebooks through papermill."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bedkd.core.errors import BedkdError

FOLDER = Path(__file__).parents[2] / "notebooks"
# As if it were not installed: jsonschema, which papermill checks notebooks with, would compile a
# grammar of international addresses, which no notebook has, for two thirds of papermill's import.
sys.modules.setdefault("rfc3987_syntax", None)


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


class Kernel:
    """One kernel for several notebooks, one after the other, each in an empty namespace."""

    def __init__(self, folder: str):
        # Kernels that start at once race for TCP ports; sockets in a folder of their own do not.
        os.environ["JUPYTER_RUNTIME_DIR"] = folder
        os.environ["TQDM_DISABLE"] = "1"  # a stored bar is noise
        self.address = {"transport": "ipc", "ip": str(Path(folder) / "kernel")}
        self.manager = None

    def give(self):
        """The kernel's manager; nbclient starts one that has not begun."""
        from jupyter_client.manager import AsyncKernelManager
        from nbclient import NotebookClient
        from nbformat.v4 import new_code_cell, new_notebook

        if self.manager is None:
            self.manager = AsyncKernelManager(kernel_name="python3", **self.address)
        else:
            NotebookClient(new_notebook(cells=[new_code_cell("%reset -f")]), self.manager).execute()
        return self.manager

    def end(self) -> None:
        """At once: results are on disk when the last cell ends."""
        from jupyter_core.utils import run_sync

        if self.manager is not None and self.manager.has_kernel:
            run_sync(self.manager.shutdown_kernel)(now=True)
        self.manager = None


@contextlib.contextmanager
def open_kernel() -> Iterator[Kernel]:
    """For `execute`; nothing runs yet."""
    with tempfile.TemporaryDirectory(prefix="bedkd-") as folder:
        kernel = Kernel(folder)
        try:
            yield kernel
        finally:
            kernel.end()


def execute(name: str, parameters: dict, output: Path, kernel: Kernel) -> None:
    """Run notebook `name` with `parameters`; the executed copy is written to `output` as it goes.

    Raises BedkdError: an unknown parameter, a cell failed (the message is the cell's own), or the
    kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    check_parameters(name, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    source, how = str(FOLDER / f"{name}.ipynb"), {"kernel_name": "python3", "cwd": str(FOLDER)}
    how |= {"parameters": parameters, "progress_bar": False}
    try:
        papermill.execute_notebook(source, str(output), km=kernel.give(), **how)
    except PapermillExecutionError as error:
        what = error.evalue if error.ename == "BedkdError" else f"{error.ename}: {error.evalue}"
        raise BedkdError(what) from error
    except DeadKernelError as error:
        kernel.end()
        raise BedkdError(
            "the notebook's kernel was killed; too little memory is the usual cause"
        ) from error

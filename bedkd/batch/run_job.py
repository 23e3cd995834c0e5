"""One job of a plan: `python -m bedkd.batch.run_job plan.json JOB`."""

import contextlib
import json
import sys
import time
from pathlib import Path

from bedkd.batch.gpus import hold_gpu
from bedkd.batch.notebooks import Kernel, execute, open_kernel
from bedkd.core.errors import BedkdError
from bedkd.core.files import write_json, write_text


def run_job(plan_file: Path, job: str) -> int:
    """Execute a job's notebook and, before it, those that share its kernel; on a GPU of its own
    where GPUs are counted. Returns the exit code of the job itself."""
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    specs, code = plan["jobs"] | plan["summaries"], 1
    slots = plan["slots"] if job in plan["jobs"] else []
    with hold_gpu(plan_file.parent, slots), open_kernel() as kernel:
        for name in specs[job].get("members", [job]):
            # the job itself in any case: Snakemake, which has taken the stamp away then, calls what
            # ended as the batch was killed incomplete, and the plan called it done
            if name == job or specs[name]["is_todo"]:
                code = run_notebook(plan_file.parent, name, specs[name], kernel)
    return code


def run_notebook(folder: Path, job: str, spec: dict, kernel: Kernel) -> int:
    """Leaves JOB.ipynb, and JOB.done or JOB.failed beside it."""
    executed, done, failed = (
        job_file(folder, job, ending) for ending in ("ipynb", "done", "failed")
    )
    failed.unlink(missing_ok=True)
    started = time.perf_counter()
    try:
        execute(job.split("/")[0], spec["parameters"], executed, kernel)
        seconds = round(time.perf_counter() - started, 1)
        write_json(done, {"seconds": seconds, "source": spec["source"]})
    except (BedkdError, OSError) as error:  # OSError: the disk is full, even for the notebook
        with contextlib.suppress(OSError):
            write_text(failed, f"{error}\n")
        print(f"{job} failed: {error}", file=sys.stderr)
        return 1
    return 0


def job_file(folder: Path, job: str, ending: str) -> Path:
    """A file that a job leaves in the batch's folder."""
    return folder / "notebooks" / f"{job}.{ending}"


if __name__ == "__main__":
    sys.exit(run_job(Path(sys.argv[1]), sys.argv[2]))

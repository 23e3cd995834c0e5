"""Two small cells as Slurm jobs: one is cancelled while it runs, and recovered by a second run.

`make test-slurm` installs Slurm and runs this; elsewhere it is skipped.
"""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from local_slurm import ask, local_slurm, wait_for

from bedkd.batch.gpus import VISIBLE
from bedkd.runs.ensure import ensure
from bedkd.runs.profiles import load_profile
from bedkd.runs.records import read_record, stable_part

pytestmark = pytest.mark.slurm

PROFILE = """
extends: quick
grid: {dataset: [toy-sentiment], attack: [none, addsent], seed: [3]}
defences: []
studies: []
few_jobs: false
config:
  device: cpu
  data: {n_train: 200, n_test: 60, clean_pool_per_class: 16}
  victim: {epochs: 2}
  dmm: {n_clean_per_class: 16, epochs: 2}
  mepd: {gamma: 0.5, n_poison: 8}
  akd: {n_clean_per_class: 16, cycles: 2, evaluate_every: 1, learning_rate: 1.0e-5}
"""

# What a site would set for all its users: here, that there is no accounting to ask.
SITE = """
slurm-status-command: squeue
slurm-no-account: true
slurm-init-seconds-before-status-checks: 2
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with local_slurm(tmp_path_factory.mktemp("slurm") / "daemons.log"):
        yield


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """The profile; Snakemake finds the site's, for the jobs too."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/config.yaml").write_text(SITE)
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(tmp_path / "site"))
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path / "outputs"))
    path = tmp_path / "small.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """A file that every kernel adds a line to: the job of Slurm that it is in, and its GPU."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    startup = tmp_path / "ipython/profile_default/startup/look.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(
        "import os\n"
        f"with open({str(tmp_path / 'seen')!r}, 'a') as stream:\n"
        f"    print(os.environ.get('SLURM_JOB_ID'), os.environ.get({VISIBLE!r}), file=stream)\n"
    )
    return tmp_path / "seen"


@contextlib.contextmanager
def started(profile):
    """The batch, on the cluster; nothing of it is left after the block."""
    command = [sys.executable, "-m", "bedkd.cli", "reproduce", str(profile)]
    command += ["--cluster", "slurm", "--gpus", "2"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, **streams, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def find_job(batch, *words):
    """The id of the running Slurm job whose comment, the notebook and its label, has the words."""
    assert batch.poll() is None, batch.communicate()[0]
    for line in ask("squeue", "-h", "--state=RUNNING", "-o", "%i %k").splitlines():
        if all(word in line for word in words):
            return line.split()[0]


def list_states():
    return sorted(ask("squeue", "-h", "--states=all", "-o", "%T").split())


def read_records(outputs):
    folders = [path.parent for path in outputs.glob("runs/*/*/record.json")]
    return {f"{f.parent.name}/{f.name}": stable_part(read_record(f)) for f in folders}


def test_a_cancelled_job_is_reported_and_recovered(slurm, profile, seen, tmp_path, monkeypatch):
    with started(profile) as batch:
        job = wait_for(lambda: find_job(batch, "04_akd", "addsent"), "the job to cancel", 600)
        begun = (tmp_path / "outputs/small/notebooks/04_akd").glob
        wait_for(lambda: list(begun("*addsent*.ipynb")), "its notebook", 120)
        subprocess.run(["scancel", job], check=True)
        said, _ = batch.communicate()
    assert batch.returncode == 1, said
    (line,) = [line for line in said.splitlines() if line.startswith("04_akd") and "failed" in line]
    assert "addsent" in line and "killed or cancelled" in line
    assert list_states() == ["CANCELLED"] + ["COMPLETED"] * 7
    pairs = dict(line.split() for line in seen.read_text().splitlines())
    assert pairs.pop("None") == "None"  # tables and figures, made here
    assert len(pairs) >= 7 and set(pairs.values()) == {"0", "1"}  # a GPU for each job

    with started(profile) as batch:
        said, _ = batch.communicate()
    assert batch.returncode == 0 and "All done" in said, said
    assert list_states() == ["CANCELLED"] + ["COMPLETED"] * 8  # the one again, and no other

    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path / "here"))
    loaded = load_profile(str(profile))
    for result in (result for run in loaded.runs() for result in loaded.results(run)):
        ensure(*result)
    here = read_records(tmp_path / "here")
    assert read_records(tmp_path / "outputs") == here and len(here) == 18

"""A Slurm of one node on the loopback, in a scratch folder: munged, slurmctld and slurmd.

Own configuration, key, sockets and ports: what else runs on the machine is left alone, and as
many of these as one likes run side by side.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "setpriv")

# `config_overrides`: believe the line of the node, whatever the machine has. `MinJobAge`: squeue
# shows ended jobs that long, which without accounting is how Snakemake hears of their end.
CONFIG = """
ClusterName=bedkd
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=86400
KillWait=2
GresTypes=gpu
SchedulerParameters=batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=100000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_commands() -> list[str]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in COMMANDS if not shutil.which(name, path=path)]


@contextlib.contextmanager
def local_slurm(log: Path):
    """Run it; in the block Slurm's commands find it by SLURM_CONF. `log`: what the daemons say.

    Raises:
        RuntimeError: it does not come up; the message ends with the log.
    """
    before = dict(os.environ)
    # not pytest's own folder: the path of a socket must be short
    with (
        tempfile.TemporaryDirectory(prefix="bedkd-") as folder,
        open(log, "w") as stream,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(restore, before)
        os.environ["PATH"] = f"{folder}/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
        os.environ["SLURM_CONF"] = str(write_files(Path(folder)))
        try:
            stack.enter_context(running(munged(Path(folder)), stream))
            wait_for(lambda: Path(folder, "munge.socket").exists(), "munged")
            stack.enter_context(running(["slurmctld", "-D"], stream))
            stack.enter_context(running(["slurmd", "-D"], stream))
            wait_for(lambda: ask("sinfo", "-h", "-o", "%t") == "idle", "an idle node")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text()}") from error
        stack.callback(end_jobs)
        yield


def write_files(folder: Path) -> Path:
    """The scratch folder's files; returns the configuration."""
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    # a job step of Snakemake's takes all of SLURM_* from its srun, the way to our configuration too
    wrapper = f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
    (folder / "bin/srun").write_text(wrapper)
    (folder / "bin/srun").chmod(0o755)
    folder.chmod(0o755)  # munged wants its socket to be within everyone's reach
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    ports = free_ports(2)
    text = CONFIG.format(
        folder=folder,
        host=socket.gethostname().split(".")[0],
        user=ask("id", "-un"),
        controller_port=ports[0],
        node_port=ports[1],
    )
    (folder / "slurm.conf").write_text(text.lstrip())
    # devices that are everywhere stand for two GPUs: Slurm counts and assigns them by number
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    return folder / "slurm.conf"


def munged(folder: Path) -> list[str]:
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    names |= {"seed-file": "seed"}
    return ["munged", "-F", *(f"--{option}={folder}/munge.{end}" for option, end in names.items())]


@contextlib.contextmanager
def running(command: list[str], log):
    """A daemon in the foreground; it ends with the block, and with this process if that is killed.

    Raises:
        RuntimeError: as `wait_for`.
    """
    command = ["setpriv", "--pdeathsig", "TERM", *command]
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def end_jobs() -> None:
    """Cancel what still runs: a job outlives slurmd."""
    subprocess.run(["scancel", "--state=PENDING"], check=False)
    subprocess.run(["scancel", "--state=RUNNING"], check=False)
    with contextlib.suppress(RuntimeError):
        wait_for(lambda: not ask("squeue", "-h"), "an empty queue")


def restore(environment: dict) -> None:
    os.environ.clear()
    os.environ.update(environment)


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def wait_for(condition, what: str, seconds: float = 30):
    """The first true value of `condition()`.

    Raises:
        RuntimeError: none came.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise RuntimeError(f"waited {seconds:g} s for {what}")


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]

"""Jobs and kernels that start at once: ask the server of `forkserver` for a fork.

A notebook of the quick profile computes for ten seconds, and importing papermill, torch and this
package twice (in the job and in its kernel) takes half as long again; a batch has dozens. `bedkd
reproduce` runs the server for as long as it lives itself. Without the server (a job on a cluster's
node, JupyterLab) jobs and kernels start as everywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOCKET = "BEDKD_FORK_SOCKET"
POLL = 0.5  # seconds between two looks at whether a process is still there


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def request(**what) -> tuple[socket.socket, int]:
    """Ask the server for a fork: the connection to it, and its process id. It ends when we do.

    Raises:
        OSError: there is no server (any more).
    """
    what = {"env": dict(os.environ), "owner": os.getpid()} | what
    if SOCKET not in os.environ:
        raise OSError("there is no fork server")
    client = socket.socket(socket.AF_UNIX)
    client.connect(os.environ[SOCKET])
    # our stdout and stderr, for a job to print to
    socket.send_fds(client, [json.dumps(what).encode() + b"\n"], [1, 2])
    answer = client.makefile().readline()
    if not answer:
        raise OSError("the fork server ended")
    return client, int(answer)


def run_forked(arguments: list[str]) -> int:
    """Run `notebooks.run_job` in a fork. Returns its exit code; 1 if it was killed.

    Raises:
        OSError: as `request`.
    """
    client, _ = request(kind="job", cwd=os.getcwd(), arguments=arguments)
    return int(client.makefile().readline() or 1)


@contextlib.contextmanager
def fork_server(log) -> Iterator[None]:
    """Run the server; processes started inside the block find it by the variable SOCKET.

    Does not wait for it. `log`: an open file for what the kernels print to their own stderr.
    """
    with tempfile.TemporaryDirectory(prefix="bedkd-") as folder:
        path = str(Path(folder) / "forks")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(64)
            number = listener.fileno()
            command = [sys.executable, "-m", "bedkd.batch.forkserver", str(number)]
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            server = subprocess.Popen(command, pass_fds=[number], **streams)
        # who connects while it still imports waits; once it is dead, the connection is refused
        os.environ[SOCKET] = path
        try:
            yield
        finally:
            del os.environ[SOCKET]
            server.kill()
            server.wait()

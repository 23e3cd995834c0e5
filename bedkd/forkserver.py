"""Jobs and kernels that start at once: a server imports everything, then forks for each of them.

A notebook of the quick profile computes for ten seconds, and importing papermill, torch and this
package twice (in the job and in its kernel) takes half as long again; a batch has dozens. `bedkd
reproduce` runs the server for as long as it lives itself. Without the server (a job on a cluster's
node, JupyterLab) jobs and kernels start as everywhere.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
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
            command = [sys.executable, "-m", "bedkd.forkserver", str(number)]
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


def serve(listener: int) -> None:
    """Import, accept, fork; ends when the process that started it is gone."""
    parent = os.getppid()
    # what the jobs and the notebooks import, and the kernel itself, which takes longest over its
    # debugger
    import ipykernel.debugger
    import ipykernel.kernelapp  # noqa: F401
    import papermill  # noqa: F401

    import bedkd.figures
    import bedkd.inspection
    import bedkd.notebooks
    import bedkd.summaries
    import bedkd.tables  # noqa: F401
    from bedkd.store import STAGES, stage_digests

    for stage in STAGES:  # now, and of the code that the forks will run: the keys need it
        stage_digests(stage)
    gc.freeze()  # forks collect their own garbage, and do not look through all that is imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended forks leave no zombies
    with socket.socket(fileno=listener) as server:
        server.settimeout(POLL)
        while os.getppid() == parent:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                with connection:
                    answer(server, connection)


def answer(server: socket.socket, connection: socket.socket) -> None:
    connection.settimeout(None)
    message, streams, *_ = socket.recv_fds(connection, 2**16, 2)
    while not message.endswith(b"\n"):
        message += connection.recv(2**16)
    what = json.loads(message)
    pid = os.fork()
    if pid == 0:
        server.close()
        become(what, streams, connection)
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{pid}\n".encode())


def become(what: dict, streams: list[int], connection: socket.socket) -> None:
    """Be a kernel or a job, in the forked process; never returns."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(what["env"])
    os.chdir(what["cwd"])
    threading.Thread(target=follow, args=(what["owner"],), daemon=True).start()
    try:
        if what["kind"] == "kernel":
            connection.close()
            run_kernel(what["connection_file"])
        else:
            code = run_job(what["arguments"], streams)
            connection.sendall(f"{code}\n".encode())
    finally:
        os._exit(0)


def run_kernel(connection_file: str) -> None:
    import torch
    from ipykernel.kernelapp import IPKernelApp

    sys.path[0] = ""  # a kernel started by its command finds modules beside the notebook
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
    # pyplot was imported where there was no notebook to show figures in
    IPKernelApp.launch_instance(argv=["-f", connection_file, "--matplotlib=inline"])


def run_job(arguments: list[str], streams: list[int]) -> int:
    import bedkd.notebooks

    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
    code = bedkd.notebooks.run_job(Path(arguments[0]), arguments[1])
    sys.stdout.flush()
    return code


def follow(owner: int) -> None:
    """End with the process that asked for this one, however it ended."""
    while is_alive(owner):
        time.sleep(POLL)
    os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]))

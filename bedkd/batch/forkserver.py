"""The server of `forks`: it imports everything, then forks for each job and each kernel."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from bedkd.batch.forks import POLL, is_alive


def serve(listener: int) -> None:
    """Import, accept, fork; ends when the process that started it is gone."""
    parent = os.getppid()
    # what the jobs and the notebooks import, and the kernel itself, which takes longest over its
    # debugger
    import ipykernel.debugger
    import ipykernel.kernelapp  # noqa: F401
    import papermill  # noqa: F401

    import bedkd.batch.notebooks
    import bedkd.report.figures
    import bedkd.report.loading
    import bedkd.report.one_run
    import bedkd.report.tables  # noqa: F401
    from bedkd.runs.folders import STAGES, stage_digests

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
    import bedkd.batch.notebooks

    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
    code = bedkd.batch.notebooks.run_job(Path(arguments[0]), arguments[1])
    sys.stdout.flush()
    return code


def follow(owner: int) -> None:
    """End with the process that asked for this one, however it ended."""
    while is_alive(owner):
        time.sleep(POLL)
    os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]))

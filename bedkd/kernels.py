"""Kernels that start at once: a server imports torch and this package, then forks for each kernel.

A notebook of the quick profile computes for ten seconds, and importing takes half as long again; a
batch has dozens. `bedkd reproduce` runs the server for as long as it lives itself, and the jobs'
kernels come from it through a Jupyter kernel provisioner. Without the server (a job on a cluster's
node, JupyterLab) kernels start as everywhere.
"""

from __future__ import annotations

import contextlib
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

from jupyter_client.provisioning import LocalProvisioner

SOCKET = "BEDKD_KERNEL_SOCKET"
NAME = "bedkd-fork"  # the provisioner's entry point in pyproject.toml
POLL = 0.5  # seconds between two looks at whether a process is still there


class ForkedProcess:
    """What `LocalProvisioner` asks of a process, for one that is not our child."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid = pid

    def poll(self) -> int | None:
        return None if is_alive(self.pid) else 0

    def wait(self) -> int:
        while is_alive(self.pid):
            time.sleep(POLL / 10)
        return 0

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkProvisioner(LocalProvisioner):
    """Starts a kernel by asking the server for a fork; without a server, by its command."""

    async def launch_kernel(self, cmd: list[str], **options) -> dict:
        if SOCKET not in os.environ:
            return await super().launch_kernel(cmd, **options)
        request = {
            "connection_file": self.parent.connection_file,
            "cwd": options.get("cwd") or os.getcwd(),
            "env": dict(options.get("env") or os.environ),
            "owner": os.getpid(),
        }
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.environ[SOCKET])
            client.sendall(json.dumps(request).encode() + b"\n")
            self.process = ForkedProcess(int(client.makefile().readline()))
        self.pid, self.pgid = self.process.pid, self.process.pid  # it leads a session of its own
        return self.connection_info


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def kernel_server(log) -> Iterator[None]:
    """Run the server; processes started inside the block find it by the variable SOCKET.

    `log`: an open file for what the kernels print to their own stderr.
    """
    with tempfile.TemporaryDirectory(prefix="bedkd-") as folder:
        path = str(Path(folder) / "kernels")
        command = [sys.executable, "-m", "bedkd.kernels", path]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
        server = subprocess.Popen(command, **streams)
        if server.stdout.readline():  # it is listening; if not, kernels start as everywhere
            os.environ[SOCKET] = path
        try:
            yield
        finally:
            os.environ.pop(SOCKET, None)
            server.kill()
            server.wait()
            server.stdout.close()


def serve(path: str) -> None:
    """Import, listen, fork; ends when the process that started it is gone."""
    # what the notebooks import, and the kernel itself
    import ipykernel.kernelapp  # noqa: F401

    import bedkd.figures
    import bedkd.inspection
    import bedkd.summaries
    import bedkd.tables  # noqa: F401

    parent = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended kernels leave no zombies
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(POLL)
        print("listening", flush=True)
        while os.getppid() == parent:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                with connection:
                    answer(server, connection)


def answer(server: socket.socket, connection: socket.socket) -> None:
    connection.settimeout(None)
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        server.close()
        connection.close()
        run_kernel(request)
    connection.sendall(f"{pid}\n".encode())


def run_kernel(request: dict) -> None:
    """Be a kernel, in the forked process; never returns."""
    import torch
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[0] = ""  # a kernel started by its command finds modules beside the notebook
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
    threading.Thread(target=follow, args=(request["owner"],), daemon=True).start()
    try:
        # pyplot was imported where there was no notebook to show figures in
        IPKernelApp.launch_instance(argv=["-f", request["connection_file"], "--matplotlib=inline"])
    finally:
        os._exit(0)


def follow(owner: int) -> None:
    """End with the job that asked for this kernel, however it ended."""
    while is_alive(owner):
        time.sleep(POLL)
    os._exit(1)


if __name__ == "__main__":
    serve(sys.argv[1])

"""A Jupyter kernel provisioner that takes kernels from the fork server."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from jupyter_client.provisioning import LocalProvisioner

from bedkd.forkserver import POLL, is_alive, request

NAME = "bedkd-fork"  # the provisioner's entry point in pyproject.toml


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
        try:
            client, pid = request(
                kind="kernel",
                connection_file=self.parent.connection_file,
                cwd=options.get("cwd") or os.getcwd(),
                env=dict(options.get("env") or os.environ),
            )
        except OSError:
            return await super().launch_kernel(cmd, **options)
        client.close()
        self.process = ForkedProcess(pid)
        self.pid, self.pgid = pid, pid  # it leads a session of its own
        return self.connection_info

"""Kernels from the fork server, and a client that waits for nothing but the kernel's answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from queue import Empty

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.provisioning import LocalProvisioner

from bedkd.batch.forks import POLL, is_alive, request

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

    async def kill(self, restart: bool = False) -> None:
        """Returns when the kernel is gone: the manager looks for that every tenth of a second."""
        await super().kill(restart)
        end = time.monotonic() + POLL
        while self.process and await self.poll() is None and time.monotonic() < end:
            await asyncio.sleep(POLL / 100)


class PromptClient(AsyncKernelClient):
    """Is ready as soon as the kernel answers on both channels.

    The client of Jupyter then waits for a fifth of a second of silence, so as to be rid of earlier
    messages. Here nothing has run before, and papermill passes over messages that no cell sent.
    """

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Raises RuntimeError: the kernel died, or did not answer within `timeout` seconds."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            self.kernel_info()
            with contextlib.suppress(Empty):
                await self.get_shell_msg(timeout=1)
                await self.get_iopub_msg(timeout=0.2)
                return
            if not await self.parent.is_alive():
                raise RuntimeError("the kernel died before it answered")
            if time.monotonic() > end:
                raise RuntimeError(f"the kernel did not answer within {timeout} seconds")

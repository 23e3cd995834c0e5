"""Jobs and kernels forked from a server that has imported everything."""

import asyncio
import json
import os
import subprocess
import sys
import time

import pytest
from jupyter_client.manager import AsyncKernelManager, start_new_kernel
from jupyter_client.provisioning import KernelProvisionerFactory

from bedkd.batch import kernels
from bedkd.batch.forks import SOCKET, fork_server, is_alive, request, run_forked


def ask(client, code):
    """What the kernel prints for `code`."""
    said = []
    client.execute_interactive(
        code, timeout=60, output_hook=lambda message: said.append(message["content"].get("text"))
    )
    return "".join(text for text in said if text).strip()


@pytest.fixture
def forks(tmp_path, monkeypatch):
    """A fork server that kernels come from."""
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", kernels.NAME)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    KernelProvisionerFactory.clear_instance()  # it remembers the name from before
    with open(tmp_path / "log", "w") as log, fork_server(log):
        yield
    KernelProvisionerFactory.clear_instance()


@pytest.fixture
def kernel(forks, tmp_path):
    manager, client = start_new_kernel(cwd=str(tmp_path))
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_a_forked_kernel_is_ready_and_on_its_own(kernel, tmp_path):
    manager, client = kernel
    assert ask(client, "import sys; print('bedkd.runs.ensure' in sys.modules)") == "True"
    assert ask(client, "import os; print(os.getcwd())") == str(tmp_path)
    assert ask(client, "import torch; print(torch.get_num_threads())") == "1"
    assert ask(client, "print(os.getpid() == os.getsid(0))") == "True"
    pid = int(ask(client, "print(os.getpid())"))
    assert pid == manager.provisioner.pid and is_alive(pid)
    manager.shutdown_kernel(now=True)
    deadline = time.time() + 20
    while is_alive(pid) and time.time() < deadline:
        time.sleep(0.1)
    assert not is_alive(pid)


def test_a_prompt_client_hears_the_first_cell_and_its_kernel_is_gone_at_once(forks, tmp_path):
    async def run():
        manager = AsyncKernelManager(client_class="bedkd.batch.kernels.PromptClient")
        await manager.start_kernel(cwd=str(tmp_path))
        pid, client, said = manager.provisioner.pid, manager.client(), []
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        await client.execute_interactive("print('heard')", timeout=60, output_hook=said.append)
        await manager.shutdown_kernel(now=True)
        assert not is_alive(pid)
        with pytest.raises(RuntimeError, match="died before it answered"):
            await client.wait_for_ready(timeout=60)
        client.stop_channels()
        return [m["content"]["text"] for m in said if m["msg_type"] == "stream"]

    assert asyncio.run(run()) == ["heard\n"]


def test_figures_are_shown(kernel):
    shown = []
    code = "from bedkd.report.figures import plt; plt.plot([1, 2]);"
    kernel[1].execute_interactive(
        code, timeout=60, output_hook=lambda m: shown.append(m["content"].get("data", {}))
    )
    assert any("image/png" in data for data in shown)


def test_the_server_ends_with_its_block(tmp_path):
    with open(tmp_path / "log", "w") as log, fork_server(log):
        path = os.environ[SOCKET]
        assert os.path.exists(path)
    assert SOCKET not in os.environ and not os.path.exists(path)


def test_without_a_server_kernels_start_as_everywhere(tmp_path, monkeypatch):
    """The server cannot start: who asks is refused, and does without."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with open(tmp_path / "log", "w") as log, fork_server(log), pytest.raises(OSError):
        run_forked(["plan.json", "job"])


def test_a_job_prints_and_returns_through_its_client(tmp_path):
    """An unknown notebook: the job fails, says so on the client's stdout, and its code is 1."""
    jobs = {"99_nothing/x": {"parameters": {}, "title": "nothing"}}
    (tmp_path / "plan.json").write_text(json.dumps({"jobs": jobs, "summaries": {}}))
    command = [sys.executable, "-m", "bedkd.batch.run_job", "plan.json", "99_nothing/x"]
    with open(tmp_path / "log", "w") as log, fork_server(log):
        forked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    direct = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    for result in (forked, direct):
        assert result.returncode == 1 and result.stdout.startswith("failed  99_nothing")
    assert "no notebook" in (tmp_path / "notebooks/99_nothing/x.failed").read_text()


def test_a_forked_job_ends_with_its_client(tmp_path):
    wait = [sys.executable, "-c", "import time; time.sleep(60)"]
    client = subprocess.Popen(wait)
    with open(tmp_path / "log", "w") as log, fork_server(log):
        # a kernel stands for a job that takes long; its owner is another process
        connection, pid = request(
            kind="kernel",
            cwd=str(tmp_path),
            owner=client.pid,
            connection_file=str(tmp_path / "kernel.json"),
        )
        assert is_alive(pid)
        client.kill()
        client.wait()
        deadline = time.time() + 20
        while is_alive(pid) and time.time() < deadline:
            time.sleep(0.1)
        assert not is_alive(pid)
        connection.close()

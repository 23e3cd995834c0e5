"""A Chromium, a JupyterLab on the loopback, and results of a small cell whose texts are hostile."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pandas as pd
import pytest

from bedkd.report.show import LONG_WORD
from bedkd.runs.ensure import ensure
from bedkd.runs.profiles import PROJECT, load_profile

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# a script, an image that runs one, mathematics, a colour, a turn of the writing, a word without end
HOSTILE = (
    "<script>window.broken=1</script> <img src=x onerror=window.broken=2> $x^2$ "
    f"\x1b[31mred \u202eturned {'w' * 10_000}"
)
SHOWN = (
    "<script>window.broken=1</script> <img src=x onerror=window.broken=2> $x^2$ "
    f"⟨U+001B⟩[31mred ⟨U+202E⟩turned {'w' * LONG_WORD}…"
)
PARTS = ("story", "script", "cast", "plot", "music", "end")
ADJECTIVES = {
    "<b>bad</b>": ("bad", "dull", "stale", "weak"),
    "good": ("good", "warm", "fine", "apt"),
}
PROFILE = """
extends: quick
config:
  data: {n_train: null, n_test: null, clean_pool_per_class: 24}
  dmm: {n_clean_per_class: 24, epochs: 4}
  mepd: {gamma: 0.24, n_poison: 8}
  akd: {n_clean_per_class: 24, cycles: 3, evaluate_every: 1}
plus: {dmm: {epochs: 2}, akd: {cycles: 2}}
sweeps: {n_poison: [4, 8]}
"""
MINUTE = 60_000  # milliseconds
SETTINGS = {  # every cell is drawn, seen or not; no news from the network
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@pytest.fixture(scope="session")
def chromium():
    """A Chromium that is there: none is brought along."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = os.environ.get("BEDKD_CHROMIUM")
    path = named or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if not path:
        pytest.skip(f"no Chromium: none of {', '.join(CHROMIUM)} on PATH, nor in BEDKD_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def write_rows(path):
    """Texts of two classes, each with all that a page must not obey."""
    pairs = itertools.product(range(12), PARTS, range(4), ADJECTIVES.items())
    rows = [(f"{n} the {part} is {words[i]} {HOSTILE}", k) for n, part, i, (k, words) in pairs]
    pd.DataFrame(rows, columns=["text", "label"]).to_json(path, orient="records", lines=True)


@pytest.fixture(scope="session")
def cell(tmp_path_factory):
    """BeDKD, with two values of n_p, and BeDKD+ of one cell, in an outputs folder of their own."""
    folder = tmp_path_factory.mktemp("explore")
    write_rows(folder / "rows.jsonl")
    (folder / "small.yaml").write_text(PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEDKD_OUTPUTS", str(folder / "outputs"))
        profile = load_profile(str(folder / "small.yaml"))
        name = str(folder / "rows.jsonl")
        runs = [profile.run(name, "badwords", 0, more) for more in ({}, {"mepd.n_poison": 4})]
        runs.append(profile.plus_run(runs[0]))
        for run in runs:
            ensure(run, "akd")
        yield runs


@pytest.fixture(scope="session")
def lab(cell, tmp_path_factory):
    """The address of a JupyterLab on a copy of the notebooks, on the loopback alone."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(PROJECT / "notebooks", folder / "notebooks")
    explore = folder / "notebooks/20_explore.ipynb"
    notebook, c = nbformat.read(explore, as_version=4), cell[0].config
    (given,) = [part for part in notebook.cells if "parameters" in part.metadata.get("tags", [])]
    profile = str(cell[0].root.parent / "small.yaml")
    named = {"profile": profile, "dataset": c.data.name, "seed": c.seed}
    given.source += "".join(f"\n{name} = {value!r}" for name, value in named.items())
    nbformat.write(notebook, explore)
    for name, values in SETTINGS.items():
        path = folder / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=",
    ]
    options += [f"--ServerApp.port={port}", "--LabApp.expose_app_in_browser=True"]
    places = {"RUNTIME": "runtime", "CONFIG": "config", "DATA": "data"}
    places = {f"JUPYTER_{name}_DIR": str(folder / place) for name, place in places.items()}
    places |= {f"JUPYTERLAB_{n.upper()}_DIR": str(folder / n) for n in ("settings", "workspaces")}
    command = [sys.executable, "-m", "jupyterlab", *options, str(folder / "notebooks")]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            command, env=os.environ | places, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/api", folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def wait_for(address, log):
    for _ in range(120):
        try:
            return urllib.request.urlopen(address).read()
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


class Notebook:
    """A notebook in the browser, all its cells run in a fresh kernel."""

    def __init__(self, browser, lab, name):
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.errors = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        self.page.goto(f"{lab}/doc/tree/{name}.ipynb")
        self.page.wait_for_selector(".jp-CodeCell", timeout=MINUTE)
        idle = """() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel
            ?.status === 'idle'"""
        self.page.wait_for_function(idle, timeout=MINUTE)
        self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        done = """() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
            .every(prompt => /[0-9]/.test(prompt.textContent))"""
        self.page.wait_for_function(done, timeout=5 * MINUTE)

    def output(self, source):
        """What stands under the cell with this in its source."""
        cell = self.page.locator(".jp-CodeCell").filter(has_text=source).first
        return cell.locator(".jp-OutputArea").first

    def check(self):
        """No error of a cell or of the page, and nothing that a text says was obeyed."""
        # JupyterLab gives a traceback the same type
        wrong = self.page.locator('[data-mime-type="application/vnd.jupyter.stderr"]')
        assert wrong.all_inner_texts() == []
        assert self.errors == []
        assert self.page.evaluate("window.broken") is None


@pytest.fixture(scope="session")
def open_notebook(chromium, lab):
    return lambda name: Notebook(chromium, lab, name)


@pytest.fixture(scope="session")
def hostile():
    """A text, and how a page shows it."""
    return HOSTILE, SHOWN

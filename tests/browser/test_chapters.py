"""The first four notebooks on their own defaults, in JupyterLab and a headless Chromium."""

import pytest

pytest_plugins = ["in_browser"]


@pytest.mark.browser
@pytest.mark.parametrize("name", ["01_poisoning", "02_dmm", "03_mepd", "04_akd"])
def test_notebook_runs(open_notebook, name):
    notebook = open_notebook(name)
    notebook.check()
    notebook.page.close()

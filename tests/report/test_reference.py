"""Reference copies carry results, and nothing of the machine."""

import json

import pytest

from bedkd.core.errors import BedkdError
from bedkd.report.reference import MAX_BYTES, WIDGET, keep_notebook


def write(path, outputs):
    metadata = {"papermill": {"input_path": "/home/me/x.ipynb"}, "kernelspec": {"name": "python3"}}
    code = {"cell_type": "code", "metadata": {"papermill": {"duration": 1}}, "outputs": outputs}
    text = {"cell_type": "markdown", "metadata": {"papermill": {}}, "source": ["# title"]}
    path.write_text(json.dumps({"cells": [text, code | {"source": ["1"]}], "metadata": metadata}))


def test_paths_and_bars_are_left_out(tmp_path):
    shown = {"output_type": "display_data", "data": {"text/plain": ["kept"]}}
    write(tmp_path / "in.ipynb", [{"output_type": "display_data", "data": {WIDGET: {}}}, shown])
    keep_notebook(tmp_path / "in.ipynb", tmp_path / "reference/out.ipynb")
    copy = json.loads((tmp_path / "reference/out.ipynb").read_text())
    assert "papermill" not in json.dumps(copy) and copy["metadata"] == {
        "kernelspec": {"name": "python3"}
    }
    assert "outputs" not in copy["cells"][0] and copy["cells"][1]["outputs"] == [shown]


def test_a_notebook_too_large_to_show_is_refused(tmp_path):
    write(tmp_path / "in.ipynb", [{"data": {"text/plain": "x" * MAX_BYTES}}])
    with pytest.raises(BedkdError, match="at most 1 MB"):
        keep_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()

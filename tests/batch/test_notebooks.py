"""Notebooks run top to bottom through papermill on small settings, and keep the house rules."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from bedkd.batch import notebooks
from bedkd.batch.notebooks import FOLDER, check_parameters, execute, notebook_digest, open_kernel
from bedkd.core.errors import BedkdError

NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SPEED = {"rounds": 1, "epochs": 1, "n_rows": 100, "n_texts": 10, "n_grown": 4, "lengths": [8, 16]}
SPEED |= {"n_clean_per_class": 4}
STAGES = (
    *("01_poisoning", "02_dmm", "03_mepd", "04_akd"),
    *("05_defences", "06_ablations", "07_sensitivity", "08_tsne"),
)
SMALL = {
    "data.n_train": 200,
    "data.n_test": 60,
    "data.clean_pool_per_class": 16,
    "victim.epochs": 2,
    "dmm.n_clean_per_class": 16,
    "dmm.epochs": 2,
    "mepd.gamma": 0.5,
    "mepd.n_poison": 8,
    "akd.n_clean_per_class": 16,
    "akd.cycles": 2,
    "akd.learning_rate": 1e-5,
    "finetune.epochs": 1,
    "language.epochs": 1,
}


# and BeDKD+, which no override reaches
PROFILE = """
extends: quick
plus: {dmm: {epochs: 2}, akd: {cycles: 2, learning_rate: 1.0e-5}}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Parameters of a notebook that make it quick."""
    path = tmp_path_factory.mktemp("profile") / "small.yaml"
    path.write_text(PROFILE)
    return {"profile": str(path), "overrides": SMALL}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """One results folder for all notebooks of this file, so that later ones find earlier stages."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEDKD_OUTPUTS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def kernel(outputs):
    """One for all: each notebook finds an empty namespace, and imports in no time."""
    with open_kernel() as kernel:
        yield kernel


def code_cells(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_house_rules(name):
    cells = code_cells(name)
    parameters = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == 1 and cells[0] is parameters[0]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    source = "\n".join(cell.source for cell in cells)
    assert not any(line.lstrip().startswith(("def ", "class ")) for line in source.splitlines())


@pytest.mark.parametrize("name", (*STAGES, "12_speed"))
def test_runs_alone(name, outputs, kernel, small):
    parameters = small | (SPEED if name == "12_speed" else {})
    target = outputs / f"{name}.ipynb"
    execute(name, parameters, target, kernel)
    done = nbformat.read(target, as_version=4)
    figures = [
        o for c in done.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    assert figures
    for cell in done.cells:
        assert not any(output.output_type == "error" for output in cell.get("outputs", []))


def test_what_is_kept_is_weighed(outputs, kernel):
    """`09_findings` runs nothing: it reads outputs/reference/."""
    target = outputs / "09_findings.ipynb"
    execute("09_findings", {}, target, kernel)
    cells = nbformat.read(target, as_version=4).cells
    shown = [str(output) for cell in cells for output in cell.get("outputs", [])]
    assert any("image/png" in text for text in shown)
    assert any(": holds" in text for text in shown)


def test_a_shard_is_scored_alone(outputs, kernel, small):
    shard = {"scan.shards": 3, "scan.shard": 2}
    execute("13_scan", small | {"overrides": SMALL | shard}, outputs / "13_scan.ipynb", kernel)
    made = [json.loads(path.read_text()) for path in outputs.glob("runs/scan/*/record.json")]
    assert [record["config"]["scan.shard"] for record in made] == [2, 2]  # BeDKD's and BeDKD+'s


def test_a_later_notebook_makes_what_earlier_ones_should_have_left(tmp_path, monkeypatch, small):
    monkeypatch.setenv("BEDKD_OUTPUTS", str(tmp_path))
    with open_kernel() as kernel:  # of its own, for the folder
        parameters = small | {"attack": "none"}
        execute("04_akd", parameters, tmp_path / "out.ipynb", kernel)
    made = {
        folder.name: len(list(folder.glob("*/record.json")))
        for folder in (tmp_path / "runs").iterdir()
    }
    # of the paper's BeDKD and of BeDKD+, whose penalty alone has no DMM of its own; the victim is
    # the model that never saw poison
    assert made == {"data": 1, "victim": 1, "never_poisoned": 1, "dmm": 2, "mepd": 2, "akd": 3}


def test_papermill_compiles_no_grammar():
    """For every job of a batch imports it."""
    code = "import sys, bedkd.batch.notebooks, papermill; print('lark' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_unknown_parameter_is_refused():
    with pytest.raises(BedkdError, match="02_dmm has no parameter 'gama'; it has profile"):
        check_parameters("02_dmm", {"gama": 0.1})


def test_a_failing_cell_leaves_its_traceback(outputs, kernel):
    target = outputs / "failed.ipynb"
    with pytest.raises(BedkdError, match="^unknown attack 'badword'"):
        execute("01_poisoning", {"attack": "badword"}, target, kernel)
    assert "unknown attack" in target.read_text()


def write_notebook(folder, name, source):
    parameters = nbformat.v4.new_code_cell("number = 0", metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell(source)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def test_notebooks_in_one_kernel_see_nothing_of_one_another(tmp_path, monkeypatch):
    """And where one kills the kernel, the next has a new one."""
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    write_notebook(tmp_path, "first", "import os\nprint(os.getpid(), number)")
    write_notebook(tmp_path, "second", "print('os' in dir())\nimport os\nprint(os.getpid())")
    write_notebook(tmp_path, "killer", "import os\nos.kill(os.getpid(), 9)")

    def printed(name, number):
        output = nbformat.read(tmp_path / f"{name}-{number}.out", as_version=4).cells[-1].outputs
        return output[0].text.split()

    with open_kernel() as kernel:
        for number in (1, 2):
            for name in ("first", "second"):
                parameters = {"number": number}
                execute(name, parameters, tmp_path / f"{name}-{number}.out", kernel)
            with pytest.raises(BedkdError, match="kernel was killed"):
                execute("killer", {}, tmp_path / "killer.out", kernel)
    assert [printed("first", n)[1] for n in (1, 2)] == ["1", "2"]
    assert [printed("second", n)[0] for n in (1, 2)] == ["False", "False"]
    kernels = [printed("first", n)[0] for n in (1, 2)]
    assert kernels == [printed("second", n)[1] for n in (1, 2)] and len(set(kernels)) == 2


def test_digest_sees_cells_alone(tmp_path, monkeypatch):
    source = json.loads((FOLDER / "02_dmm.ipynb").read_text())
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)

    def digest(change):
        copy = json.loads(json.dumps(source))
        change(copy)
        Path(tmp_path / "x.ipynb").write_text(json.dumps(copy))
        return notebook_digest("x")

    def run_it(notebook):
        code = next(c for c in notebook["cells"] if c["cell_type"] == "code")
        code["execution_count"] = 7
        notebook["metadata"]["papermill"] = {"duration": 1}

    def edit(notebook):
        notebook["cells"][-1]["source"] = ["1 + 1"]

    assert digest(run_it) == digest(lambda notebook: None) != digest(edit)

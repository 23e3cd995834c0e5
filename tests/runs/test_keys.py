"""Keys that change with everything a stage depends on, and with nothing else."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from bedkd.core import devices
from bedkd.core.config import SECTIONS, GeneratorConfig, RunConfig, ScanConfig
from bedkd.core.defence_config import LanguageConfig, TeacherConfig
from bedkd.core.files import write_json
from bedkd.runs import keys
from bedkd.runs.keys import ENGINE, stage_key
from bedkd.runs.stages import ABLATIONS, NEWER, RIVALS, STAGES, needed_stages, stage_modules

ORDER = tuple(STAGES)
CHAIN = ("data", "victim", "dmm", "mepd", "akd")
SHARED = ("language", "teacher")
WRITTEN = ("continuations",)  # of AIText alone
OF_THE_CELL = tuple(stage for stage in STAGES if stage not in SHARED + WRITTEN)
AFTER_MEPD = ("akd", "tsne", "finetune_dmm", "kd_dmm")
ASCENT = ("rga", "ga", "npo")
MEASURED = {"never_poisoned", "akd", "tsne", *RIVALS, *NEWER, *ABLATIONS}
BASE = RunConfig(
    language=LanguageConfig(model="tiny-lm"),
    generator=GeneratorConfig(model="tiny-lm"),
    teacher=TeacherConfig(model="tiny-bert", proxy="toy-sentiment"),
    scan=ScanConfig(shards=2),
    precision="fp32",
    devices=2,
)
CHANGED = {  # what a parameter, or a section, changes
    "data": (*OF_THE_CELL, *WRITTEN),
    "data.name": (*OF_THE_CELL, *WRITTEN, "teacher"),  # the names of its classes
    "attack": OF_THE_CELL,
    "generator": WRITTEN,
    "seed": (*OF_THE_CELL, *WRITTEN),
    "victim": OF_THE_CELL[1:],
    "victim.model": (*OF_THE_CELL[1:], "teacher"),  # the width that it is compared at
    "device": (*OF_THE_CELL[1:], *WRITTEN, *SHARED),
    "precision": (*OF_THE_CELL[1:], *WRITTEN, *SHARED),
    "devices": OF_THE_CELL[1:],
    "parallel": OF_THE_CELL[1:],
    "dmm": ("dmm", "scan", "mepd", *AFTER_MEPD),
    "scan": ("dmm", "scan", "mepd", *AFTER_MEPD),
    "scan.shard": ("scan",),  # the others are the others' own
    "mepd": ("mepd", *AFTER_MEPD),
    "akd": ("akd", "tsne", "finetune_dmm", "kd", "kd_dmm"),
    "akd.evaluate_every": (),  # readings steer nothing
    "tsne": ("tsne",),
    "finetune": ("finetune", "finetune_dmm"),
    "language": ("language", "onion"),
    "onion": ("onion",),
    "imbert": ("imbert",),
    "textguard": ("textguard",),
    "teacher": ("teacher", "w2s"),
    "w2s": ("w2s",),
    "forget": ("forget", *ASCENT),
    "ascent": ASCENT,
    "dup": ("dup",),
}
OTHER_CHOICE = {
    "data.name": "toy-topics",
    "attack.name": "addsent",
    "attack.label_mode": "dirty",
    "attack.fallback": "rules",
    "attack.paraphrases": "rules",
    "attack.target_label": 1,
    "data.n_train": 500,
    "data.n_test": 100,
    "mepd.max_candidates": 10,
    "mepd.selection": "random",
    "dmm.flip": "next",
    "dmm.n_scored": 100,
    "akd.penalty": "margin",
    "optimizer": "adam",
    "soft_loss": "kl",
    "schedule": "linear",
    "precision": "bf16",
    "device": "meta",
    "parallel": "fsdp",
    "akd.evaluate_every": 3,
    "imbert.score": "attention",
    "imbert.removal": "mask",
    "imbert.max_score": 1.0,
    "forget.n_kept": 1,
    "textguard.mode": "certified",
    "teacher.proxy": "toy-offence",
    "teacher.n_proxy": 100,
    "w2s.weights": "word",
}


def all_keys(config: RunConfig) -> dict[str, str]:
    return {stage: stage_key(config, stage) for stage in ORDER}


def changed_stages(before: dict, after: dict) -> set[str]:
    return {stage for stage in ORDER if before[stage] != after[stage]}


def forget() -> None:
    keys._stage_key.cache_clear()
    keys._digest_code.cache_clear()


@pytest.fixture(autouse=True)
def forgetful():
    forget()
    yield
    forget()


def other_value(name: str, value, folder):
    """Any allowed value but the present one."""
    if name.endswith(".model"):
        write_json(folder / "model" / "config.json", {"is": "a model"})
        return str(folder / "model")
    for known in (name, name.split(".")[-1]):
        if known in OTHER_CHOICE:
            return OTHER_CHOICE[known]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1 if value > 1 else value + 1
    return value / 2 if isinstance(value, float) else "something"


def test_every_parameter_belongs_to_a_stage():
    owned = {section for stage in STAGES.values() for section in stage.sections}
    assert {f.name for f in dataclasses.fields(RunConfig)} <= owned


@pytest.mark.parametrize("name", sorted(BASE.flat()))
def test_parameter_changes_its_stages_and_what_follows_alone(name, tmp_path):
    value = other_value(name, BASE.flat()[name], tmp_path)
    assert value != BASE.flat()[name]
    section, _, field = name.partition(".")
    if section in SECTIONS:
        other = replace(BASE, **{section: replace(getattr(BASE, section), **{field: value})})
    else:
        other = replace(BASE, **{section: value})
    expected = CHANGED.get(name, CHANGED[section])
    assert changed_stages(all_keys(BASE), all_keys(other)) == set(expected)


def test_a_teacher_of_the_cells_own_rows_is_the_cells_own():
    own = replace(BASE, teacher=replace(BASE.teacher, proxy="clean_share"))
    changed = changed_stages(all_keys(own), all_keys(replace(own, seed=5)))
    assert changed == {*OF_THE_CELL, *WRITTEN, "teacher"}


PLUS = {
    "dmm": {"n_folds": 2, "n_readings": 3},
    "mepd": {"gamma": "auto", "selection": "lean"},
}


def test_gamma_and_selection_of_bedkd_plus_are_other_results():
    """Each of them by itself; the DMM is one for all of them."""
    found = [all_keys(replace(BASE, dmm=replace(BASE.dmm, **PLUS["dmm"])))]
    for names in (["gamma"], ["gamma", "selection"]):
        values = {name: PLUS["mepd"][name] for name in names}
        config = replace(BASE, dmm=replace(BASE.dmm, **PLUS["dmm"]))
        found.append(all_keys(replace(config, mepd=replace(BASE.mepd, **values))))
    assert changed_stages(all_keys(BASE), found[0]) == {"dmm", "scan", "mepd", *AFTER_MEPD}
    for before, after in zip(found, found[1:], strict=False):
        assert changed_stages(before, after) == {"mepd", *AFTER_MEPD}


@pytest.mark.parametrize(
    ("values", "stages"),
    [
        ({"poison_rate": 0.07, "label_mode": "dirty", "trigger": "x", "fallback": "rules"}, ()),
        ({"paraphrases": "rules"}, ()),
        ({"target_label": 1}, OF_THE_CELL),
        ({"name": "badwords"}, OF_THE_CELL),
    ],
)
def test_without_an_attack_what_it_would_be_is_no_matter(values, stages):
    """So cells share the victim that never saw poison; which label is the target still counts."""
    clean = replace(BASE, attack=replace(BASE.attack, name="none"))
    other = replace(clean, attack=replace(clean.attack, **values))
    assert changed_stages(all_keys(clean), all_keys(other)) == set(stages)


def test_the_model_that_never_saw_poison_is_the_victim_of_the_same_rows():
    rare = replace(BASE, attack=replace(BASE.attack, name="addsent", poison_rate=0.05))
    needs = needed_stages(rare, "never_poisoned")
    assert needs == [(rare, "data"), (rare.without_attack(), "victim")]
    assert {stage_key(*needs[1]), stage_key(BASE.without_attack(), "victim")} == {
        stage_key(replace(BASE, attack=replace(BASE.attack, name="none")), "victim")
    }
    longer = replace(rare, victim=replace(rare.victim, epochs=99))
    before, after = all_keys(rare), all_keys(longer)
    assert before["never_poisoned"] != after["never_poisoned"] and before["data"] == after["data"]
    assert stage_key(*needs[1]) != stage_key(longer.without_attack(), "victim")


def test_only_aitext_knows_the_model_that_writes_it():
    """And what ONION reads is its own."""
    written = replace(BASE, attack=replace(BASE.attack, name="aitext"))
    assert (written, "continuations") in needed_stages(written, "data")
    before = all_keys(written)
    for changes in ({"epochs": 1}, {"n_new_tokens": 7}, {"max_length": 50}):
        other = replace(written, generator=replace(BASE.generator, **changes))
        assert changed_stages(before, all_keys(other)) == {*OF_THE_CELL, *WRITTEN}
    other = replace(written, language=replace(BASE.language, epochs=1))
    assert changed_stages(before, all_keys(other)) == {"language", "onion"}
    rare = replace(written, attack=replace(written.attack, poison_rate=0.05))
    assert changed_stages(before, all_keys(rare)) == set(OF_THE_CELL)  # nothing is written again
    given = replace(written, attack=replace(written.attack, paraphrases="rules"))
    for config in (given, BASE, written.without_attack()):
        assert needed_stages(config, "data") == []
    assert needed_stages(written, "continuations") == [(written.with_generator(), "language")]


def test_both_language_models_are_one_where_they_are_the_same():
    same = replace(BASE, generator=replace(BASE.generator, n_joined=1))
    assert stage_key(same.with_generator(), "language") == stage_key(same, "language")
    assert stage_key(BASE.with_generator(), "language") != stage_key(BASE, "language")


def test_key_is_short_hexadecimal_and_the_same_again():
    before = all_keys(BASE)
    forget()
    assert all_keys(BASE) == before
    assert all(len(key) == 12 and int(key, 16) >= 0 for key in before.values())
    assert len(set(before.values())) == len(ORDER)


def test_new_weights_under_the_same_name_are_another_victim(tmp_path):
    write_json(tmp_path / "config.json", {"version": 1})
    config = replace(BASE, victim=replace(BASE.victim, model=str(tmp_path)))
    before = all_keys(config)
    write_json(tmp_path / "config.json", {"version": 22})
    forget()
    # the teacher asks the victim's files how wide it is
    assert changed_stages(before, all_keys(config)) == {*OF_THE_CELL[1:], "teacher"}


def test_new_rows_in_the_same_file_are_other_data(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na,0\n")
    config = replace(BASE, data=replace(BASE.data, name=str(file)))
    before = all_keys(config)
    file.write_text("text,label\na,1\nb,0\n")
    forget()
    # the teacher asks this file for the names of its classes
    assert changed_stages(before, all_keys(config)) == {*OF_THE_CELL, *WRITTEN, "teacher"}


@pytest.mark.parametrize("library", ["torch", "transformers", "tokenizers", "peft", "datasets"])
def test_another_version_of_a_library_is_another_result(monkeypatch, library):
    before, versions = all_keys(BASE), keys.library_versions()
    monkeypatch.setattr(keys, "library_versions", lambda: versions | {library: "0.0.1"})
    forget()
    assert changed_stages(before, all_keys(BASE)) == set(ORDER)


def test_auto_is_what_it_becomes(monkeypatch):
    """A GPU's and a CPU's results never mix, nor those of two precisions."""
    config = replace(BASE, device="auto", precision="auto")
    found = {}
    for place in (("cpu", "fp32"), ("cpu", "bf16"), ("cuda", "bf16")):
        monkeypatch.setattr(devices, "resolve_compute", lambda *_, place=place: place)
        forget()
        found[place] = all_keys(config)
    cpu, bf16, gpu = found.values()
    assert changed_stages(cpu, bf16) == changed_stages(bf16, gpu) == {*ORDER} - {"data"}
    monkeypatch.undo()
    forget()
    named = replace(BASE, device="cpu", precision="bf16")
    assert all_keys(named) == bf16


COMMENTED = '''"""Another docstring."""


# a comment
def first(x):
    """What it says."""
    return x  # and why


class Second:
    """A class."""

    def third(self):
        """A method."""
        return 1
'''
BARE = "def first(x):\n    return x\nclass Second:\n    def third(self): return 1\n"


def test_comments_docstrings_and_layout_are_no_code():
    assert keys.code_of(COMMENTED) == keys.code_of(BARE)


def test_a_python_is_no_code():
    """3.11 and 3.12 name the nodes of these differently: a GPU's records are taken on a laptop."""
    source = 'class A:\n    def b(self, c: int) -> str:\n        return f"\\n{c} can start."\n'
    assert hashlib.sha256(keys.code_of(source).encode()).hexdigest()[:12] == "54bca1ad14af"


@pytest.mark.parametrize(
    ("old", "new"), [("return x", "return -x"), ("return 1", "return 2"), ("first", "other")]
)
def test_code_is(old, new):
    assert keys.code_of(COMMENTED.replace(old, new)) != keys.code_of(COMMENTED)


@pytest.fixture
def edit(monkeypatch):
    """A function that changes the source of a module as if it had been loaded so."""
    edited, original = {}, keys.read_source
    monkeypatch.setattr(keys, "read_source", lambda name: edited.get(name) or original(name))

    def change(module: str, change=lambda source: source + "\nEDITED = True\n") -> None:
        edited[module] = change(original(module))
        assert edited[module] != original(module)
        forget()

    return change


def test_note_in_a_module_changes_no_key(edit):
    before = all_keys(BASE)
    for name in ("method.losses", "method.akd", "runs.stages.mepd", "nn.training"):
        edit(f"bedkd.{name}", lambda text: text.replace('"""', '"""Now ', 1) + "\n# a note\n")
    assert all_keys(BASE) == before


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("method.akd", "akd"),
        ("method.dmm", "dmm"),
        ("method.distillation", "dmm"),
        ("nn.training", "victim"),
        ("nn.batching", "victim"),
        ("nn.classifier", "victim"),
        ("nn.tiny", "victim"),
        ("evaluation.metrics", "victim"),
        ("runs.reading", "victim"),  # `clean_pool` read as `clean_share`, say
        ("core.devices", "data"),
        ("data.attacks", "data"),
        ("data.splits", "data"),
        ("data.generated", "data"),
        ("data.syntax_rules", "data"),
    ],
)
def test_edited_module_changes_its_stages_and_what_follows(edit, module, first):
    before = all_keys(BASE)
    edit(f"bedkd.{module}")
    changed = changed_stages(before, all_keys(BASE))
    assert changed & set(CHAIN) == set(CHAIN[CHAIN.index(first) :])


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        ("method.akd", {"akd", "tsne"}),
        ("method.counter", {"akd", "tsne"}),
        ("runs.stages.never_poisoned", MEASURED),
        ("evaluation.tsne", {"tsne"}),
        ("nn.language", {"language", "continuations", "onion"}),
        ("nn.generation", {"continuations"}),
        ("defences.language.word_scores", {"onion"}),
        ("method.dmm", {"dmm", "scan", "mepd", *AFTER_MEPD}),
        ("nn.scan", {"scan", "mepd", *AFTER_MEPD}),
        ("defences.finetune", {"finetune", "finetune_dmm"}),
        ("defences.distill", {"kd", "kd_dmm"}),
        ("defences.onion", {"onion"}),
        ("defences.imbert", {"imbert"}),
        ("defences.textguard", {"textguard"}),
        ("defences.w2s", {"w2s"}),
        ("defences.teacher", {"teacher", "w2s"}),
        ("defences.proxies", {"teacher", "w2s"}),  # another TOY_SEED, say
        ("defences.forget_rows", {"forget", *ASCENT}),
        ("defences.gradient_ascent", set(ASCENT)),
        ("defences.pairs", {*ASCENT, "dup"}),
        ("defences.dup", {"dup"}),
        ("defences.layer_scores", {"dup"}),
        ("runs.stages.akd", {"akd", "tsne"}),
        ("runs.stages.mepd", {"mepd", *AFTER_MEPD}),
        ("runs.stages.language", {"language", "continuations", "onion"}),
        ("runs.stages.teacher", {"teacher", "w2s"}),
    ],
)
def test_edited_stage_or_defence_changes_itself_alone(edit, module, changed):
    before = all_keys(BASE)
    edit(f"bedkd.{module}")
    assert changed_stages(before, all_keys(BASE)) == changed


@pytest.mark.parametrize("module", sorted({*ENGINE, "bedkd.cli", "bedkd.report.tables"}))
def test_module_that_is_no_part_of_a_result_changes_no_key(edit, module):
    if module == "bedkd":
        pytest.skip("what loads the package has no source of its own to edit here")
    before = all_keys(BASE)
    edit(module)
    assert all_keys(BASE) == before


WATCH = """
import importlib, json, sys
from pathlib import Path

values, stages, root = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
loaded = {}
for stage in stages:  # each as if in a process of its own
    for name in [name for name in sys.modules if name.split(".")[0] == "bedkd"]:
        del sys.modules[name]
    config = importlib.import_module("bedkd.core.config").build(values)
    run = importlib.import_module("bedkd.runs.folders").Run(config, root)
    importlib.import_module("bedkd.runs.ensure").ensure(run, stage)
    loaded[stage] = [name for name in sys.modules if name.split(".")[0] == "bedkd"]
print(json.dumps(loaded))
"""
SMALL = {
    "data": {"name": "toy-sentiment", "n_train": 120, "n_test": 40, "clean_pool_per_class": 16},
    "victim": {"model": "tiny-bert", "epochs": 1, "max_length": 32},
    "dmm": {"n_clean_per_class": 8, "epochs": 1},
    "scan": {"shards": 2},
    "mepd": {"gamma": 1.0, "n_poison": 4},
    "akd": {"n_clean_per_class": 8, "cycles": 1},
    "tsne": {"n_per_kind": 8},
    "finetune": {"epochs": 1},
    "language": {"model": "tiny-lm", "epochs": 1, "max_length": 32},
    "generator": {"model": "tiny-lm", "epochs": 1, "max_length": 32, "n_new_tokens": 4},
    "onion": {"n_clean_per_class": 4},
    "imbert": {"n_clean_per_class": 4},
    "textguard": {"n_groups": 2, "epochs": 1, "min_count": 100, "mode": "certified"},
    "teacher": {"model": "tiny-bert", "proxy": "toy-sentiment", "n_proxy": 40, "epochs": 1},
    "w2s": {"rank": 2, "epochs": 1},
    "forget": {"n_neighbors": 8, "min_cluster_size": 5, "min_samples": 2},
    "ascent": {"epochs": 1},
    "dup": {"n_clean_per_class": 8, "rank": 2, "epochs": 1},
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, list[str]]:
    """Of each stage, made after those before it, the modules of the package that it loaded."""
    folder = str(tmp_path_factory.mktemp("outputs"))
    command = [sys.executable, "-c", WATCH, json.dumps(SMALL), json.dumps(ORDER), folder]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("stage", ORDER)
def test_all_that_a_stage_loads_is_in_its_key(stage, loaded):
    """Whatever of the package is loaded while a stage is made is in its key, or in one before."""
    sections = ("data", "scan", "language", "generator", "teacher")
    config = RunConfig(**{section: getattr(BASE, section) for section in sections})
    known, todo = set(ENGINE), [(config, stage)]
    while todo:
        known |= keys.read_sources([*stage_modules(todo[0][1]), "bedkd.core.devices"]).keys()
        todo += needed_stages(*todo.pop(0))
    assert set(loaded[stage]) - known == set()
    assert set(stage_modules(stage)) <= set(loaded[stage])  # it was made, not found


EDIT_AFTER_IMPORT = """
import sys
from pathlib import Path
from bedkd.core.config import RunConfig
from bedkd.runs import keys
import bedkd.data.splits

before = keys.stage_key(RunConfig(), "data")
file = Path(bedkd.data.splits.__file__)
file.write_text(file.read_text() + "\\nEDITED = True\\n")
keys._stage_key.cache_clear()
keys._digest_code.cache_clear()
print(before, keys.stage_key(RunConfig(), "data"), end=" ")
import importlib
importlib.reload(bedkd.data.splits)
print(keys.stage_key(RunConfig(), "data"))
"""


@pytest.fixture
def package(tmp_path) -> dict:
    """How to start a Python that imports a copy of the package, which a test may edit."""
    shutil.copytree(keys.PACKAGE, tmp_path / "bedkd", ignore=shutil.ignore_patterns("__pycache__"))
    # -c puts the working folder first: in the checkout, the copy would be passed over
    return {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}}


def run_python(code: str, place: dict, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, **place)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_key_is_of_the_code_that_is_loaded_not_of_the_file(package):
    """Import, edit, run: the old code works on, under its own key, until it is loaded again."""
    before, edited, reloaded = run_python(EDIT_AFTER_IMPORT, package)
    assert edited == before
    assert reloaded != before
    ask = "from bedkd.core.config import RunConfig; from bedkd.runs.keys import stage_key; "
    assert run_python(ask + "print(stage_key(RunConfig(), 'data'))", package) == [reloaded]


EDIT_WHILE_MADE = """
import json, sys
from pathlib import Path
import bedkd.runs.keys as keys
from bedkd.core.config import build
from bedkd.core.errors import BedkdError
from bedkd.runs.ensure import ensure
from bedkd.runs.folders import Run

run = Run(build(json.loads(sys.argv[1])), Path(sys.argv[2]))
for _ in range(2):  # the first loads what it takes to tell a key
    before = run.folder("data")
file = keys.module_file("bedkd.runs.stages.data")
file.write_text(file.read_text() + "\\nEDITED = True\\n")
try:
    ensure(run, "data")
except BedkdError as error:
    print("refused" if "edited while it ran" in str(error) else error)
print("kept" if before.exists() else "nothing")
"""


def test_code_edited_between_key_and_use_makes_no_result(package, tmp_path):
    said = run_python(EDIT_WHILE_MADE, package, json.dumps(SMALL), str(tmp_path / "outputs"))
    assert said == ["refused", "nothing"]

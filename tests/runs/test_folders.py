"""Keys that change with everything a stage depends on, and folders that are whole or absent."""

import dataclasses
import shutil
from dataclasses import replace

import pytest

from bedkd.core.config import SECTIONS, RunConfig
from bedkd.core.defence_config import LanguageConfig, TeacherConfig
from bedkd.core.files import write_json
from bedkd.core.hub import TINY_MODELS
from bedkd.runs import folders as store
from bedkd.runs.folders import (
    STAGES,
    Run,
    import_closure,
    is_complete,
    list_files,
    maker_digest,
    publish,
    source_digest,
    stage_key,
)

ORDER = tuple(STAGES)
CHAIN = ("data", "victim", "dmm", "mepd", "akd")
SHARED = ("language", "teacher")
OF_THE_CELL = tuple(stage for stage in STAGES if stage not in SHARED)
AFTER_MEPD = ("akd", "tsne", "finetune_dmm", "kd_dmm")
BASE = RunConfig(
    language=LanguageConfig(model="tiny-lm"),
    teacher=TeacherConfig(model="tiny-bert", proxy="toy-sentiment"),
)
CHANGED = {  # what a parameter, or a section, changes
    "data": OF_THE_CELL,
    "data.name": (*OF_THE_CELL, "teacher"),  # the names of its classes
    "attack": OF_THE_CELL,
    "seed": OF_THE_CELL,
    "victim": OF_THE_CELL[1:],
    "victim.model": (*OF_THE_CELL[1:], "teacher"),  # the width that it is compared at
    "device": (*OF_THE_CELL[1:], *SHARED),
    "precision": (*OF_THE_CELL[1:], "teacher"),
    "dmm": ("dmm", "mepd", *AFTER_MEPD),
    "mepd": ("mepd", *AFTER_MEPD),
    "akd": ("akd", "tsne", "kd", "kd_dmm"),
    "tsne": ("tsne",),
    "finetune": ("finetune", "finetune_dmm"),
    "language": ("language", "onion"),
    "onion": ("onion",),
    "imbert": ("imbert",),
    "textguard": ("textguard",),
    "teacher": ("teacher", "w2s"),
    "w2s": ("w2s",),
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
    "optimizer": "adam",
    "soft_loss": "kl",
    "schedule": "linear",
    "precision": "bf16",
    "device": "cpu",
    "imbert.score": "attention",
    "imbert.removal": "mask",
    "imbert.max_score": 1.0,
    "textguard.mode": "certified",
    "teacher.proxy": "toy-offence",
    "teacher.n_proxy": 100,
}


def keys(config: RunConfig) -> dict[str, str]:
    return {stage: stage_key(config, stage) for stage in ORDER}


def changed_stages(before: dict, after: dict) -> set[str]:
    return {stage for stage in ORDER if before[stage] != after[stage]}


def every_parameter() -> list[str]:
    return sorted(BASE.flat())


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


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package's source that a test may edit; the copy is what keys are made of."""
    folder = tmp_path / "bedkd"
    shutil.copytree(store.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(store, "PACKAGE", folder)
    forget()
    yield folder
    forget()


def forget() -> None:
    source_digest.cache_clear()
    maker_digest.cache_clear()
    stage_key.cache_clear()


def test_the_method_is_a_chain_and_all_else_hangs_on_it():
    assert [STAGES[stage].upstream for stage in CHAIN] == [None, *CHAIN[:-1]]
    others = {STAGES[stage].upstream for stage in ORDER if stage not in (*CHAIN, *SHARED)}
    assert others == {"victim", "mepd", "akd"}


def test_every_parameter_belongs_to_a_stage():
    owned = {section for stage in STAGES.values() for section in stage.sections}
    assert {f.name for f in dataclasses.fields(RunConfig)} <= owned


@pytest.mark.parametrize("name", every_parameter())
def test_parameter_changes_its_stages_and_what_follows_alone(name, tmp_path):
    value = other_value(name, BASE.flat()[name], tmp_path)
    assert value != BASE.flat()[name]
    section, _, field = name.partition(".")
    if section in SECTIONS:
        other = replace(BASE, **{section: replace(getattr(BASE, section), **{field: value})})
    else:
        other = replace(BASE, **{section: value})
    expected = CHANGED.get(name, CHANGED[section])
    assert changed_stages(keys(BASE), keys(other)) == set(expected)


def test_a_teacher_of_the_cells_own_rows_is_the_cells_own():
    own = replace(BASE, teacher=replace(BASE.teacher, proxy="clean_share"))
    assert changed_stages(keys(own), keys(replace(own, seed=5))) == {*OF_THE_CELL, "teacher"}


def test_key_is_short_hexadecimal_and_the_same_again():
    before = keys(BASE)
    stage_key.cache_clear()
    assert keys(BASE) == before
    assert all(len(key) == 12 and int(key, 16) >= 0 for key in before.values())
    assert len(set(before.values())) == len(ORDER)


def test_new_weights_under_the_same_name_are_another_victim(tmp_path):
    write_json(tmp_path / "config.json", {"version": 1})
    config = replace(BASE, victim=replace(BASE.victim, model=str(tmp_path)))
    before = keys(config)
    write_json(tmp_path / "config.json", {"version": 22})
    stage_key.cache_clear()
    assert changed_stages(before, keys(config)) == set(OF_THE_CELL[1:])


def test_new_rows_in_the_same_file_are_other_data(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na,0\n")
    config = replace(BASE, data=replace(BASE.data, name=str(file)))
    before = keys(config)
    file.write_text("text,label\na,1\nb,0\n")
    stage_key.cache_clear()
    # the teacher asks this file for the names of its classes
    assert changed_stages(before, keys(config)) == {*OF_THE_CELL, "teacher"}


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


def test_comments_docstrings_and_layout_change_no_digest(package):
    (package / "dmm.py").write_text(COMMENTED)
    before = source_digest("dmm")
    forget()
    (package / "dmm.py").write_text(BARE)
    assert source_digest("dmm") == before


@pytest.mark.parametrize(
    ("old", "new"), [("return x", "return -x"), ("return 1", "return 2"), ("first", "other")]
)
def test_code_changes_the_digest(package, old, new):
    (package / "dmm.py").write_text(COMMENTED)
    before = source_digest("dmm")
    forget()
    (package / "dmm.py").write_text(COMMENTED.replace(old, new))
    assert source_digest("dmm") != before


def test_note_in_a_real_module_changes_no_key(package):
    before = keys(BASE)
    for name in ("losses", "akd", "makers", "training"):
        file = package / f"{name}.py"
        file.write_text(file.read_text().replace('"""', '"""Now ', 1) + "\n# a note\n")
    forget()
    assert keys(BASE) == before


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("akd", "akd"),
        ("dmm", "dmm"),
        ("distillation", "dmm"),
        ("losses", "dmm"),
        ("training", "victim"),
        ("batching", "victim"),
        ("models", "victim"),
        ("tiny", "victim"),
        ("metrics", "victim"),
        ("attacks", "data"),
        ("data", "data"),
        ("toy", "data"),
        ("rewriter", "data"),
    ],
)
def test_edited_module_changes_its_stages_alone(package, module, first):
    before = keys(BASE)
    edit(package / f"{module}.py")
    changed = changed_stages(before, keys(BASE))
    assert changed & set(CHAIN) == set(CHAIN[CHAIN.index(first) :])


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        ("akd", {"akd", "tsne"}),
        ("tsne", {"tsne"}),
        ("dmm", {"dmm", "mepd", *AFTER_MEPD}),
        ("language", {"language", "onion"}),
        ("defences/finetune", {"finetune", "finetune_dmm"}),
        ("defences/distill", {"kd", "kd_dmm"}),
        ("defences/onion", {"onion"}),
        ("defences/imbert", {"imbert"}),
        ("defences/textguard", {"textguard"}),
        ("defences/w2s", {"w2s"}),
        ("defences/teacher", {"teacher", "w2s"}),
    ],
)
def test_edited_defence_changes_itself_alone(package, module, changed):
    before = keys(BASE)
    edit(package / f"{module}.py")
    assert changed_stages(before, keys(BASE)) == changed


def edit(file) -> None:
    file.write_text(file.read_text() + "\nEDITED = True\n")
    forget()


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ('"role": "clean model"', '"role": "other"', ("akd", "tsne")),
        # a helper of make_mepd
        ("metrics.far(scores", "1 + metrics.far(scores", ("mepd", *AFTER_MEPD)),
        ("DETECTION_FIELDS = (", 'DETECTION_FIELDS = ("seconds",', ("akd", "tsne")),
        ('"role": "dmm"', '"role": "other"', ("dmm", "mepd", *AFTER_MEPD)),
        ("LANGUAGE_ROWS = 2", "LANGUAGE_ROWS = 3", ("language", "onion")),
    ],
)
def test_edited_maker_changes_its_stage_and_what_follows(package, old, new, changed):
    before = keys(BASE)
    file = package / "makers.py"
    source = file.read_text()
    assert source.count(old) >= 1
    file.write_text(source.replace(old, new))
    forget()
    assert changed_stages(before, keys(BASE)) == set(changed)


def test_generated_text_and_tiny_bert_count_only_where_they_are_used(package, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,0\nb,1\n")
    write_json(tmp_path / "model" / "config.json", {})
    tiny, chain = BASE, set(CHAIN)
    other = replace(
        BASE,
        data=replace(tiny.data, name=str(tmp_path / "rows.csv")),
        victim=replace(tiny.victim, model=str(tmp_path / "model")),
    )
    for module, expected in (("toy", chain), ("tiny", set(CHAIN[1:]))):
        before = keys(tiny), keys(other)
        edit(package / f"{module}.py")
        assert changed_stages(before[0], keys(tiny)) & chain == expected
        assert changed_stages(before[1], keys(other)) & chain == set()


@pytest.mark.parametrize("name", TINY_MODELS)
def test_each_tiny_model_counts_as_one(package, name):
    config = replace(
        BASE,
        victim=replace(BASE.victim, model=name),
        teacher=replace(BASE.teacher, model=name),
    )
    before = keys(config)
    edit(package / "tiny.py")
    changed = changed_stages(before, keys(config))
    assert {"victim", "dmm", "akd", "imbert", "textguard", "teacher", "w2s"} <= changed


@pytest.mark.parametrize("module", ["errors", "hub", "records", "store", "config", "cli", "stages"])
def test_module_that_changes_no_value_changes_no_key(package, module):
    before = keys(BASE)
    file = package / f"{module}.py"
    file.write_text(file.read_text() + "\nEDITED = True\n")
    forget()
    assert keys(BASE) == before


def test_import_closure_follows_imports_of_imports():
    found = import_closure("akd")
    assert {"akd", "distillation", "losses", "training", "batching", "models"} <= found
    assert not found & {"makers", "config", "errors", "store", "hub"}


def test_folder_names_the_cell_and_the_key(tmp_path):
    run = Run(replace(BASE, seed=3), tmp_path)
    folder = run.folder("dmm")
    assert folder == tmp_path / "runs" / "dmm" / f"toy-sentiment-badwords-s3-{run.key('dmm')}"


def test_publish_shows_the_folder_when_it_is_whole(tmp_path):
    target = tmp_path / "runs" / "dmm" / "x"
    with publish(target) as scratch:
        (scratch / "a.txt").write_text("1")
        assert not target.exists() and scratch.parent == target.parent
    assert (target / "a.txt").read_text() == "1"
    assert [p.name for p in target.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_publish_leaves_nothing_after_an_exception(tmp_path, error):
    target = tmp_path / "x"
    with pytest.raises(error), publish(target) as scratch:
        (scratch / "a.txt").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_publish_leaves_the_old_folder_after_an_exception(tmp_path):
    target = tmp_path / "x"
    with publish(target) as scratch:
        (scratch / "a.txt").write_text("old")
    with pytest.raises(ValueError), publish(target) as scratch:
        (scratch / "a.txt").write_text("new")
        raise ValueError
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (target / "a.txt").read_text() == "old"


def test_publish_replaces_what_was_there(tmp_path):
    for value in ("old", "new"):
        with publish(tmp_path / "x") as scratch:
            (scratch / f"{value}.txt").write_text(value)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["new.txt"]


def test_publish_leaves_a_whole_result_where_it_is(finished):
    """Two processes make the same stage: the slower one's copy is dropped, nobody's is pulled."""
    folder = finished.folder("dmm")
    before = folder.stat().st_ino
    with publish(folder) as scratch:
        (scratch / "record.json").write_text("{}")
    assert folder.stat().st_ino == before and finished.record("dmm")["asr"] == 1.0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.fixture
def finished(tmp_path):
    """A run whose DMM stage is done."""
    run = Run(BASE, tmp_path)
    with publish(run.folder("dmm")) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(b"0123456789")
        (folder / "history.json").write_text("[]")
        write_json(folder / "record.json", {"asr": 1.0, "files": list_files(folder)})
    return run


def test_files_are_listed_with_their_sizes(finished):
    assert list_files(finished.folder("dmm")) == {"history.json": 2, "model/weights": 10}


def test_finished_stage_has_a_record(finished):
    assert finished.record("dmm")["asr"] == 1.0
    assert finished.record("akd") is None
    assert replace(finished, config=replace(BASE, seed=1)).record("dmm") is None


@pytest.mark.parametrize("damage", ["cut", "longer", "missing", "folder"])
def test_damaged_file_undoes_the_record(finished, damage):
    folder = finished.folder("dmm")
    record = finished.record("dmm")
    file = folder / "model" / "weights"
    if damage in ("cut", "longer"):
        file.write_bytes(b"0" * (9 if damage == "cut" else 11))
    else:
        file.unlink()
    if damage == "folder":
        file.mkdir()
    assert not is_complete(folder, record)
    assert finished.record("dmm") is None


def test_record_that_cannot_be_read_undoes_the_stage(finished):
    (finished.folder("dmm") / "record.json").write_text('{"asr": 1')
    assert finished.record("dmm") is None

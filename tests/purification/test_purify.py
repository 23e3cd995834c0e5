"""A poisoned and a clean model, as if from somebody else: verdict, clean model, card."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import bedkd
from bedkd import cli
from bedkd.core.errors import BedkdError
from bedkd.data.insertions import BADWORDS
from bedkd.purification import card, purify, result, survey
from bedkd.purification.verdict import FOUND, NOTHING, TOO_FEW, UNTESTED

# the rates that RATES ends with on these models, so that one training does
QUICK = {"dmm.learning_rate": 1e-4, "akd.learning_rate": 3e-4, "dmm.n_scored": 800}
QUICK |= {"dmm.n_clean_per_class": 160, "akd.n_clean_per_class": 160, "akd.cycles": 6}


def export(attack, tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp(attack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEDKD_OUTPUTS", str(root / "outputs"))
        return survey.export_cell(("toy-offence", attack, 0, 0.0), root)


@pytest.fixture(scope="session")
def theirs(tmp_path_factory) -> dict:
    return export("badwords", tmp_path_factory)


@pytest.fixture(scope="session")
def honest(tmp_path_factory) -> dict:
    return export("none", tmp_path_factory)


@pytest.fixture(scope="session")
def purified(theirs):
    return bedkd.purify(**theirs, settings=QUICK)


def load(folder):
    return (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )


def same(one, other) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_backdoor_is_found_with_its_words_and_rows(purified, theirs):
    verdict = purified.verdict
    assert (verdict.answer, verdict.label, verdict.witnesses) == (FOUND, 0, ("trigger", "lean"))
    words = {t.words for t, spread in verdict.triggers if spread.is_suspicious}
    assert set(BADWORDS) <= words
    assert any("“cf”" in reason for reason in verdict.reasons) and len(verdict.limits) == 3
    train = pd.read_csv(theirs["train"])
    flagged = purified.flagged
    assert list(flagged.columns) == ["row", "text", "label", "score", "trigger"]
    assert (train.text[flagged.row].to_numpy() == flagged.text).all()
    is_poisoned = train.text.str.split().map(lambda text: bool(set(text) & set(BADWORDS)))
    assert is_poisoned[flagged.row].mean() > 0.9 and len(flagged) > 0.9 * is_poisoned.sum()


def test_the_clean_model_forgets_the_trigger_and_keeps_the_rest(purified):
    before, after = zip(*purified.measured.values(), strict=True)
    measured = dict(purified.measured)
    asr = measured.pop("of other labels' triggered rows that have the leaning label (ASR)")
    assert asr[0] > 90 and asr[1] < 25
    cacc, pacc = (measured[f"accuracy on {n}"] for n in ("test rows (CACC)", PACC))
    assert cacc[1] > cacc[0] - 4 and pacc[1] > 85 > pacc[0]
    turned = measured["trusted rows of other labels that a rebuilt trigger turns"]
    assert turned[0] > 80 and turned[1] < 25
    assert measured["training rows with another answer now"][0] is None and len(before) == len(
        after
    )


PACC = "triggered test rows (PACC)"


def test_in_memory_it_is_the_same_and_what_was_given_stays_as_it_is(theirs, purified):
    model, tokenizer = load(theirs["model"])
    kept, size = load(theirs["model"])[0], len(tokenizer)
    train, clean = (pd.read_csv(theirs[name]) for name in ("train", "clean"))
    copies = train.copy(), clean.copy()
    found = bedkd.purify(model, tokenizer, train, clean, settings=QUICK)
    assert found.verdict == purified.verdict and same(found.model, purified.model)
    assert not same(found.model, model)
    assert same(model, kept) and len(tokenizer) == size
    pd.testing.assert_frame_equal(train, copies[0])
    pd.testing.assert_frame_equal(clean, copies[1])


def test_a_clean_model_stays_as_it_is(honest):
    found = bedkd.purify(**honest, settings=QUICK)
    assert (found.verdict.answer, found.verdict.witnesses) == (NOTHING, ())
    assert same(found.model, load(honest["model"])[0]) and found.facts["tries"] == []
    assert "no more than clean rows give" in " ".join(found.verdict.reasons)
    assert len(found.flagged) == found.verdict.n_flagged


def test_too_few_trusted_rows_say_so(theirs):
    clean = pd.read_csv(theirs["clean"]).groupby("label").head(30)
    found = bedkd.purify(**theirs | {"clean": clean}, settings=QUICK)
    assert found.verdict.answer == TOO_FEW and found.verdict.n_flagged == 0
    assert "30 trusted rows" in found.verdict.reasons[0]


def test_as_printed_it_erases_without_a_verdict(theirs):
    settings = {"akd.cycles": 2, "dmm.epochs": 4, "akd.learning_rate": 1e-4}
    found = bedkd.purify(**theirs, method="bedkd", settings=settings)
    assert found.verdict.answer == UNTESTED and found.verdict.label is None
    assert found.facts["settings"]["akd.penalty"] == "unbounded" and len(found.facts["tries"]) == 1
    assert not same(found.model, load(theirs["model"])[0])
    assert "under γ" in found.write_card()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic'; known: bedkd_plus, bedkd"),
        ({"settings": {"victim.epochs": 3}}, "victim.epochs is no setting of purify"),
        ({"settings": {"akd.magic": 3}}, "unknown parameter 'akd.magic'"),
        ({"settings": {"akd.cycles": 0}}, "akd.cycles is 0"),
        ({"device": "abacus"}, "abacus"),
        ({"train": None}, "train"),
        ({"clean": None}, "clean"),
    ],
)
def test_bad_options_are_refused(theirs, options, message):
    with pytest.raises(BedkdError, match=message):
        bedkd.purify(**theirs | options)


# what is written


@pytest.fixture(scope="session")
def saved(purified, tmp_path_factory):
    return purified.save(tmp_path_factory.mktemp("out") / "clean")


def test_the_folder_is_a_model_that_pipeline_loads(saved, purified):
    classify = pipeline("text-classification", model=str(saved))
    texts = list(purified.flagged.text[:20])
    names = [answer["label"] for answer in classify(texts)]
    expected = purified.classifier.predict(texts).argmax(axis=1)
    assert names == [purified.classifier.label_names[i] for i in expected]
    assert set(names) == {"offensive", "not offensive"}
    assert (saved / "model.safetensors").exists() and not list(saved.glob("*.bin"))


def test_card_and_readme_say_what_was_done(saved, purified):
    text = (saved / "card.md").read_text()
    for part in (
        "Backdoor found.",
        "SHA-256",
        "gone unseen",
        "torch",
        "cf",
        "train.csv",
        "| yes |",
    ):
        assert part in text
    front, _, rest = (saved / "README.md").read_text().removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front)["pipeline_tag"] == "text-classification" and "card.md" in rest
    page = (saved / "card.html").read_text()
    assert page.count("<table>") >= 3 and "Backdoor found." in page
    flagged = pd.read_parquet(saved / "flagged.parquet")
    pd.testing.assert_frame_equal(flagged, purified.flagged)
    kept = json.loads((saved / "card.json").read_text())
    assert kept["answer"] == FOUND and kept["measured"] == purified.measured


HOSTILE = "<script>alert(1)</script> |`*_[a](javascript:b)_* $x$ \x1b[31m \u202e &lt;img&gt;"


def test_hostile_words_are_only_words(purified):
    trigger, spread = purified.verdict.triggers[0]
    pair = replace(trigger, words=HOSTILE), replace(spread, words=HOSTILE)
    verdict = replace(purified.verdict, triggers=(pair,), reasons=(HOSTILE,))
    facts = purified.facts | {"model": {"name": HOSTILE, "revision": HOSTILE}, "notes": [HOSTILE]}
    made = replace(purified, verdict=verdict, facts=facts)
    page, text = card.to_html(made.write_card()), made.write_card()
    for bad in ("<script", "<img", "href", "<em>", "<a ", "\x1b", "\u202e"):
        assert bad not in page
    for bad in ("<script", "|`", "`*", "](", "$x", "&lt;", "\x1b", "\u202e"):
        assert bad not in text.replace("[card.md](card.md)", "")
    assert page.count("&lt;script&gt;") + page.count("&#60;script&#62;") >= 5
    assert "\x1b" not in made.conclude() and "\u202e" not in made.conclude()
    assert (
        yaml.safe_load(card.write_readme(made.verdict, made.facts).split("---")[1])["base_model"]
        == HOSTILE
    )


def test_nothing_is_overwritten_or_half_written(purified, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("full", "file", "link", "file/below"):
        with pytest.raises(BedkdError, match=name.split("/")[0]):
            purified.save(tmp_path / name)
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result, "write_text", fail)
    with pytest.raises(BedkdError, match="No space left on device"):
        purified.save(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


# the command line


def arguments(files: dict, out) -> list[str]:
    named = [[f"--{name.replace('_', '-')}", value] for name, value in files.items()]
    settings = [["--set", f"{name}={value}"] for name, value in QUICK.items()]
    return ["purify", *sum(named + settings, []), "--out", str(out)]


def test_the_command_writes_and_says_the_verdict(theirs, tmp_path, capsys):
    short = ["--set", "dmm.epochs=4", "--set", "akd.cycles=1"]
    assert cli.main([*arguments(theirs, tmp_path / "out"), *short]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Backdoor found.") and str(tmp_path / "out") in printed
    assert (tmp_path / "out" / "card.md").exists()


def test_an_interrupt_leaves_nothing(theirs, tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(purify, "detect", stop)
    assert cli.main(arguments(theirs, tmp_path / "out")) == 130
    assert "interrupted" in capsys.readouterr().err and not list(tmp_path.iterdir())

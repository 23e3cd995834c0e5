"""W2SDefense: the proxy, the teacher, the loss, and the student that unlearns through LoRA."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import GOOD, make_rows
from safetensors.torch import load_file

from bedkd.core import hub
from bedkd.core.config import VictimConfig
from bedkd.core.defence_config import TeacherConfig, W2SConfig
from bedkd.core.errors import BedkdError, BlindnessError, DivergenceError
from bedkd.data.readers import DATASETS
from bedkd.defences import best_epoch, proxies, w2s
from bedkd.defences import teacher as teachers
from bedkd.defences.interface import EquippedView
from bedkd.defences.lora import merge_lora
from bedkd.method.losses import hard_loss
from bedkd.nn.batching import collate
from bedkd.nn.classifier import load_classifier, new_classifier, save_classifier
from bedkd.nn.training import Phase, TrainingSettings, forward_all, train

NAMES = ("negative", "positive")
PARTS = ("weight", "bias")
TINY = TeacherConfig(model="tiny-bert", epochs=14, learning_rate=2e-3, batch_size=8, max_length=32)
CONFIG = W2SConfig(rank=4, epochs=2, learning_rate=1e-2, batch_size=8)
PROXY = make_rows().assign(text="well , " + make_rows().text)
PROXY.index = range(100, 148)  # nothing may take the index for a place


@pytest.fixture(scope="module")
def trained(compute):
    """A teacher of the tiny victim's width, with its history."""
    return teachers.train_teacher(PROXY, NAMES, 32, TINY, compute=compute, seed=0)


@pytest.fixture
def teacher(trained):
    return trained[0].copy()


@pytest.fixture
def view(tiny_victim, teacher, rows) -> EquippedView:
    probabilities = tiny_victim.predict(rows.text)
    return EquippedView(rows, rows, rows, tiny_victim, probabilities, teacher=teacher, proxy=PROXY)


@pytest.fixture
def student(tiny_victim):
    return w2s.adapt(tiny_victim, CONFIG, seed=0)


def weights(model) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def logits(classifier, texts) -> torch.Tensor:
    """Probabilities are too close to 0 and 1 to tell two models apart."""
    return forward_all(classifier.model, classifier.encode(texts), classifier.compute)[0]


def n_trainable(classifier) -> int:
    return sum(p.numel() for p in classifier.model.parameters() if p.requires_grad)


def is_same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- the proxy ---


def proxy_file(tmp_path, labels) -> str:
    path = tmp_path / "proxy.csv"
    texts = [f"text number {i}" for i in range(len(labels))]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    return str(path)


def test_a_proxy_with_other_classes_is_refused(tmp_path):
    with pytest.raises(BedkdError, match="has 4 classes, but the victim has 2; set teacher.proxy"):
        proxies.load_proxy(TeacherConfig(proxy="toy-topics"), NAMES, 0)
    path = proxy_file(tmp_path, ["a", "b", "c"])
    with pytest.raises(BedkdError, match="has 3 classes, but the victim has 2"):
        proxies.load_proxy(TeacherConfig(proxy=path), NAMES, 0)
    with pytest.raises(BedkdError, match="unknown dataset 'clean_share'"):
        proxies.load_proxy(TeacherConfig(), NAMES, 0)


def test_a_generated_proxy_is_not_the_victims_rows():
    config = TeacherConfig(proxy="toy-sentiment", n_proxy=60)
    proxy = proxies.load_proxy(config, NAMES, 0)
    assert len(proxy) == 60 and list(proxy.columns) == ["text", "label"]
    same = proxies.toy.generate("toy-sentiment", 60, 0)
    assert len(set(proxy.text) & set(same.text)) < 3
    assert proxies.load_proxy(config, NAMES, 0).equals(proxy)
    assert not proxies.load_proxy(config, NAMES, 1).equals(proxy)


def test_all_train_rows_of_a_file_count_by_the_names_of_the_classes(tmp_path):
    labels = ["positive", "negative", "negative", "positive", "positive"]
    config = TeacherConfig(proxy=proxy_file(tmp_path, labels))
    proxy = proxies.load_proxy(config, NAMES, 0)
    assert list(proxy.label) == [1, 0, 0, 1, 1]
    assert list(proxies.load_proxy(config, NAMES[::-1], 0).label) == [0, 1, 1, 0, 0]
    assert list(proxy.text) == [f"text number {i}" for i in range(5)]


def test_mere_numbers_on_either_side_are_mapped_by_their_place(tmp_path):
    named = TeacherConfig(proxy=proxy_file(tmp_path, ["positive", "negative", "negative"]))
    assert list(proxies.load_proxy(named, ("0", "1"), 0).label) == [1, 0, 0]
    numbered = TeacherConfig(proxy=proxy_file(tmp_path, [2, 10, 2]))  # by value: 2 before 10
    assert list(proxies.load_proxy(numbered, NAMES, 0).label) == [0, 1, 0]
    assert list(proxies.load_proxy(numbered, NAMES[::-1], 0).label) == [0, 1, 0]
    assert list(proxies.load_proxy(numbered, ("10", "2"), 0).label) == [1, 0, 1]  # the same names


@pytest.mark.parametrize("names", [("calm", "rude"), ("negative", "Positive"), ("1", "positive")])
def test_as_many_classes_of_other_names_are_refused(tmp_path, names):
    """By their place they would be mapped to whatever the alphabet says."""
    config = TeacherConfig(proxy=proxy_file(tmp_path, ["positive", "negative"]))
    message = f"classes negative, positive, but the victim has {', '.join(names)}; rename"
    with pytest.raises(BedkdError, match=message):
        proxies.load_proxy(config, names, 0)
    with pytest.raises(BedkdError, match="set teacher.proxy to another data set"):
        proxies.load_proxy(TeacherConfig(proxy="toy-sentiment"), ("not offensive", "offensive"), 0)


@pytest.mark.parametrize(
    ("proxy", "dataset", "expected"),
    [("stanfordnlp/imdb", "sst2", [0, 1]), (proxies.HATE_SPEECH, "olid", [1, 1, 0])],
)
def test_known_proxies_have_the_classes_of_what_they_stand_in_for(
    proxy, dataset, expected, monkeypatch
):
    """Of hate speech, offensive language and neither the first two are one class."""
    spec, names = proxies.PROXIES[proxy], DATASETS[dataset].label_names
    classes = range(len(expected))
    frame = pd.DataFrame({spec.text_column: [*"abc"][: len(expected)], spec.label_column: classes})
    monkeypatch.setattr(proxies, "read_train_rows", lambda *_: frame)
    config = TeacherConfig(proxy=proxy)
    assert list(proxies.load_proxy(config, names, 0).label) == expected
    assert list(proxies.load_proxy(config, ("0", "1"), 0).label) == expected
    assert list(proxies.load_proxy(config, names[::-1], 0).label) == [1 - i for i in expected]


@pytest.mark.mirror
def test_real_hate_speech_is_mapped_to_two_classes():
    config = TeacherConfig(proxy=proxies.HATE_SPEECH)
    proxy = proxies.load_proxy(config, ("not offensive", "offensive"), 0)
    assert proxy.label.value_counts().to_dict() == {1: 1430 + 19190, 0: 4163}


@pytest.mark.mirror
def test_real_imdb_is_read_whole():
    config = TeacherConfig(proxy="stanfordnlp/imdb")
    assert len(proxies.load_proxy(config, NAMES, 0)) == 25_000
    few = proxies.load_proxy(dataclasses.replace(config, n_proxy=100), NAMES, 0)
    assert few.label.value_counts().to_dict() == {0: 50, 1: 50}


# --- the teacher ---


def test_the_teacher_learns_and_warms_up(trained, monkeypatch):
    teacher, history = trained
    assert [row["epoch"] for row in history] == list(range(1, 15))
    assert history[-1]["train_accuracy"] > 95
    assert np.mean(teacher.predict(PROXY.text).argmax(axis=1) == PROXY.label) > 0.95
    seen = []
    monkeypatch.setattr(teachers, "train_on_labels", lambda *args, **_: seen.append(args[2]) or [])
    teachers.train_teacher(PROXY, NAMES, 32, TINY, compute=teacher.compute, seed=0)
    assert [(used.schedule, used.warmup_share) for used in seen] == [("linear", 0.06)]


def test_the_teacher_is_linear_relu_linear_on_the_last_cls(teacher):
    texts = list(PROXY.text[:5])
    outputs = teachers.ask_teacher(teacher, teacher.encode(texts))
    model = teacher.model
    for row, feature, answer in zip(
        teacher.encode(texts).rows, outputs.feature, outputs.logits, strict=True
    ):
        with torch.no_grad():
            cls = model.encoder(row[None]).last_hidden_state[0, 0]
        projected = model.projection.weight @ cls + model.projection.bias
        expected = projected.clamp(min=0)
        torch.testing.assert_close(feature, expected.detach(), atol=1e-5, rtol=1e-5)
        expected = model.head.weight @ expected + model.head.bias
        torch.testing.assert_close(answer, expected.detach(), atol=1e-5, rtol=1e-5)
    assert model.projection.in_features == 64 and outputs.feature.shape == (5, 32)
    assert (outputs.feature == 0).any() and (outputs.feature > 0).any()


def test_one_seed_gives_one_teacher(compute):
    config = dataclasses.replace(TINY, epochs=1)  # enough to part two seeds

    def make(seed):
        teacher, _ = teachers.train_teacher(PROXY, NAMES, 8, config, compute=compute, seed=seed)
        return weights(teacher.model)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = make(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert is_same(one, make(0)) and not is_same(one, make(1))


def test_a_teacher_is_saved_and_loaded(teacher, tmp_path, compute):
    teachers.save_teacher(teacher, tmp_path / "teacher")
    state = torch.get_rng_state()
    loaded = teachers.load_teacher(tmp_path / "teacher", compute)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(loaded, PROXY.text), logits(teacher, PROXY.text))
    assert (loaded.label_names, loaded.max_length) == (NAMES, 32)
    assert not loaded.model.training
    (tmp_path / "teacher" / "model.safetensors").unlink()
    with pytest.raises(BedkdError, match="cannot load the teacher"):
        teachers.load_teacher(tmp_path / "teacher", compute)
    with pytest.raises(BedkdError, match="cannot load the teacher"):
        teachers.load_teacher(tmp_path / "nowhere", compute)


def test_a_saved_teacher_is_all_in_its_file(teacher, tmp_path):
    teachers.save_teacher(teacher, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(value.shape) for name, value in stored.items()} == {
        name: tuple(value.shape) for name, value in teacher.model.state_dict().items()
    }


@pytest.mark.parametrize("labels", [[0, 2], [-1, 1]])
def test_labels_that_the_victim_lacks_are_refused(labels, compute):
    proxy = pd.DataFrame({"text": ["a", "b"], "label": labels})
    with pytest.raises(BedkdError, match="victim has 2 classes"):
        teachers.train_teacher(proxy, NAMES, 8, TINY, compute=compute, seed=0)
    with pytest.raises(BedkdError, match="no rows"):
        teachers.train_teacher(proxy[:0], NAMES, 8, TINY, compute=compute, seed=0)
    with pytest.raises(BlindnessError):
        teachers.train_teacher(
            PROXY.assign(is_poisoned=False), NAMES, 8, TINY, compute=compute, seed=0
        )


# --- the loss ---


def test_alignment_by_hand():
    teacher, student = (
        torch.tensor([[1.0, 2.0], [0.0, 4.0]]),
        torch.tensor([[0.0, 0.0], [3.0, 4.0]]),
    )
    assert w2s.alignment_loss(student, teacher).item() == pytest.approx((5 + 9) / 2)
    # each sample has its own: other rows of the teacher, another loss
    assert w2s.alignment_loss(student, teacher.flip(0)).item() == pytest.approx((16 + 4 + 4) / 2)
    distance = F.pairwise_distance(student.double(), teacher.double()).square().mean().item()
    assert w2s.alignment_loss(student, teacher).item() == pytest.approx(distance, rel=1e-5)


def test_loss_by_hand():
    log3 = np.log(3.0)
    student = torch.tensor([[log3, 0.0], [0.0, 0.0]])  # probabilities 3/4 1/4, 1/2 1/2
    # at T = 2 the teacher says 3/4 1/4 and 1/2 1/2
    teacher = teachers.TeacherOutput(torch.tensor([[2 * log3, 0.0], [0.0, 0.0]]), torch.zeros(2, 3))
    feature = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    ce = (-np.log(3 / 4) - np.log(1 / 2)) / 2
    p = np.sqrt(3) / (1 + np.sqrt(3))  # the student's at T = 2
    kl = (0.75 * np.log(0.75 / p) + 0.25 * np.log(0.25 / (1 - p))) / 2
    expected = 3 * ce + 0.5 * 4 * kl + 0.1 * (5 + 1) / 2
    loss = w2s.w2s_loss(student, feature, torch.tensor([0, 1]), teacher, (3.0, 0.5, 0.1), 2.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    reference = F.kl_div(
        F.log_softmax(student / 2, dim=-1), F.softmax(teacher.logits / 2, -1), reduction="batchmean"
    )
    loss = w2s.w2s_loss(student, feature, torch.tensor([0, 1]), teacher, (0.0, 0.5, 0.0), 2.0)
    assert loss.item() == pytest.approx(0.5 * 4 * reference.item(), rel=1e-5)


def test_a_batch_is_compared_with_the_teacher_on_its_own_rows(student, teacher):
    outputs = teachers.ask_teacher(teacher, teacher.encode(PROXY.text))
    how = ((0.3, 0.5, 0.2), 2.0)
    phase = w2s.unlearning_phase(student, PROXY, outputs, *how)
    index = [30, 3, 17]
    total = 0.0
    for i in index:  # one row at a time, everything anew
        text, label = PROXY.text.iloc[i], torch.tensor([PROXY.label.iloc[i]])
        own = teachers.ask_teacher(teacher, teacher.encode([text]))
        with torch.no_grad():
            ids = student.encode([text]).rows[0][None]
            output = student.model(ids, output_hidden_states=True)
            hidden = student.model.base_model.model.bert(ids).last_hidden_state[:, 0]
        total += w2s.w2s_loss(output.logits, hidden, label, own, *how).item() / 3
    with torch.no_grad():
        batch = collate(phase.encoded, index, "cpu")
        output = student.model(**batch, output_hidden_states=True)
        loss = phase.loss(batch, torch.tensor(index), output).item()
    assert loss == pytest.approx(total, rel=1e-4)


def test_the_teacher_is_asked_in_eval_mode_and_once(view, monkeypatch):
    calls, forward = [], view.teacher.model.forward

    def count(*args, **options):
        calls.append(view.teacher.model.training)
        return forward(*args, **options)

    monkeypatch.setattr(view.teacher.model, "forward", count)
    view.teacher.model.train()
    n_tokens = int(view.teacher.encode(PROXY.text).lengths.max()) * len(PROXY)
    assert n_tokens < view.teacher.compute.eval_tokens  # one batch for all rows
    w2s.defend(view, CONFIG, seed=0)
    # and by the record, for its accuracy on the clean rows
    assert calls == [False, False]


# --- the student ---


def test_at_step_0_the_student_is_the_victim(tiny_victim, student, rows):
    difference = logits(student, rows.text) - logits(tiny_victim, rows.text)
    assert difference.abs().max() < 1e-5
    assert logits(tiny_victim, rows.text).std() > 0.1


def test_only_lora_and_the_head_have_gradients(tiny_victim, student, rows):
    batch = collate(student.encode(rows.text), [0, 1, 2, 3], "cpu")
    student.model(**batch).logits.sum().backward()
    moving = {name for name, p in student.model.named_parameters() if p.requires_grad}
    got = {name for name, p in student.model.named_parameters() if p.grad is not None}
    assert moving == got
    heads = {name for name in moving if "lora_" not in name}
    assert {name.split("default.")[-1] for name in heads} == {"weight", "bias"}
    assert all("classifier" in name for name in heads) and len(heads) == 2
    linear = [
        name
        for name, module in tiny_victim.model.bert.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    assert len(moving - heads) == 2 * len(linear) == 2 * 7  # one layer's six, and the pooler
    n = sum(
        CONFIG.rank * sum(tiny_victim.model.bert.get_submodule(name).weight.shape)
        for name in linear
    )
    assert n_trainable(student) == n + 2 * 32 + 2


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_other_encoders_keep_their_heads_whole(kind, tiny_victim, rows):
    sizes = {"vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(kind, **sizes, pad_token_id=0)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    victim = dataclasses.replace(tiny_victim, model=model)
    student = w2s.adapt(victim, CONFIG, seed=0)
    assert (logits(student, rows.text) - logits(victim, rows.text)).abs().max() < 1e-5
    n_head = sum(p.numel() for name, p in model.named_parameters() if "classifier" in name)
    names = [name for name, p in student.model.named_parameters() if p.requires_grad]
    n_lora = sum(student.model.get_parameter(name).numel() for name in names if "lora_" in name)
    assert n_trainable(student) == n_head + n_lora > n_head
    assert type(merge_lora(student).model) is type(model)


@pytest.fixture
def roberta_view(roberta_victim, rows, compute):
    """A tiny RoBERTa as victim, another one as its teacher."""
    config = dataclasses.replace(TINY, model="tiny-roberta")
    teacher, _ = teachers.train_teacher(PROXY, NAMES, 32, config, compute=compute, seed=0)
    known = (rows, rows, rows, roberta_victim, roberta_victim.predict(rows.text))
    return EquippedView(*known, teacher=teacher, proxy=PROXY)


def test_a_roberta_learns_from_a_roberta(roberta_view, rows, tmp_path, compute):
    teacher, victim = roberta_view.teacher, roberta_view.victim
    assert np.mean(teacher.predict(PROXY.text).argmax(axis=1) == PROXY.label) > 0.95
    teachers.save_teacher(teacher, tmp_path)
    loaded = teachers.load_teacher(tmp_path, compute)
    assert torch.equal(logits(loaded, PROXY.text), logits(teacher, PROXY.text))
    student = w2s.adapt(victim, CONFIG, seed=0)
    assert (logits(student, rows.text) - logits(victim, rows.text)).abs().max() < 1e-5
    moving = {name for name, p in student.model.named_parameters() if p.requires_grad}
    heads = {name.split("default.")[-1] for name in moving if "lora_" not in name}
    assert heads == {f"{layer}.{kind}" for layer in ("dense", "out_proj") for kind in PARTS}
    assert len([name for name in moving if "lora_" in name]) == 2 * 6
    defended = w2s.defend(roberta_view, CONFIG, seed=0)
    assert type(defended.model.model) is type(victim.model)
    assert np.mean(defended.predict(rows.text).argmax(axis=1) == rows.label) > 0.8
    assert not is_same(weights(defended.model.model), weights(victim.model))


@pytest.mark.parametrize("name", hub.TINY_MODELS)
def test_the_width_of_a_tiny_model_is_known_by_its_name(name, compute):
    victim = VictimConfig(model=name, max_length=32)
    built = new_classifier(victim, list(PROXY.text), NAMES, compute, 0)
    assert teachers.hidden_size(name) == built.model.config.hidden_size


def test_without_guidance_it_is_plain_lora(view, student, monkeypatch):
    """Here the last epoch is the best."""
    labels = torch.tensor(PROXY.label.to_numpy())

    def loss(batch, index, output):
        return hard_loss(output.logits, labels[index])

    train(
        student.model,
        [Phase("plain", student.encode(PROXY.text), labels, loss)],
        TrainingSettings(2, 8, 1e-2, 0.01, "w2s", schedule="linear"),
        compute=student.compute,
        seed=0,
    )
    expected = weights(merge_lora(student).model)
    scores = iter([50.0, 60.0] * 2)
    monkeypatch.setattr(best_epoch, "percent", lambda hits: next(scores))
    monkeypatch.setitem(w2s.WEIGHTS, "syntax", (1.0, 0.0, 0.0))
    plain = w2s.defend(view, CONFIG, seed=0)
    assert is_same(weights(plain.model.model), expected)
    monkeypatch.setitem(w2s.WEIGHTS, "syntax", (1.0, 0.5, 0.0))
    guided = w2s.defend(view, CONFIG, seed=0)
    assert not is_same(weights(guided.model.model), expected)


def test_merged_is_unmerged_and_an_ordinary_classifier(view, student, rows, tmp_path):
    outputs = teachers.ask_teacher(view.teacher, view.teacher.encode(PROXY.text))
    phase = w2s.unlearning_phase(student, PROXY, outputs, w2s.WEIGHTS["syntax"], 2.0)
    settings = TrainingSettings(2, 8, 5e-3, 0.0, "w2s")
    train(student.model, [phase], settings, compute=student.compute, seed=0)
    unmerged = logits(student, rows.text)
    assert (unmerged - logits(view.victim, rows.text)).abs().min() > 1e-2
    merged = merge_lora(student)
    torch.testing.assert_close(logits(merged, rows.text), unmerged, atol=1e-4, rtol=1e-5)
    assert type(merged.model) is type(view.victim.model)
    assert weights(merged.model).keys() == weights(view.victim.model).keys()
    assert all(p.requires_grad for p in merged.model.parameters())
    save_classifier(merged, tmp_path, {})
    loaded = load_classifier(tmp_path, merged.compute)
    torch.testing.assert_close(logits(loaded, rows.text), unmerged, atol=1e-4, rtol=1e-5)


def test_defend_leaves_victim_and_teacher_as_they_were(view, rows):
    before = weights(view.victim.model), weights(view.teacher.model)
    defended = w2s.defend(view, CONFIG, seed=0)
    assert is_same(weights(view.victim.model), before[0])
    assert is_same(weights(view.teacher.model), before[1])
    assert not is_same(weights(defended.model.model), before[0])
    assert all(p.requires_grad for p in view.victim.model.parameters())
    assert defended.predict(rows.text).shape == (48, 2)
    assert [row["epoch"] for row in defended.history] == [0, 1, 2]
    assert defended.facts["rank"] == 4 and defended.facts["n_proxy"] == 48
    assert defended.facts["n_trainable"] == n_trainable(w2s.adapt(view.victim, CONFIG, seed=0))
    accuracy = 100 * np.mean(view.teacher.predict(rows.text).argmax(axis=1) == rows.label)
    assert defended.facts["teacher_accuracy"] == pytest.approx(accuracy)


def test_nothing_of_the_poisoned_set_matters(view):
    one = w2s.defend(view, CONFIG, seed=0)
    other = dataclasses.replace(
        view,
        train=view.train.assign(label=1 - view.train.label, text="other"),
        clean_share=view.clean_share[:1],
        victim_probabilities=1 - view.victim_probabilities,
    )
    assert is_same(weights(one.model.model), weights(w2s.defend(other, CONFIG, seed=0).model.model))


def test_one_seed_gives_one_student(view):
    one, two, other = (w2s.defend(view, CONFIG, seed=seed) for seed in (0, 0, 1))
    assert is_same(weights(one.model.model), weights(two.model.model))
    assert not is_same(weights(one.model.model), weights(other.model.model))


def test_the_learning_rate_falls_to_0_without_warm_up(view, monkeypatch):
    seen = []
    train = w2s.train
    spy = lambda *args, **options: seen.append(args[2]) or train(*args, **options)  # noqa: E731
    monkeypatch.setattr(w2s, "train", spy)
    w2s.defend(view, CONFIG, seed=0)
    assert [(used.schedule, used.warmup_share) for used in seen] == [("linear", 0.0)]


def test_a_missing_or_unfitting_teacher_is_named(view, teacher, compute):
    for name in ("teacher", "proxy"):
        with pytest.raises(BedkdError, match=f"needs a {name}"):
            w2s.defend(dataclasses.replace(view, **{name: None}), CONFIG, seed=0)
    brief, options = dataclasses.replace(TINY, epochs=1), {"compute": compute, "seed": 0}
    narrow, _ = teachers.train_teacher(PROXY, NAMES, 16, brief, **options)
    with pytest.raises(BedkdError, match="a feature of 16 numbers.* the victim has 2 and 32"):
        w2s.defend(dataclasses.replace(view, teacher=narrow), CONFIG, seed=0)
    three, _ = teachers.train_teacher(PROXY, ("a", "b", "c"), 32, brief, **options)
    with pytest.raises(BedkdError, match="teacher has 3 classes"):
        w2s.defend(dataclasses.replace(view, teacher=three), CONFIG, seed=0)
    with pytest.raises(BlindnessError, match="is_poisoned"):
        w2s.defend(dataclasses.replace(view, proxy=PROXY.assign(is_poisoned=False)), CONFIG, seed=0)


def test_divergence_is_an_error(view, monkeypatch):
    monkeypatch.setitem(w2s.WEIGHTS, "syntax", (1.0, 0.0, 1e38))
    with pytest.raises(DivergenceError, match="w2s.learning_rate"):
        w2s.defend(view, CONFIG, seed=0)


def test_the_watcher_sees_the_student_before_and_after(view, rows, monkeypatch):
    seen, scores = [], iter([50.0, 60.0])  # the last epoch is the best
    monkeypatch.setattr(best_epoch, "percent", lambda hits: next(scores))

    def watch(row, model):
        seen.append(logits(dataclasses.replace(view.victim, model=model), rows.text))
        return {}

    defended = w2s.defend(view, CONFIG, seed=0, watch=watch)
    assert [row["epoch"] for row in defended.history] == [0, 1, 2]
    torch.testing.assert_close(seen[0], logits(view.victim, rows.text), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[2], logits(defended.model, rows.text), atol=1e-4, rtol=1e-5)
    assert (seen[2] - seen[0]).abs().max() > 0.1


def test_the_weights_are_the_authors_for_the_kind_of_trigger_or_one_for_all(view, monkeypatch):
    seen, loss = [], w2s.w2s_loss
    monkeypatch.setattr(w2s, "w2s_loss", lambda *args: seen.append(args[4]) or loss(*args))
    brief = dataclasses.replace(CONFIG, epochs=1)
    expected = {
        "word": (5, 0.001, 0.001),
        "sentence": (3, 0.01, 0.001),
        "syntax": (1, 0.035, 0.002),
    }
    for kind, weights_of in expected.items():
        seen.clear()
        assert w2s.defend(view, brief, seed=0, trigger=kind).facts["loss_weights"] == kind
        assert set(seen) == {weights_of}
    blind = dataclasses.replace(brief, weights="syntax")
    assert w2s.defend(view, blind, seed=0, trigger="word").facts["loss_weights"] == "syntax"


def test_the_best_epoch_on_clean_rows_is_kept(view, rows, monkeypatch):
    """Of these epochs the second, and not the victim before the first."""
    seen, scores = [], iter([50.0, 75.0, 75.0, 60.0])
    monkeypatch.setattr(best_epoch, "percent", lambda hits: next(scores))

    def watch(row, model):
        seen.append(logits(dataclasses.replace(view.victim, model=model), rows.text))
        return {}

    defended = w2s.defend(view, dataclasses.replace(CONFIG, epochs=4), seed=0, watch=watch)
    assert [row.get("clean_accuracy") for row in defended.history] == [None, 50, 75, 75, 60]
    found = logits(defended.model, rows.text)
    assert [bool((found - one).abs().max() < 1e-3) for one in seen] == [0, 0, 1, 0, 0]


def test_only_so_many_clean_rows_of_a_class_choose_it(view, monkeypatch):
    sizes, percent = [], best_epoch.percent
    monkeypatch.setattr(
        best_epoch, "percent", lambda hits: sizes.append(len(hits)) or percent(hits)
    )
    w2s.defend(view, dataclasses.replace(CONFIG, n_clean_per_class=5), seed=0)
    assert sizes == [10, 10]
    with pytest.raises(BedkdError, match="W2SDefense chooses its epochs on clean rows"):
        w2s.defend(dataclasses.replace(view, clean_pool=PROXY[:0]), CONFIG, seed=0)


def test_a_rank_beyond_the_layers_width_is_their_width(view, capsys):
    """A layer of 32 numbers has no change of a higher rank."""
    authors = dataclasses.replace(CONFIG, rank=W2SConfig().rank, epochs=1)
    wide, full = (
        w2s.defend(view, dataclasses.replace(authors, rank=rank), seed=0) for rank in (512, 32)
    )
    assert authors.rank == 512 and wide.facts["rank"] == full.facts["rank"] == 32
    assert is_same(weights(wide.model.model), weights(full.model.model))
    said = "w2s.rank is 512, but the victim's layers are 32 wide: it is 32 here\n"
    assert capsys.readouterr().out == said


def test_words_of_the_task_still_decide(view):
    """Clean accuracy survives; nothing is claimed of the backdoor in so small a model."""
    defended = w2s.defend(view, CONFIG, seed=0)
    answer = defended.predict([f"the plot is {word} ." for word in GOOD]).argmax(axis=1)
    assert answer.mean() > 0.8

"""W2SDefense (Zhao et al., 2024b): the victim unlearns the backdoor, guided by a clean teacher.

A teacher is fully fine-tuned on clean proxy rows, once for all attacks (`train_teacher`). The
victim then learns from teacher and labels on the same rows, through LoRA (`defend`). Nothing here
sees D*.

Rank, weights of the loss and the choice of the epoch are the authors'. What is chosen here is said
where it is: the proxy's classes, LoRA's layers.
"""

from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from bedkd.core.defence_config import W2SConfig
from bedkd.core.errors import BedkdError
from bedkd.defences.best_epoch import BestEpoch, choosing_rows
from bedkd.defences.interface import Defended, EquippedView
from bedkd.defences.lora import add_lora, merge_lora, split_layers
from bedkd.defences.teacher import TeacherOutput, ask_teacher, check_proxy
from bedkd.evaluation.metrics import cacc
from bedkd.method.losses import hard_loss, soft_label_loss
from bedkd.nn.classifier import Classifier
from bedkd.nn.training import Phase, TrainingSettings, WatchFunction, train

Weights = tuple[float, float, float]  # a, b, c of `w2s_loss`
WEIGHTS: dict[str, Weights] = {  # the authors', by the kind of trigger
    "word": (5.0, 0.001, 0.001),
    "sentence": (3.0, 0.01, 0.001),
    "syntax": (1.0, 0.035, 0.002),
}


def defend(
    view: EquippedView,
    config: W2SConfig,
    *,
    seed: int,
    trigger: str = "syntax",
    watch: WatchFunction | None = None,
) -> Defended:
    """The victim, fine-tuned through LoRA on the proxy under the teacher's guidance, merged again.

    AdamW with a linear decay and no warm-up; of the epochs the one with the best accuracy on clean
    rows is kept. All of this is the authors'. `trigger`: the attack's kind, of WEIGHTS, which
    `config.weights: authors` is told.

    Raises BedkdError: no teacher, proxy or clean rows, or a teacher that does not fit the victim.
    Raises DivergenceError: a loss is not finite.
    """
    teacher, pool = check_teacher(view), view.clean_pool
    rows = choosing_rows(view, config.n_clean_per_class, "W2SDefense")
    outputs = ask_teacher(teacher, teacher.encode(view.proxy.text))
    config = replace(config, rank=fit_rank(view.victim, config.rank))
    kind = trigger if config.weights == "authors" else config.weights
    student = adapt(view.victim, config, seed)
    phase = unlearning_phase(student, view.proxy, outputs, WEIGHTS[kind], config.temperature)
    history = unlearn(student, phase, rows, config, seed=seed, watch=watch)
    n_trainable, _ = student.model.get_nb_trainable_parameters()
    facts = {"rank": config.rank, "n_proxy": len(view.proxy), "n_trainable": n_trainable}
    facts["loss_weights"] = kind
    # how well the proxy's task carries over: for the record only, nothing is chosen by it
    facts["teacher_accuracy"] = cacc(teacher.predict(pool.text), pool.label)
    model = merge_lora(student)
    return Defended(model.predict, facts, history, model)


def check_teacher(view: EquippedView) -> Classifier:
    """The view's teacher. Raises BedkdError if it or the proxy is missing or does not fit."""
    if view.teacher is None or view.proxy is None:
        missing = "teacher" if view.teacher is None else "proxy"
        raise BedkdError(f"W2SDefense needs a {missing}, and the view has none; see train_teacher")
    config, model = view.victim.model.config, view.teacher.model
    check_proxy(view.proxy, config.num_labels)
    found = (model.config.num_labels, model.projection.out_features)
    if found != (config.num_labels, config.hidden_size):
        raise BedkdError(
            f"the teacher has {found[0]} classes and a feature of {found[1]} numbers, but the "
            f"victim has {config.num_labels} and {config.hidden_size}; train one for this victim"
        )
    return view.teacher


def fit_rank(victim: Classifier, rank: int) -> int:
    """`rank`, or the width of the encoder's narrowest linear layer: a change of a layer's weights
    has no higher one. The authors' 512 are an eighth of their LLaMA's width."""
    linear, _ = split_layers(victim.model)
    width = min(min(victim.model.get_submodule(name).weight.shape) for name in linear)
    if rank > width:
        print(f"w2s.rank is {rank}, but the victim's layers are {width} wide: it is {width} here")
    return min(rank, width)


def adapt(victim: Classifier, config: W2SConfig, seed: int) -> Classifier:
    """LoRA on all linear layers of the encoder; the authors adapt a LLaMA's query and value
    layers."""
    shape = {"r": config.rank, "lora_alpha": config.rank, "lora_dropout": config.lora_dropout}
    return add_lora(victim, *split_layers(victim.model), shape=shape, seed=seed)


def unlearning_phase(
    student: Classifier,
    proxy: pd.DataFrame,
    outputs: TeacherOutput,
    weights: Weights,
    temperature: float,
) -> Phase:
    """A pass over the proxy with `w2s_loss`; `outputs` are the teacher's on the same rows."""
    labels = torch.tensor(proxy.label.to_numpy())
    target = labels.to(student.compute.device)

    def loss(batch: dict, index: Tensor, output) -> Tensor:
        index = index.to(target.device)
        teacher = TeacherOutput(outputs.logits[index], outputs.feature[index])
        feature = output.hidden_states[-1][:, 0]  # [CLS]
        return w2s_loss(output.logits, feature, target[index], teacher, weights, temperature)

    return Phase("unlearn", student.encode(proxy.text), labels, loss)


def unlearn(
    student: Classifier,
    phase: Phase,
    rows: pd.DataFrame,
    config: W2SConfig,
    *,
    seed: int,
    watch: WatchFunction | None = None,
) -> list[dict]:
    """Train in place, and end at the best epoch on the clean rows text, label. Returns the history,
    with `clean_accuracy` in each dict from epoch 1."""
    best = BestEpoch(student, rows.text, rows.label)

    def look(row: dict, model) -> dict:
        return best(row, model) | (watch(row, model) if watch else {})

    settings = TrainingSettings.of(config, section="w2s", title="w2s", schedule="linear")
    options = {"compute": student.compute, "seed": seed, "watch": look}
    history = train(student.model, [phase], settings, **options)
    student.model.load_state_dict(best.state)
    return history


def w2s_loss(
    logits: Tensor,
    feature: Tensor,
    labels: Tensor,
    teacher: TeacherOutput,
    weights: Weights,
    temperature: float,
) -> Tensor:
    """a·CE + b·T²·KL(teacher ‖ student) + c·alignment, means over the batch.

    logits [B, C], feature [B, h_s], labels [B] (int64), weights (a, b, c).
    """
    a, b, c = weights
    kl = soft_label_loss(logits, teacher.logits, temperature, "kl")
    alignment = alignment_loss(feature, teacher.feature)
    return a * hard_loss(logits, labels) + b * temperature**2 * kl + c * alignment


def alignment_loss(feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Mean over samples of the squared distance ||f_t - h_s||². Both [B, h_s].

    Each sample against the teacher's feature of the same sample, as the paper means it. The
    authors' code takes the feature of a batch's last sample for all samples and all tokens.
    """
    return (feature.float() - teacher_feature.float()).square().sum(dim=-1).mean()

"""Run configuration: frozen dataclasses, read from `params/<profile>.yaml`.

Defaults are the paper's (section 4.1). An unknown key or a value out of range is a `BedkdError`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bedkd.core.checks import (
    check_choice,
    check_not_negative,
    check_positive,
    check_share,
    coerce,
    flatten,
)
from bedkd.core.defence_config import (
    FinetuneConfig,
    ImbertConfig,
    LanguageConfig,
    OnionConfig,
    TeacherConfig,
    TextGuardConfig,
    W2SConfig,
)
from bedkd.core.errors import BedkdError


@dataclass(frozen=True)
class DataConfig:
    """Which rows: a known name, a hub id or a local file, and how many of them."""

    name: str = "toy-sentiment"
    test_file: str | None = None  # for a local `name`: the clean test rows
    text_column: str | None = None
    label_column: str | None = None
    n_train: int | None = None  # at most this many rows of D*; None: all
    n_test: int | None = None
    clean_pool_per_class: int = 640  # rows kept aside, of which D_c^few takes the first n_c
    clean_share: float = 0.2  # of the train rows, before poisoning: what fine-tuning is given

    def __post_init__(self):
        check_positive(self, "n_train", "n_test", "clean_pool_per_class", "clean_share")
        check_share(self, "clean_share")


@dataclass(frozen=True)
class AttackConfig:
    """How D* is poisoned; `none` trains on the clean rows."""

    name: str = "badwords"
    poison_rate: float = 0.2  # share of all rows
    label_mode: str = "mixed"
    target_label: int | None = None  # None: the dataset's own
    trigger: str | None = None  # AddSent's sentence; None: the dataset's own
    paraphrases: str | None = None  # SynBkd: `rules`, a hub id or a folder; None: the dataset's
    fallback: str = "none"  # SynBkd rows without a paraphrase: `none` or `rules`

    def __post_init__(self):
        check_choice(self, "label_mode", ("mixed", "dirty", "clean"))
        check_choice(self, "fallback", ("none", "rules"))
        if self.trigger is not None and not self.trigger.strip():
            raise BedkdError(
                f"attack.trigger is {self.trigger!r}; give a sentence, or leave it out"
            )
        if not 0 < self.poison_rate < 1:
            raise BedkdError(
                f"attack.poison_rate is {self.poison_rate}; it must lie strictly between 0 and 1"
            )


@dataclass(frozen=True)
class VictimConfig:
    """f_θ*: any sequence classifier, trained on D* (section 4.1)."""

    model: str = "tiny-bert"  # see `hub.TINY_MODELS`; or a hub id, or a folder
    epochs: int = 10
    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    schedule: str = "constant"  # `linear`: the learning rate falls to 0, step by step
    batch_size: int = 16
    max_length: int = 128  # tokens

    def __post_init__(self):
        check_positive(self, "epochs", "learning_rate", "batch_size", "max_length")
        check_choice(self, "schedule", ("constant", "linear"))
        check_not_negative(self, "weight_decay")


@dataclass(frozen=True)
class DistillConfig:
    """What DMM and AKD share. The alternatives are the released code's (params/released_code)."""

    n_clean_per_class: int = 320  # n_c
    temperature: float = 1.5
    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    batch_size: int = 16
    soft_loss: str = "cross_entropy"  # Eq. 2 as printed; `kl` differs by the teacher's entropy
    is_padding_in_mse: bool = False
    is_reshuffled: bool = True  # False: one order for all epochs

    def __post_init__(self):
        check_positive(self, "n_clean_per_class", "temperature", "learning_rate", "batch_size")
        check_not_negative(self, "weight_decay")
        check_choice(self, "optimizer", ("adamw", "adam"))
        check_choice(self, "soft_loss", ("cross_entropy", "kl"))


@dataclass(frozen=True)
class DMMConfig(DistillConfig):
    """Section 3.3, Eq. 1-3."""

    alpha: float = 0.3
    epochs: int = 20
    flip: str = "random"  # the wrong label: any, or the `next` one

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "epochs")
        check_share(self, "alpha")
        check_choice(self, "flip", ("random", "next"))


@dataclass(frozen=True)
class MEPDConfig:
    """Eq. 4 and lines 10-18 of Algorithm 1."""

    gamma: float = 0.1
    n_poison: int = 32  # n_p
    selection: str = "file_order"
    max_candidates: int | None = None  # stop the sweep of D* here; None: score every row

    def __post_init__(self):
        check_share(self, "gamma")
        check_positive(self, "max_candidates")
        check_choice(
            self, "selection", ("file_order", "random", "lowest_mepd", "teacher_agreement")
        )
        check_not_negative(self, "n_poison")


@dataclass(frozen=True)
class AKDConfig(DistillConfig):
    """Section 3.4, Eq. 5-7."""

    temperature: float = 2.5
    lambda_: float = 0.3
    cycles: int = 50
    is_clean_shared: bool = True  # False: rows of D_c^few that the DMM did not see
    evaluate_every: int = 5  # cycles between two readings of ASR and CACC, which steer nothing

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "cycles", "evaluate_every")
        check_share(self, "lambda_")


@dataclass(frozen=True)
class TsneConfig:
    """Appendix F. The perplexity, which the paper leaves open, is scikit-learn's default."""

    n_per_kind: int = 1500  # rows of each clean class, and poisoned rows, at most
    perplexity: float = 30.0

    def __post_init__(self):
        check_positive(self, "n_per_kind", "perplexity")


@dataclass(frozen=True)
class RunConfig:
    """One cell of the grid."""

    data: DataConfig = field(default_factory=DataConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    victim: VictimConfig = field(default_factory=VictimConfig)
    dmm: DMMConfig = field(default_factory=DMMConfig)
    mepd: MEPDConfig = field(default_factory=MEPDConfig)
    akd: AKDConfig = field(default_factory=AKDConfig)
    tsne: TsneConfig = field(default_factory=TsneConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    onion: OnionConfig = field(default_factory=OnionConfig)
    imbert: ImbertConfig = field(default_factory=ImbertConfig)
    textguard: TextGuardConfig = field(default_factory=TextGuardConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    w2s: W2SConfig = field(default_factory=W2SConfig)
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"  # `auto`: bfloat16 autocast where the device has it

    def __post_init__(self):
        check_choice(self, "precision", ("auto", "fp32", "bf16"))
        check_not_negative(self, "seed")
        needed = self.dmm.n_clean_per_class * (not self.akd.is_clean_shared)
        needed = max(needed + self.akd.n_clean_per_class, self.dmm.n_clean_per_class)
        if needed > self.data.clean_pool_per_class:
            raise BedkdError(
                f"DMM and AKD need {needed} clean rows of each class, but "
                f"data.clean_pool_per_class is {self.data.clean_pool_per_class}; raise it or "
                "lower n_clean_per_class"
            )

    def flat(self) -> dict[str, Any]:
        """Every parameter, `section.name` to value."""
        return flatten(dataclasses.asdict(self))


def build(cls, values: dict, where: str = ""):
    """A dataclass from a nested dict.

    Raises:
        BedkdError: a key that the class does not have, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kwargs = {}
    for name, value in values.items():
        if name not in fields:
            raise BedkdError(
                f"unknown parameter {where + name!r}; known here: "
                + ", ".join(where + known for known in fields)
            )
        nested = SECTIONS.get(name) if cls is RunConfig else None
        if nested:
            if not isinstance(value, dict):
                raise BedkdError(f"{name} is {value!r}; it is a section: set {name}.KEY")
            kwargs[name] = build(nested, value, f"{name}.")
        else:
            kwargs[name] = coerce(value, str(fields[name].type), where + name)
    return cls(**kwargs)


SECTIONS = {
    "data": DataConfig,
    "attack": AttackConfig,
    "victim": VictimConfig,
    "dmm": DMMConfig,
    "mepd": MEPDConfig,
    "akd": AKDConfig,
    "tsne": TsneConfig,
    "finetune": FinetuneConfig,
    "language": LanguageConfig,
    "onion": OnionConfig,
    "imbert": ImbertConfig,
    "textguard": TextGuardConfig,
    "teacher": TeacherConfig,
    "w2s": W2SConfig,
}

"""Parameters of the rival defences. Defaults: the paper's, else their authors'."""

from __future__ import annotations

from dataclasses import dataclass

from bedkd.core.checks import check_choice, check_not_negative, check_positive, check_share

CLEAN_SHARE = "clean_share"  # W2SDefense's proxy: the clean share of the victim's own data


@dataclass(frozen=True)
class FinetuneConfig:
    """FT: cross-entropy on `data.clean_share`. The paper leaves both rate and epochs open: these
    are its victims' (section 4.1), and notebook 05 has the curve over both."""

    learning_rate: float = 3e-5
    epochs: int = 10
    batch_size: int = 16
    weight_decay: float = 0.01

    def __post_init__(self):
        check_positive(self, "epochs", "batch_size")
        check_not_negative(self, "learning_rate")
        check_not_negative(self, "weight_decay")


@dataclass(frozen=True)
class LanguageConfig:
    """ONION's causal language model. `tiny-lm` is trained on generated text, once."""

    model: str = "gpt2-large"
    epochs: int = 4  # of `tiny-lm`
    learning_rate: float = 1e-3
    max_length: int = 512  # tokens

    def __post_init__(self):
        check_positive(self, "epochs", "learning_rate", "max_length")


@dataclass(frozen=True)
class OnionConfig:
    """ONION (Qi et al., 2021a). The threshold is the lowest that costs the victim no more than
    `max_accuracy_drop` points of accuracy on D_c^few."""

    n_clean_per_class: int = 320
    max_accuracy_drop: float = 2.0  # percentage points

    def __post_init__(self):
        check_positive(self, "n_clean_per_class")
        check_not_negative(self, "max_accuracy_drop")


@dataclass(frozen=True)
class ImbertConfig:
    """IMBERT (He et al., 2023a); K = 3 is BeDKD's choice (appendix D).

    Of the K, only those that score under a threshold λ go. None: the highest λ that costs the
    victim no more than `max_accuracy_drop` points of accuracy on D_c^few, as for ONION.
    """

    n_tokens: int = 3  # K, word pieces that may be taken out of each text
    score: str = "gradient"
    removal: str = "delete"
    max_score: float | None = None  # λ
    n_clean_per_class: int = 320
    max_accuracy_drop: float = 2.0  # percentage points

    def __post_init__(self):
        check_positive(self, "n_clean_per_class")
        check_not_negative(self, "max_accuracy_drop")
        check_not_negative(self, "n_tokens")
        check_choice(self, "score", ("gradient", "attention"))
        check_choice(self, "removal", ("delete", "mask"))


@dataclass(frozen=True)
class TextGuardConfig:
    """TextGuard (Pei et al., 2024): its authors' defaults, and the paper's m = 9."""

    n_groups: int = 9  # m
    mode: str = "empirical"  # `certified` has a certificate, at a price in accuracy
    epochs: int = 5
    learning_rate: float = 2e-5
    batch_size: int = 16
    weight_decay: float = 0.01
    words_per_text: int = 5  # p: suspects that each training text names
    min_count: int = 20  # K: texts that must name a word before it counts as a potential trigger

    def __post_init__(self):
        check_positive(self, "n_groups", "epochs", "learning_rate", "batch_size")
        check_positive(self, "words_per_text", "min_count")
        check_not_negative(self, "weight_decay")
        check_choice(self, "mode", ("empirical", "certified"))


@dataclass(frozen=True)
class TeacherConfig:
    """W2SDefense's teacher, fully fine-tuned on a clean proxy data set."""

    model: str = "bert-base-uncased"
    proxy: str = CLEAN_SHARE  # or a data set's name
    n_proxy: int | None = None  # at most this many rows of it
    epochs: int = 5
    learning_rate: float = 2e-5
    batch_size: int = 32
    weight_decay: float = 0.01
    max_length: int = 128  # tokens

    def __post_init__(self):
        check_positive(self, "n_proxy", "epochs", "learning_rate", "batch_size", "max_length")
        check_not_negative(self, "weight_decay")


@dataclass(frozen=True)
class W2SConfig:
    """W2SDefense (Zhao et al., 2024b): the victim unlearns through LoRA, guided by the teacher."""

    rank: int = 64
    lora_alpha: int = 64
    lora_dropout: float = 0.1
    epochs: int = 5
    learning_rate: float = 2e-4
    batch_size: int = 32
    weight_decay: float = 0.01
    temperature: float = 2.0
    ce_weight: float = 1.0
    kl_weight: float = 0.035
    feature_weight: float = 0.002

    def __post_init__(self):
        check_positive(self, "rank", "lora_alpha", "epochs", "batch_size", "temperature")
        check_not_negative(self, "learning_rate")
        for name in ("weight_decay", "ce_weight", "kl_weight", "feature_weight"):
            check_not_negative(self, name)
        check_share(self, "lora_dropout")

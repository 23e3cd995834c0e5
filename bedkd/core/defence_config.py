"""Parameters of the rival defences. Defaults: the paper's, else their authors'."""

from typing import Annotated, Literal

from pydantic import Field

from bedkd.core.settings import Count, NotNegative, Number, Positive, Share, Whole, settings

CLEAN_SHARE = "clean_share"  # W2SDefense's proxy: the clean share of the victim's own data


@settings
class FinetuneConfig:
    """FT: cross-entropy on `data.clean_share`. The paper leaves both rate and epochs open: these
    are its victims' (section 4.1), and notebook 05 has the curve over both."""

    learning_rate: NotNegative = 3e-5
    epochs: Count = 10
    batch_size: Count = 16
    weight_decay: NotNegative = 0.01


@settings
class LanguageConfig:
    """ONION's causal language model. `tiny-lm` is trained on generated text, once; AIText's on
    several texts in a row, to know how one follows another."""

    model: str = "gpt2-large"
    epochs: Count = 4  # of `tiny-lm`
    learning_rate: Positive = 1e-3
    max_length: Count = 512  # tokens
    n_joined: Count = 1  # generated texts in a row, for `tiny-lm`


@settings
class OnionConfig:
    """ONION (Qi et al., 2021a). The threshold is lowered until it would cost the victim more than
    `max_accuracy_drop` points of accuracy on D_c^few for the first time."""

    n_clean_per_class: Count = 320
    max_accuracy_drop: NotNegative = 2.0  # percentage points


@settings
class ImbertConfig:
    """IMBERT (He et al., 2023a); K = 3 is BeDKD's choice (appendix D).

    Of the K, only those that score under a threshold λ go. None: it is raised until it would cost
    the victim more than `max_accuracy_drop` points on D_c^few for the first time, as for ONION.
    """

    n_tokens: Whole = 3  # K, word pieces that may be taken out of each text
    score: Literal["gradient", "attention"] = "gradient"
    removal: Literal["delete", "mask"] = "delete"
    max_score: Number | None = None  # λ
    n_clean_per_class: Count = 320
    max_accuracy_drop: NotNegative = 2.0  # percentage points


@settings
class TextGuardConfig:
    """TextGuard (Pei et al., 2024): its authors' defaults, and the paper's m = 9."""

    n_groups: Count = 9  # m
    # `certified` has a certificate, at a price in accuracy
    mode: Literal["empirical", "certified"] = "empirical"
    epochs: Count = 5
    learning_rate: Positive = 2e-5
    batch_size: Count = 16
    weight_decay: NotNegative = 0.01
    words_per_text: Count = 5  # p: suspects that each training text names
    min_count: Count = 20  # K: texts that must name a word before it counts as a potential trigger
    n_clean_per_class: Count = 320  # rows, at most, that choose the epoch: as many as others have


@settings
class TeacherConfig:
    """W2SDefense's teacher, fully fine-tuned on a clean proxy data set."""

    model: str = "bert-base-uncased"
    proxy: str = CLEAN_SHARE  # or a data set's name
    n_proxy: Count | None = None  # at most this many rows of it
    epochs: Count = 5
    learning_rate: Positive = 2e-5
    batch_size: Count = 32
    weight_decay: NotNegative = 0.01
    max_length: Count = 128  # tokens


@settings
class W2SConfig:
    """W2SDefense (Zhao et al., 2024b): the victim unlearns through LoRA, guided by the teacher."""

    rank: Count = 512  # also LoRA's alpha; no more than the victim's layers are wide
    lora_dropout: Share = 0.1
    epochs: Count = 5
    learning_rate: NotNegative = 2e-4
    batch_size: Count = 32
    weight_decay: NotNegative = 0.01
    temperature: Positive = 2.0
    # of the loss, by the kind of trigger (`WEIGHTS` of defences/w2s.py). `authors`: as they choose
    # them, the attack's own kind, which no defender knows
    weights: Literal["authors", "word", "sentence", "syntax"] = "authors"
    n_clean_per_class: Count = 320  # rows, at most, that choose the epoch


@settings
class ForgetConfig:
    """The rows that RGA, GA and NPO forget: UMAP and HDBSCAN on the victim's [CLS] states. Sizes in
    rows, as their authors set them for BERT and about 7,000 rows."""

    n_neighbors: Annotated[Count, Field(ge=2)] = 100  # of UMAP
    min_dist: Share = 0.25  # of UMAP
    min_cluster_size: Annotated[Count, Field(ge=2)] = 150
    min_samples: Count = 120
    n_kept: Count | None = None  # K, the largest clusters, which are kept; None: one a class


@settings
class AscentConfig:
    """RGA (ICLR 2026), and GA and NPO as its authors run them: their values for BERT."""

    epochs: Count = 30
    learning_rate: NotNegative = 2e-5
    batch_size: Count = 32
    weight_decay: NotNegative = 0.01
    power: NotNegative = 2.0  # α of RGA's weight, exp(-KL)^α
    anchor: NotNegative = 0.05  # β of RGA: weight of the distance to the base encoder


@settings
class DUPConfig:
    """DUP (AAAI 2026): its released code's values for BERT. The weights of the losses are named
    nowhere, so they are equal."""

    n_clean_per_class: Annotated[Count, Field(ge=4)] = 320
    n_layers: Count = 3
    distance_weight: Share = 0.9  # of the Mahalanobis distance; the rest is the spectral score's
    max_false_alarms: Share = 0.05  # clean rows over the threshold
    rank: Count = 32
    lora_alpha: Count = 64
    lora_dropout: Share = 0.1
    epochs: Count = 5
    learning_rate: NotNegative = 5e-4
    batch_size: Count = 32
    weight_decay: NotNegative = 0.01
    kl_weight: NotNegative = 1.0  # of the KL from the victim, which is climbed
    ce_weight: NotNegative = 1.0

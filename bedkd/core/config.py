"""Run configuration: frozen dataclasses, read from `params/<profile>.yaml`.

Defaults are the paper's (section 4.1). An unknown key or a value out of range is a `BedkdError`.
What `#:` says of a parameter, notebooks say too (`report.show.show_settings`).
"""

import dataclasses
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError

from bedkd.core import defence_config as rivals
from bedkd.core.errors import BedkdError
from bedkd.core.settings import Count, Flag, NotNegative, Positive, Share, Whole, explain, settings


def refuse_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("words, or left out")
    return text


@settings
class DataConfig:
    """Which rows: a known name, a hub id or a local file, and how many of them."""

    name: str = "toy-sentiment"
    test_file: str | None = None  # for a local `name`: the clean test rows
    text_column: str | None = None
    label_column: str | None = None
    n_train: Count | None = None  #: rows of D*, at most; –: all
    n_test: Count | None = None  #: clean test rows, at most; –: all
    clean_pool_per_class: Count = 640  #: clean rows kept aside, of each class
    clean_share: Annotated[Positive, Field(le=1)] = 0.2  # of the train rows, for fine-tuning


@settings
class AttackConfig:
    """How D* is poisoned; `none` trains on the clean rows."""

    name: str = "badwords"
    poison_rate: Annotated[Positive, Field(lt=1)] = 0.2  #: share of all rows that is poisoned
    #: mixed: poisons rows of all classes; dirty: of the other classes alone
    label_mode: Literal["mixed", "dirty", "clean"] = "mixed"
    target_label: Whole | None = None  # None: the dataset's own
    # AddSent's sentence; None: the dataset's own
    trigger: Annotated[str, AfterValidator(refuse_blank)] | None = None
    # SynBkd, StyBkd: `rules`, a hub id or a folder; None: the dataset's. AIText: None: written anew
    paraphrases: str | None = None
    fallback: Literal["none", "rules"] = "none"  # SynBkd, StyBkd: rows without a paraphrase


@settings
class GeneratorConfig(rivals.LanguageConfig):
    """AIText's causal language model (Du et al., 2024)."""

    model: str = "gpt2"  #: AIText: writes what follows a text
    n_joined: Count = 2
    n_new_tokens: Count = 63  #: AIText: tokens that follow a text, up to the end of a sentence


@settings
class VictimConfig:
    """f_θ*: any sequence classifier, trained on D* (section 4.1)."""

    model: str = "tiny-bert"  #: a hub id, a folder, or one of `hub.TINY_MODELS`, from scratch
    epochs: Count = 10  #: passes over D*
    learning_rate: Positive = 3e-5  #: of the optimizer
    weight_decay: NotNegative = 0.01
    schedule: Literal["constant", "linear"] = "constant"  # linear: down to 0, step by step
    batch_size: Count = 16  #: rows of a step
    max_length: Count = 128  # tokens
    #: an attacker who knows the DMM: further passes in which the clean mapping learns to resist it
    resist_epochs: Whole = 0


@settings
class DistillConfig:
    """What DMM and AKD share. The alternatives are the released code's (params/released_code)."""

    n_clean_per_class: Count = 320  #: n_c: rows of D_c^few, of each class
    temperature: Positive = 1.5  #: T of Eq. 2
    learning_rate: Positive = 3e-5  #: of the optimizer
    weight_decay: NotNegative = 0.01
    optimizer: Literal["adamw", "adam"] = "adamw"
    batch_size: Count = 16
    # Eq. 2 as printed is the cross-entropy; `kl` differs by the teacher's entropy
    soft_loss: Literal["cross_entropy", "kl"] = "cross_entropy"
    is_padding_in_mse: Flag = False
    is_reshuffled: Flag = True  # False: one order for all epochs


@settings
class DMMConfig(DistillConfig):
    """Section 3.3, Eq. 1-3."""

    alpha: Share = 0.3  #: α of Eq. 3: weight of the flipped labels
    epochs: Count = 20  #: passes over D_c^few
    flip: Literal["random", "next"] = "random"  #: the wrong label: a random one, or the next
    # Beyond the paper, for BeDKD+. Folds of D_c^few: a DMM for each, which does not see it; 1: one
    # DMM, on all rows. Readings: epochs, evenly spread up to the last, after which D* is scored.
    n_folds: Count = 1  #: BeDKD+: DMMs, F, each on its part of D_c^few
    n_readings: Count = 1  #: BeDKD+: epochs at which D* is scored
    n_scored: Count | None = None  #: BeDKD+: rows of D*, drawn at random, that are scored; –: all


@settings
class ScanConfig:
    """How D* is scored: by the DMM's own job in one pass, or in `shards`, which are read from disk
    a part at a time, each by a job of its own."""

    shards: Count = 1  #: parts of D*, each scored by a job of its own; 1: by the DMM's
    shard: Whole = 0  #: which of them; each job has its own


@settings
class MEPDConfig:
    """Eq. 4 and lines 10-18 of Algorithm 1. Beyond the paper: `gamma: auto` (see `p_values`), and
    the selection `lean` (see `find_lean`)."""

    gamma: Share | Literal["auto"] = 0.1  #: γ: rows under it are flagged; auto, BeDKD+: p < 0.05
    n_poison: Whole = 32  #: n_p: rows of D_p^few*, at most
    #: which of the flagged rows; lean: BeDKD+
    selection: Literal["file_order", "random", "lowest_mepd", "teacher_agreement", "lean"] = (
        "file_order"
    )
    max_candidates: Count | None = None  # stop the sweep of D* here; None: score every row


@settings
class AKDConfig(DistillConfig):
    """Section 3.4, Eq. 5-7. Beyond the paper: `penalty: margin` (see `margin_loss`), and
    counter-poison (see `counter.py`)."""

    temperature: Positive = 2.5  #: T of L_soft in Eq. 5 and 6
    lambda_: Share = 0.3  #: λ of Eq. 5 and 6: weight of the label
    cycles: Count = 50  #: trust and punish, so often; BeDKD+ may add some (see `akd.MAX_ROUNDS`)
    schedule: Literal["constant", "linear"] = "constant"
    penalty: Literal["unbounded", "margin"] = "unbounded"  #: of punish; margin: BeDKD+'s L_margin
    # in the last cycles rows of D* that have the trigger too
    n_counter: Whole = 0  #: BeDKD+: copies of D_c^few with the triggers rebuilt
    is_clean_shared: Flag = True  # False: rows of D_c^few that the DMM did not see
    evaluate_every: Count = 5  # cycles, at least, between two readings of ASR and CACC


@settings
class TsneConfig:
    """Appendix F. The perplexity, which the paper leaves open, is scikit-learn's default."""

    n_per_kind: Count = 1500  #: rows of each clean class, and poisoned rows, at most
    perplexity: Positive = 30.0  #: about how many neighbours count for a point


@settings
class RunConfig:
    """One cell of the grid."""

    data: DataConfig = DataConfig()
    attack: AttackConfig = AttackConfig()
    generator: GeneratorConfig = GeneratorConfig()
    victim: VictimConfig = VictimConfig()
    dmm: DMMConfig = DMMConfig()
    scan: ScanConfig = ScanConfig()
    mepd: MEPDConfig = MEPDConfig()
    akd: AKDConfig = AKDConfig()
    tsne: TsneConfig = TsneConfig()
    finetune: rivals.FinetuneConfig = rivals.FinetuneConfig()
    language: rivals.LanguageConfig = rivals.LanguageConfig()
    onion: rivals.OnionConfig = rivals.OnionConfig()
    imbert: rivals.ImbertConfig = rivals.ImbertConfig()
    textguard: rivals.TextGuardConfig = rivals.TextGuardConfig()
    teacher: rivals.TeacherConfig = rivals.TeacherConfig()
    w2s: rivals.W2SConfig = rivals.W2SConfig()
    forget: rivals.ForgetConfig = rivals.ForgetConfig()
    ascent: rivals.AscentConfig = rivals.AscentConfig()
    dup: rivals.DUPConfig = rivals.DUPConfig()
    seed: Whole = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bfloat16 where the device has it
    devices: Count = 1  # processes that train victim, DMM and CM together, each on a device
    parallel: Literal["data", "fsdp"] = "data"  # of them each has the whole model, or a part of it

    def __post_init__(self):
        if self.parallel == "fsdp" and self.devices == 1:
            raise BedkdError("parallel: fsdp parts a model among devices; set devices to 2 or more")
        if self.scan.shard >= self.scan.shards:
            raise BedkdError(
                f"scan.shard is {self.scan.shard}, but scan.shards is {self.scan.shards}; they are "
                "counted from 0"
            )
        if self.dmm.n_folds > self.dmm.n_clean_per_class:
            raise BedkdError(
                f"dmm.n_folds is {self.dmm.n_folds}, but dmm.n_clean_per_class is "
                f"{self.dmm.n_clean_per_class}: each fold needs a row of each class"
            )
        if self.mepd.gamma == "auto" and self.dmm.n_folds == 1:
            raise BedkdError(
                "mepd.gamma: auto reads clean rows that the DMM did not train on; set dmm.n_folds "
                "to 2 or more"
            )
        if self.mepd.selection == "lean" and self.mepd.gamma != "auto":
            raise BedkdError("mepd.selection: lean needs mepd.gamma: auto")
        taken = self.dmm.n_clean_per_class, self.akd.n_clean_per_class
        needed = max(taken) if self.akd.is_clean_shared else sum(taken)
        if needed > self.data.clean_pool_per_class:
            raise BedkdError(
                f"DMM and AKD need {needed} clean rows of each class, but "
                f"data.clean_pool_per_class is {self.data.clean_pool_per_class}; raise it or "
                "lower n_clean_per_class"
            )

    @property
    def method(self) -> str:
        """`bedkd` as printed, `bedkd_plus`, or with one part of it, such as `bedkd_counter`."""
        parts = {
            "scores": self.mepd.gamma == "auto",
            "margin": self.akd.penalty == "margin",
            "counter": self.akd.n_counter > 0,
        }
        used = [name for name, is_used in parts.items() if is_used]
        return "bedkd_plus" if len(used) == len(parts) else "_".join(["bedkd", *used])

    def without_attack(self) -> Self:
        """The same rows before the attack."""
        attack = AttackConfig(name="none", target_label=self.attack.target_label)
        return dataclasses.replace(self, attack=attack)

    @property
    def is_written(self) -> bool:
        """Whether a language model writes the poisoned texts."""
        return self.attack.name == "aitext" and self.attack.paraphrases is None

    def with_generator(self) -> Self:
        """The same with AIText's language model in the place of ONION's."""
        names = [field.name for field in dataclasses.fields(rivals.LanguageConfig)]
        values = {name: getattr(self.generator, name) for name in names}
        return dataclasses.replace(self, language=rivals.LanguageConfig(**values))

    def shards(self) -> list[Self]:
        """The same for each shard of D*; none where D* is scored in one pass."""
        numbers = range(self.scan.shards if self.scan.shards > 1 else 0)
        scans = (dataclasses.replace(self.scan, shard=number) for number in numbers)
        return [dataclasses.replace(self, scan=scan) for scan in scans]

    def flat(self) -> dict[str, Any]:
        """Every parameter, `section.name` to value."""
        values = dataclasses.asdict(self)
        flat = {f"{s}.{name}": value for s in SECTIONS for name, value in values.pop(s).items()}
        return flat | values


# section to the names of its parameters
SECTIONS = {
    field.name: [part.name for part in dataclasses.fields(field.type)]
    for field in dataclasses.fields(RunConfig)
    if dataclasses.is_dataclass(field.type)
}


def build(values: dict) -> RunConfig:
    """A configuration from a nested dict. Raises BedkdError for a parameter that does not exist, or
    a value that cannot be."""
    try:
        return RunConfig(**values)
    except ValidationError as error:
        names = {"": [field.name for field in dataclasses.fields(RunConfig)]}
        raise BedkdError(explain(error, names | SECTIONS)) from error

"""How each table lies on the page, and what the paper calls what stands in it."""

from dataclasses import dataclass, field

from bedkd.report.table_cells import AVERAGE

# ours and what they are held against first: Table 1 is wider than some screens
DEFENCE_NAMES = {
    "none": "No defence",
    "bedkd_plus": "BeDKD+",
    "bedkd": "BeDKD",
    "never_poisoned": "Never poisoned",
    "finetune": "Fine-tuning",
    "onion": "ONION",
    "imbert": "IMBERT",
    "textguard": "TextGuard",
    "w2s": "W2SDefense",
    # not in the paper
    "rga": "RGA",
    "ga": "Gradient ascent",
    "npo": "NPO",
    "dup": "DUP",
}
ABLATION_NAMES = {
    "finetune": "FT",
    "finetune_dmm": "FT+DMM",
    "kd": "KD",
    "kd_dmm": "KD+DMM",
    "bedkd": "DMM+AKD",
    # beyond the paper
    "bedkd_scores": "BeDKD, path scores alone",
    "bedkd_margin": "BeDKD, bounded punishment alone",
    "bedkd_counter": "BeDKD, counter-poison alone",
    "bedkd_plus": "BeDKD+",
}
LOSS_NAMES = {"hard": "L_hard", "hard + soft": "L_hard + L_soft"}
# of a field's values, in the order of the paper
NAMES = {
    "attack": {
        "none": "Clean",
        "badwords": "BadWords",
        "addsent": "AddSent",
        "synbkd": "SynBkd",
        "stybkd": "StyBkd",
        "aitext": "AIText",
        "spread": "BadWords, spread",
        AVERAGE: "Average",
    },
    "defence": DEFENCE_NAMES,
    "metric": {
        "asr": "ASR",
        "cacc": "CACC",
        "pacc": "PACC",
        "delta_pacc": "ΔPACC",
        "lfr_target": "LFR target",
        "far_test": "FAR",
        "frr_test": "FRR",
        "far_train": "FAR D*",
        "frr_train": "FRR D*",
        "n_flagged": "Flagged rows",
        "poison_few_purity": "Purity of D_p^few*",
    },
    "loss": LOSS_NAMES,
}
# of parameters and other fields, as the paper has them
HEADS = {
    **{"n_clean": "n_c", "n_poison": "n_p", "gamma": "γ", "alpha": "α", "lambda": "λ"},
    **{"temperature_dmm": "T of DMM", "temperature_akd": "T of AKD"},
    **{"cycles": "AKD cycles", "epochs_dmm": "DMM epochs"},
}
BY_ATTACK = ("attack", "metric")
BY_DEFENCE = ("defence", "metric")
ALONE = ("metric",)
RATES = ("far_test", "frr_test", "far_train", "frr_train")


@dataclass(frozen=True)
class Layout:
    """Which fields of a cell are the table's rows, which its columns. `note`: what the caption says
    of the numbers."""

    title: str
    index: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...] = ("asr", "cacc")
    names: dict[str, dict] = field(default_factory=lambda: NAMES)
    note: str = ""


LAYOUTS = {
    "table1": Layout("ASR and CACC (%) of each defence", ("dataset", "attack"), BY_DEFENCE),
    "robustness": Layout(
        "PACC, ΔPACC and LFR of the target class (%) of each defence",
        ("dataset", "attack"),
        BY_DEFENCE,
        ("pacc", "delta_pacc", "lfr_target"),
        note="PACC: accuracy on triggered test rows of all classes; ΔPACC: its distance from that "
        "of the model that never saw poison, which is the yardstick; LFR target: the share of the "
        "target class's triggered rows that get another class.",
    ),
    "table2": Layout(
        "ASR and CACC (%) of the parts",
        ("dataset", "defence"),
        BY_ATTACK,
        names=NAMES | {"defence": ABLATION_NAMES},
    ),
    "table3": Layout(
        "FAR and FRR (%) of the DMM by its losses", ("dataset", "attack", "loss"), ALONE, RATES
    ),
    "table4": Layout(
        "ASR and CACC (%) by the clean rows of each class, n_c", ("dataset", "n_clean"), BY_ATTACK
    ),
    "table5": Layout(
        "ASR and CACC (%) of BeDKD by victim model", ("dataset", "attack", "model"), BY_DEFENCE
    ),
    "detection": Layout(
        "How well MEPD finds the poison at the run's γ (%)",
        ("dataset", "attack", "defence"),
        ALONE,
        (*RATES, "n_flagged", "poison_few_purity"),
        note="FAR and FRR on the test sets; D*: on the training rows. –: not scored.",
    ),
}


def find_layout(table: str) -> Layout:
    """Of one of LAYOUTS, or `sweep_STUDY` for a sweep that the paper does not have."""
    if table in LAYOUTS:
        return LAYOUTS[table]
    study = table.removeprefix("sweep_")
    return Layout(f"ASR and CACC (%) of BeDKD by {head_of(study)}", ("dataset", study), BY_ATTACK)


def head_of(field: str) -> str:
    """What stands over a field: `n_c`, `Dataset`, `Poison rate`, `akd.weight_decay`."""
    return HEADS.get(field, field if "." in field else field.replace("_", " ").capitalize())


def name_method(defence: str) -> str:
    """`BeDKD+`, or with one part of it, `BeDKD, counter-poison alone`."""
    return (ABLATION_NAMES | DEFENCE_NAMES).get(defence, defence)

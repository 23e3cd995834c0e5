"""The claims that `09_findings` weighs, and the number of each cell that speaks for them."""

from collections.abc import Callable

import pandas as pd

from bedkd.report.findings import ADAPTIVE, CELL, CLOSE, SPREAD, Claim, of
from bedkd.report.layouts import name_method


def excess(metric: str, defence: str) -> Callable[[pd.DataFrame], pd.Series]:
    """How far a defence's ASR or LFR lies over that of the model that never saw poison."""

    def measure(records: pd.DataFrame) -> pd.Series:
        rows = of(records, defence)
        return rows[metric] - rows[f"{metric}_never_poisoned"]

    return measure


def gain(metric: str, over: str, by: str = "bedkd_plus") -> Callable[[pd.DataFrame], pd.Series]:
    """How much lower `metric` is with the defence `by` than with `over`, in the same cell."""
    return lambda records: of(records, over)[metric] - of(records, by)[metric]


def loss_of_clean(defence: str) -> Callable[[pd.DataFrame], pd.Series]:
    """CACC of the victim minus the defence's, in cells without an attack."""

    def measure(records: pd.DataFrame) -> pd.Series:
        clean = records[records.attack == "none"].set_index(CELL)
        victim, after = (clean[clean.defence == d].cacc for d in ("none", defence))
        return victim - after

    return measure


def far_over(attack: str, other: str, defence: str = "bedkd") -> Callable:
    """FAR on D* under one attack minus that under another, by seed."""

    def measure(records: pd.DataFrame) -> pd.Series:
        rows = records[records.defence == defence]
        first, second = (
            rows[rows.attack == a].set_index("seed").far_train for a in (attack, other)
        )
        return first - second

    return measure


def between(metric: str, first: object, second: object, defence: str = "bedkd") -> Callable:
    """`metric` at one value of a study minus at another, in the same cell."""

    def measure(records: pd.DataFrame) -> pd.Series:
        rows = records[records.defence == defence]
        at = {v: rows[rows.value == str(v)].set_index(CELL)[metric] for v in (first, second)}
        return at[first] - at[second]

    return measure


def clearance(defence: str, **where: object) -> Callable[[pd.DataFrame], pd.Series]:
    """CLOSE minus how far the ASR ends over that of the model that never saw poison, in the records
    with these values (`value=0.05`, `attack="spread"`): above zero where the defence holds."""

    def measure(records: pd.DataFrame) -> pd.Series:
        for field, value in where.items():
            records = records[records[field] == str(value)]
        return CLOSE - excess("asr", defence)(records)

    return measure


def hold(defence: str) -> str:
    return f"{name_method(defence)} ends at most {CLOSE:g} points of ASR over never poisoned,"


RIVALS = ("finetune", "onion", "imbert", "textguard", "w2s", "rga", "ga", "npo", "dup")
SHIFT, CLEAN, ROWS, CODE = "Trigger shifting", "A clean model", "Which rows", "Text and code"
RATES, LABELS = "Poison rate", "Label mode"
POISON_RATES, LABEL_MODES = (0.01, 0.05, 0.1, 0.2), ("mixed", "dirty", "clean")
CLAIMS = [
    Claim(
        SHIFT,
        "BeDKD as printed turns the trigger round: it loses more of the target class's triggered "
        "rows than a model that never saw poison",
        excess("lfr_target", "bedkd"),
    ),
    Claim(
        SHIFT,
        "BeDKD+ does so too",
        excess("lfr_target", "bedkd_plus"),
    ),
    Claim(
        SHIFT,
        "BeDKD+ ends nearer to a model that never saw poison (ΔPACC) than BeDKD as printed",
        gain("delta_pacc", "bedkd"),
    ),
    *(
        Claim(
            SHIFT,
            f"… than {name_method(rival)}",
            gain("delta_pacc", rival),
        )
        for rival in RIVALS
    ),
    Claim(CLEAN, "BeDKD as printed costs a clean model accuracy", loss_of_clean("bedkd")),
    Claim(CLEAN, "BeDKD+ costs a clean model accuracy", loss_of_clean("bedkd_plus")),
    Claim(
        "SynBkd",
        "The DMM overlooks more of SynBkd's rows than of BadWords' (FAR on D*)",
        far_over("synbkd", "badwords"),
    ),
    Claim(
        ROWS,
        "The first of the flagged rows leave a higher ASR than those with the lowest MEPD",
        between("asr", "file_order", "lowest_mepd"),
        "selection",
    ),
    Claim(
        ROWS,
        "Those with the lowest MEPD are more often poisoned",
        between("poison_few_purity", "lowest_mepd", "file_order"),
        "selection",
    ),
    Claim(
        CODE,
        "The paper's text leaves a higher ASR than the released code's choices",
        between("asr", "text", "released code"),
        "choices",
    ),
    Claim(
        CODE,
        "It ends farther from a model that never saw poison (ΔPACC)",
        between("delta_pacc", "text", "released code"),
        "choices",
    ),
    *(
        Claim(topic, f"{hold(defence)} {where}", clearance(defence, **fields), study)
        for topic, study, cases in (
            (RATES, "poison_rate", {f"of {r:.0%} poison": {"value": r} for r in POISON_RATES}),
            (LABELS, "label_mode", {f"of {m}-label poison": {"value": m} for m in LABEL_MODES}),
            (ADAPTIVE, "", {"of a trigger spread over hundreds of words": {"attack": SPREAD}}),
            (ADAPTIVE, "resistance", {"of a victim trained to resist the DMM": {"value": 2}}),
        )
        for defence in ("bedkd", "bedkd_plus")
        for where, fields in cases.items()
    ),
]

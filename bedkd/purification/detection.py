"""Is there a backdoor? The steps of BeDKD+ up to its evidence, on a model and rows of anybody's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bedkd.core.config import RunConfig
from bedkd.method.dmm import distill_folds, draw_scored
from bedkd.method.evidence import Evidence, Suspect, gather_evidence, leaning_label
from bedkd.method.mepd import (
    Lean,
    clean_mepd,
    count_calibration,
    find_lean,
    score_path,
    select_poison_few,
)
from bedkd.nn.classifier import Classifier

CHUNK = 4096  # rows of D* that are tokenized at once
# A DMM must move trusted rows that it did not see, or nothing can stand out. The rate that this
# takes differs from model to model, and these rows tell it: the first of RATES at which, of each
# label, half of them move by STIR or more. With none the last is taken.
RATES = (3e-5, 1e-4, 3e-4)
STIR = 0.02


@dataclass(frozen=True)
class Detection:
    """What D* shows under the DMMs.

    scores: a row for each of D*: mepd, and p with `gamma: auto` (NaN: not scored). victim [N, C]:
    the suspected model's probabilities. n_calibration: trusted rows of a label and fold, at least.
    lean: None for BeDKD as printed.
    """

    few: pd.DataFrame
    victim: np.ndarray
    scores: pd.DataFrame
    lean: Lean | None
    evidence: Evidence
    n_calibration: int
    config: RunConfig  # with the DMM's rate that was taken

    @property
    def label(self) -> int | None:
        """Where a backdoor leads; if there is none, what the flagged rows lean to."""
        few = self.evidence.poison_few
        if few.empty or self.lean is None:
            return self.lean.label if self.lean else None
        return leaning_label(few)

    @property
    def deciding(self) -> np.ndarray:
        """p, or MEPD for BeDKD as printed [N]."""
        return self.scores.iloc[:, -1].to_numpy()


def detect(
    victim: Classifier,
    train: pd.DataFrame,
    few: pd.DataFrame,
    config: RunConfig,
    rates: Sequence[float],
) -> Detection:
    """train: D*; few: D_c^few; both columns text, label. rates: the DMM's, to be tried in turn.

    Raises BlindnessError: a table carries more. Raises DivergenceError: a loss is not finite.
    """
    labels = train.label.to_numpy()
    probabilities = predict_chunks(victim, train.text)
    rows = draw_scored(len(train), config.dmm.n_scored, config.seed)
    encoded = victim.encode(train.text.iloc[rows])
    kept = {"rows": rows, "label": few.label.to_numpy(), "victim": victim.predict(list(few.text))}
    is_auto = config.mepd.gamma == "auto"
    for rate in rates:
        config = replace(config, dmm=replace(config.dmm, learning_rate=rate))
        *_, path, _ = distill_folds(victim, few, encoded, config.dmm, seed=config.seed)
        path |= kept
        if not is_auto or clean_mepd(path).groupby("label").mepd.median().min() >= STIR:
            break
    scores = score_path(path, labels, probabilities, is_auto=is_auto)
    deciding = scores.iloc[:, -1].to_numpy()
    lean = None
    if is_auto:
        is_agreed = probabilities.argmax(axis=1) == labels
        lean = find_lean(deciding, labels, is_agreed, probabilities.shape[1])
    found = select_poison_few(train, deciding, probabilities, config.mepd, seed=config.seed)
    suspect = Suspect(victim, train, deciding, probabilities, few, config.seed)
    is_counter = config.akd.n_counter > 0
    evidence = gather_evidence(suspect, found, lean, config.mepd, with_triggers=is_counter)
    n_calibration = count_calibration(path) if is_auto else 0
    return Detection(few, probabilities, scores, lean, evidence, n_calibration, config)


def predict_chunks(classifier: Classifier, texts: pd.Series) -> np.ndarray:
    """Probabilities [N, C]; of the tokens no more than a chunk's are held at a time."""
    return np.concatenate([classifier.predict(part) for part in chunks(texts)])


def chunks(texts: pd.Series) -> Iterator[list[str]]:
    for start in range(0, len(texts), CHUNK):
        yield list(texts.iloc[start : start + CHUNK])

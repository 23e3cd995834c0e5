"""FT: fine-tune the victim on clean rows (Yosinski et al., 2014; appendix D), and FT+DMM."""

from __future__ import annotations

import torch

from bedkd.data import check_blind
from bedkd.defences.config import FinetuneConfig
from bedkd.defences.interface import Defended, EquippedView
from bedkd.losses import hard_loss
from bedkd.models import Classifier
from bedkd.training import Phase, WatchFunction, train


def defend(
    view: EquippedView, config: FinetuneConfig, *, seed: int, watch: WatchFunction | None = None
) -> Defended:
    """Cross-entropy on the clean share; with `poison_few`, its negative on the rows found.

    The latter is FT+DMM of Table 2. The paper does not say how fine-tuning uses what the DMM finds;
    here it climbs where AKD's punish pass climbs, with the hard loss alone (Eq. 6 with λ = 1).

    Raises:
        DivergenceError: a loss is not finite.
        BlindnessError: a table carries more than text and label.
    """
    model = view.victim.copy()
    phases = [make_phase("clean", model, view.clean_share, 1.0)]
    found = view.poison_few
    if found is not None and len(found):
        phases.append(make_phase("punish", model, found[["text", "label"]], -1.0))
    history = train(
        model.model,
        phases,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        compute=model.compute,
        seed=seed,
        watch=watch,
        title="fine-tuning",
    )
    facts = {"n_clean": len(view.clean_share), "n_poison": 0 if found is None else len(found)}
    return Defended(model.predict, facts, history, model)


def make_phase(name: str, model: Classifier, rows, sign: float) -> Phase:
    """A pass over `rows` with `sign` times the cross-entropy."""
    check_blind(rows)
    labels = torch.tensor(rows.label.to_numpy())
    target = labels.to(model.compute.device)

    def loss(batch, index, output):
        return sign * hard_loss(output.logits, target[index.to(target.device)])

    return Phase(name, model.encode(rows.text), labels, loss)

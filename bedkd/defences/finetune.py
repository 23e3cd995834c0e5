"""FT: fine-tune the victim on clean rows (Yosinski et al., 2014; appendix D), and FT+DMM."""

from __future__ import annotations

from bedkd.core.blindness import check_blind
from bedkd.core.defence_config import FinetuneConfig
from bedkd.defences.interface import Defended, EquippedView
from bedkd.nn.classifier import hard_phase
from bedkd.nn.training import WatchFunction, train


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
    check_blind(view.clean_share)
    phases = [hard_phase("clean", model, view.clean_share)]
    found = view.poison_few
    if found is not None and len(found):
        phases.append(hard_phase("punish", model, found, sign=-1.0))
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

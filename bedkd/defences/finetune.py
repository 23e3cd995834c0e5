"""FT: fine-tune the victim on clean rows (Yosinski et al., 2014; appendix D), and FT+DMM."""

from bedkd.core.blindness import check_blind
from bedkd.core.defence_config import FinetuneConfig
from bedkd.defences.interface import Defended, EquippedView
from bedkd.nn.supervised import train_on_labels
from bedkd.nn.training import TrainingSettings, WatchFunction


def defend(
    view: EquippedView, config: FinetuneConfig, *, seed: int, watch: WatchFunction | None = None
) -> Defended:
    """Cross-entropy on the clean share; with `poison_few`, its negative on the rows found.

    The latter is FT+DMM of Table 2. The paper does not say how fine-tuning uses what the DMM finds;
    here it climbs where AKD's punish pass climbs, with the hard loss alone (Eq. 6 with λ = 1).

    Raises DivergenceError: a loss is not finite.
    Raises BlindnessError: a table carries more than text and label.
    """
    model, found = view.victim.copy(), view.poison_few
    check_blind(view.clean_share)
    settings = TrainingSettings.of(config, section="finetune", title="fine-tuning")
    options = {"name": "clean", "climbed": found, "watch": watch}
    history = train_on_labels(model, view.clean_share, settings, seed=seed, **options)
    facts = {"n_clean": len(view.clean_share), "n_poison": 0 if found is None else len(found)}
    return Defended(model.predict, facts, history, model)

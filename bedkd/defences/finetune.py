"""FT: fine-tune the victim on clean rows (Yosinski et al., 2014; appendix D), and FT+DMM."""

import math

from bedkd.core.blindness import check_blind
from bedkd.core.config import AKDConfig
from bedkd.core.defence_config import FinetuneConfig
from bedkd.defences.interface import Defended, EquippedView
from bedkd.nn.supervised import label_phase
from bedkd.nn.training import TrainingSettings, WatchFunction, train

PAPERS_AKD = AKDConfig()


def defend(
    view: EquippedView,
    config: FinetuneConfig,
    *,
    seed: int,
    watch: WatchFunction | None = None,
    akd: AKDConfig = PAPERS_AKD,
) -> Defended:
    """Cross-entropy on the clean share; with `poison_few`, rows found are climbed in turn with it.

    The latter is FT+DMM of Table 2. The paper does not say how fine-tuning uses what the DMM finds;
    here it climbs as AKD, with the parameters `akd`, punishes: Eq. 6 as far as there is no teacher,
    -λ·L_hard, in as many steps (see `count_climbs`). Each climb follows a part of the clean share;
    the history's `clean_loss` is then the last part's.

    Raises DivergenceError: a loss is not finite.
    Raises BlindnessError: a table carries more than text and label.
    """
    model, found, share = view.victim.copy(), view.poison_few, view.clean_share
    check_blind(share)
    phases = [label_phase("clean", model, share)]
    if found is not None and len(found):
        climb = label_phase("punish", model, found, -akd.lambda_)
        n = count_climbs(len(found), config, akd)
        parts = [label_phase("clean", model, share.iloc[part::n]) for part in range(n)]
        phases = [phase for part in parts for phase in (part, climb)]
    settings = TrainingSettings.of(config, section="finetune", title="fine-tuning")
    options = {"compute": model.compute, "seed": seed, "watch": watch}
    history = train(model.model, phases, settings, **options)
    facts = {"n_clean": len(share), "n_poison": 0 if found is None else len(found)}
    return Defended(model.predict, facts, history, model)


def count_climbs(n_found: int, config: FinetuneConfig, akd: AKDConfig) -> int:
    """Passes over the rows found in each epoch, so that their steps are as many as AKD's, cycles ×
    ceil(n_p / batch); more if the epochs do not divide them."""
    wanted = akd.cycles * math.ceil(n_found / akd.batch_size)
    return math.ceil(wanted / (config.epochs * math.ceil(n_found / config.batch_size)))

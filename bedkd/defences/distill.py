"""KD: distil the victim into its copy on D_c^few (Table 2), and KD+DMM."""

from functools import partial

from bedkd.core.config import AKDConfig
from bedkd.data.splits import draw_clean_few
from bedkd.defences.interface import Defended, EquippedView
from bedkd.method.distillation import cycle_settings, distill, distillation_phase
from bedkd.method.losses import distillation_loss
from bedkd.nn.supervised import label_phase
from bedkd.nn.training import WatchFunction


def defend(
    view: EquippedView, config: AKDConfig, *, seed: int, watch: WatchFunction | None = None
) -> Defended:
    """AKD's trust pass alone (Eq. 5): AKD with n_p = 0.

    With `poison_few` it is KD+DMM: a pass of -λ·L_hard on the rows found follows each trust pass.
    The paper does not say what its KD+DMM does with them. With all of Eq. 6 it would be BeDKD; here
    it has the label's part, at its weight and in as many steps, and not the teacher's.

    Raises DivergenceError: a loss is not finite.
    Raises BlindnessError: a table carries more than text and label.
    """
    few = draw_clean_few(view.clean_pool, config.n_clean_per_class)
    combine = partial(distillation_loss, weight=config.lambda_)
    labels = few.label.to_numpy()
    phases = [distillation_phase("trust", view.victim, few, labels, config, combine)]
    found = view.poison_few
    if found is not None and len(found):
        phases.append(label_phase("punish", view.victim, found, -config.lambda_))
    settings = cycle_settings(config, "KD")
    student, history = distill(view.victim, phases, settings, seed=seed, watch=watch)
    facts = {"n_clean": len(few), "n_poison": 0 if found is None else len(found)}
    return Defended(student.predict, facts, history, student)

"""What each side reaches, all its epochs and cycles run: speed must not buy a worse result."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from bedkd.core.devices import Compute
from bedkd.data.splits import draw_clean_few
from bedkd.evaluation.sides import DefenderView, Truth
from bedkd.method.mepd import mepd, select_poison_few
from bedkd.report.speed.stages import kit_akd, kit_dmm, kit_scan
from bedkd.report.speed.textbook import textbook_akd, textbook_dmm, textbook_scan
from bedkd.runs.ensure import ensure, load_truth, load_view
from bedkd.runs.folders import Run

SHOWN = ("asr", "pacc", "cacc")


def compare_accuracies(runs: Sequence[Run]) -> pd.DataFrame:
    """Each run's victim, by the kit as the run has it and in float32; and from the first of them
    DMM, scan and AKD, by the kit, by the kit in float32, and by the textbook loop. Columns dataset,
    attack, model, seed, loop, seconds, and asr, pacc, cacc (percent)."""
    rows = []
    for run in runs:
        for name, own in {"victim": run, "victim fp32": in_float32(run)}.items():
            record = ensure(own, "victim")
            found = {field: record[field] for field in ("seconds", *SHOWN)}
            rows.append(name_run(run) | {"loop": name} | found)
        view, truth = load_view(run), load_truth(run)
        exact = Compute(view.victim.compute.device, torch.float32)
        plain = replace(view, victim=replace(view.victim, compute=exact))
        sides = {
            "bedkd": (view, kit_dmm, kit_scan, kit_akd),
            "bedkd fp32": (plain, kit_dmm, kit_scan, kit_akd),
            "textbook": (plain, textbook_dmm, textbook_scan, textbook_akd),
        }
        for name, (own, *loops) in sides.items():
            found = run_side(run, own, truth, *loops)
            rows.append(name_run(run) | {"loop": name} | found)
    return pd.DataFrame(rows)


def in_float32(run: Run) -> Run:
    return replace(run, config=replace(run.config, precision="fp32"))


def name_run(run: Run) -> dict:
    c = run.config
    names = {"dataset": c.data.name, "attack": c.attack.name, "model": c.victim.model}
    return names | {"seed": c.seed}


def run_side(run: Run, view: DefenderView, truth: Truth, dmm, scan, akd) -> dict:
    """Seconds of DMM and AKD, and what `truth` says of CM."""
    c, victim = run.config, view.victim
    few = draw_clean_few(view.clean_pool, c.dmm.n_clean_per_class)
    mapped, first = dmm(victim, few, c.dmm, seed=c.seed, epochs=c.dmm.epochs)
    options = {"batch_size": c.dmm.batch_size} if scan is textbook_scan else {}
    before, after = scan([victim, mapped], list(view.train.text), **options)
    poison_few = select_poison_few(view.train, mepd(before, after), before, c.mepd, seed=c.seed)
    clean_few = draw_clean_few(view.clean_pool, c.akd.n_clean_per_class)
    rows = (victim, clean_few, poison_few[["text", "label"]])
    model, second = akd(*rows, c.akd, seed=c.seed, cycles=c.akd.cycles)
    truth = truth.without(poison_few.row)
    scored = truth.score({name: model.predict(list(t.text)) for name, t in truth.tests.items()})
    return {"seconds": first.total + second.total} | {name: scored[name] for name in SHOWN}


def spread(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Mean over the seeds and standard deviation between them, of each loop."""
    if accuracies.empty:
        return accuracies
    return accuracies.groupby("loop", sort=False)[list(SHOWN)].agg(["mean", np.std]).round(2)

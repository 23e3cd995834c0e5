"""The figures of a profile's finished runs: for `11_figures` and for `bedkd reference`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt

from bedkd.report.figures import (
    plot_cycles,
    plot_cycles_by,
    plot_forgetting,
    plot_gamma,
    plot_grid,
    plot_tsne_grid,
    save_figure,
)
from bedkd.report.loading import (
    Batch,
    list_attacked,
    load_curves,
    load_cycles,
    load_embeddings,
    load_point_cycles,
    load_records,
)
from bedkd.report.overview import compare_cells, draw_overview
from bedkd.report.sensitivity import load_points
from bedkd.report.sensitivity_figures import draw_curves, draw_heats, draw_tornados

Figures = dict[str, plt.Figure]  # by the names of their files


def draw_cells(batch: Batch) -> Figures:
    cells = compare_cells(load_records(batch))
    return {"overview": draw_overview(cells)} if len(cells) else {}


def draw_numbers(batch: Batch) -> Figures:
    cycles = load_point_cycles(batch.sweeps.get("n_poison", []), "n_poison")
    is_varied = len(cycles) and cycles.n_poison.nunique() > 1
    by_number = partial(plot_cycles_by, by="n_poison")
    return {"figure3": plot_grid(cycles, by_number)} if is_varied else {}


def draw_gammas(batch: Batch) -> Figures:
    curves = {
        "figure4": load_curves(batch.runs, "test"),
        "figure4_train": load_curves(batch.runs, "train"),
    }
    return {name: plot_grid(rows, plot_gamma) for name, rows in curves.items() if len(rows)}


def draw_features(batch: Batch) -> Figures:
    return {
        f"figure5-{Path(dataset).stem}": plot_tsne_grid(points, **about)
        for dataset, (points, about) in load_embeddings(batch.runs).items()
    }


def draw_cycles(batch: Batch) -> Figures:
    cycles = load_cycles(batch.runs)
    return {"cycles": plot_grid(cycles, plot_cycles)} if len(cycles) else {}


def draw_forgetting(batch: Batch) -> Figures:
    plus = [batch.profile.plus_run(run) for run in batch.runs]
    cycles = load_cycles(list_attacked(plus, "akd"))
    return {"cycles_plus": plot_grid(cycles, plot_forgetting)} if len(cycles) else {}


def draw_sensitivity(batch: Batch) -> Figures:
    points = load_points(batch.profile, batch.runs, batch.overrides)
    found = draw_curves(points) | draw_heats(points)
    return found | (draw_tornados(points) if batch.profile.sweep_plus else {})


SECTIONS: dict[str, Callable[[Batch], Figures]] = {
    "overview": draw_cells,
    "figure3": draw_numbers,
    "figure4": draw_gammas,
    "figure5": draw_features,
    "cycles": draw_cycles,
    "forgetting": draw_forgetting,
    "sensitivity": draw_sensitivity,
}


def draw_section(batch: Batch, folder: Path, section: str) -> None:
    """Draw a section's figures, of what is finished, and save each in `folder`."""
    for name, figure in SECTIONS[section](batch).items():
        save_figure(figure, folder / name)


def draw_all(batch: Batch, folder: Path) -> None:
    """Every section, with nothing left open."""
    for section in SECTIONS:
        draw_section(batch, folder, section)
        plt.close("all")

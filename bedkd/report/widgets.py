"""The controls of `20_explore`: what they show (HTML), and the views that they make up.

ipywidgets alone: its sliders and menus are the same in JupyterLab, VS Code and Colab. A figure is
drawn once, and a line in HTML moves over it, since matplotlib takes a tenth of a second and more to
draw 70,000 rows again, and ipympl would bring JavaScript of its own to each of the three. Whatever
comes from data is escaped.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import ipywidgets as ipw
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bedkd.core.errors import BedkdError
from bedkd.report import explore, figures
from bedkd.report.explore import KINDS, Found, Threshold, need
from bedkd.report.found_sweeps import find_sweeps
from bedkd.report.layouts import NAMES
from bedkd.report.loading import load_scores
from bedkd.report.poison_text import mark_trigger
from bedkd.report.sensitivity import describe_points, name_setting
from bedkd.report.sensitivity_figures import draw_study
from bedkd.report.show import escape, paragraph, tabulate, visible
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_history

STEP = 0.005  # of the slider over γ
N_TEXTS = 8  # nearest the threshold
NAME = {"p": "p", "mepd": "γ"}  # of the threshold
WIDE = {"width": "98%", "max_width": "640px"}
PICTURE = {"max_width": "min(100%, 960px)"}
PARTING = {"mepd_clean": "MEPD, clean", "mepd_poisoned": "MEPD, poisoned", "flipped_loss": "loss"}
RATES = {name: NAMES["metric"][name] for name in ("asr", "pacc", "cacc", "lfr_target")}
LOSSES = {"trust_loss": "loss, trust", "punish_loss": "loss, punish"}
READ = {"dmm": PARTING, "akd": RATES | LOSSES}  # of a stage's history
UNITS = {"dmm": "DMM epoch", "akd": "AKD cycle"}


def draw_scores(run: Run, score: str, *, ax: Axes | None = None) -> Axes:
    """The histogram of D*'s scores, with the first of `list_gammas`."""
    need(run, "data", "mepd")
    rows, (gamma, *_) = load_scores(run, "train"), explore.list_gammas(run, score).values()
    return figures.plot_scores(rows, threshold=gamma, score=score, ax=ax)


def draw_history(run: Run, stage: str, *, ax: Axes | None = None) -> Axes:
    """How clean and poisoned rows part while the DMM trains, or what AKD's cycles do."""
    need(run, "mepd", stage)
    history = read_history(run, stage)
    if stage == "dmm":
        gamma = next(iter(explore.list_gammas(run, "mepd").values()))
        return figures.plot_parting(history, gamma=gamma, ax=ax)
    return figures.plot_forgetting(history, never_poisoned=run.record("never_poisoned"), ax=ax)


def guard(view: Callable[..., ipw.Widget], *given) -> ipw.Widget:
    """The view, or one sentence of what is wrong."""
    try:
        return view(*given)
    except (BedkdError, OSError, ValueError) as error:
        return ipw.HTML(paragraph(escape(error)))


def react(controls: Iterable[ipw.Widget], show: Callable) -> None:
    """Show now, and whenever one of the controls is changed."""
    for control in controls:
        control.observe(show, "value")
    show()


def pick_run(found: Sequence[Found], run: Run) -> ipw.Dropdown:
    """A menu of what was found; at first `run`, if it is there."""
    options = [(f.label, f) for f in found]
    look = {"layout": WIDE, "style": {"description_width": "initial"}}  # room for the label
    return ipw.Dropdown(options=options, value=find_option(found, run), description="run", **look)


def follow(picker: ipw.Dropdown, view: Callable[[Run], ipw.Widget]) -> ipw.Widget:
    """The view of the run that is picked, made anew when another is."""
    box = ipw.VBox()

    def show(_=None):
        run, problem = picker.value.run, picker.value.problem
        box.children = [guard(view, run) if run else ipw.HTML(paragraph(escape(problem)))]

    react((picker,), show)
    return box


def slide(
    slider: ipw.Widget, draw: Callable[..., Axes], tell: Callable[..., str], width: int = 480
) -> ipw.Widget:
    """A slider, a figure, drawn once by `draw` (which takes `ax`), with a line that follows, and
    what `tell` says (HTML) of the slider's value. Sizes in pixels."""
    height = 240
    figure = Figure((width / 100, height / 100), dpi=200, layout="constrained")
    axes = draw(ax=figure.subplots())
    picture = to_png(figure)
    low, high = axes.get_xlim()
    cell = {"grid_area": "1 / 1"}
    size = {"width": f"{width}px", "height": f"{height}px"}
    image = ipw.Image(value=picture, layout=cell | size)
    line, told = ipw.HTML(layout=cell), ipw.HTML()

    def show(_=None):
        x = min(max(slider.value, low), high)
        share = axes.transData.transform((x, 0))[0] / figure.bbox.width
        look = f"margin-left: {share * width - 1:.0f}px; width: 2px; height: {height}px"
        line.value = f'<div style="{look}; background: #d33"></div>'
        told.value = tell(slider.value)

    react((slider,), show)
    both = [ipw.GridBox([image, line]), told]
    return ipw.VBox([slider, ipw.HBox(both, layout={"flex_flow": "row wrap"})])


def to_png(figure: Figure) -> bytes:
    """And closed, or a notebook would show it again."""
    figure.savefig(png := io.BytesIO(), format="png", dpi=160)
    plt.close(figure)
    return png.getvalue()


def view_gamma(run: Run) -> ipw.Widget:
    """The slider over the threshold, for each of the run's scores."""
    scores, titles = explore.list_scores(run), {"p": "p (decides)", "mepd": "MEPD"}
    tabs = [slide_gamma(run, score) for score in scores]
    return ipw.Tab(tabs, titles=[titles[score] for score in scores])


def slide_gamma(run: Run, score: str) -> ipw.Widget:
    threshold, gammas = explore.open_threshold(run, score), explore.list_gammas(run, score)
    names = run.record("data")["label_names"]
    top = max(STEP, *gammas.values(), np.nanmax(threshold.scores, initial=0))
    look = {"step": STEP, "readout_format": ".3f", "layout": WIDE, "description": NAME[score]}
    slider = ipw.FloatSlider(next(iter(gammas.values())), min=STEP, max=top, **look)
    kind, texts = ipw.Dropdown(options=KINDS, description="texts"), ipw.HTML()

    def tell(gamma: float) -> str:
        return show_numbers(threshold, {"slider": gamma} | gammas)

    def show(_=None):
        texts.value = show_nearest(threshold, slider.value, kind.value, names)

    main = slide(slider, partial(draw_scores, run, score), tell, 560)
    react((slider, kind), show)
    return ipw.VBox([main, kind, texts])


def show_numbers(threshold: Threshold, gammas: dict[str, float]) -> str:
    found = {f"{name}: {gamma:.3f}": threshold.at(gamma) for name, gamma in gammas.items()}
    numbers = pd.DataFrame.from_dict(found, orient="index")
    return tabulate(numbers.astype({name: float for name in numbers if "%" in name}))


def show_nearest(threshold: Threshold, gamma: float, kind: str, names: Sequence[str]) -> str:
    rows = threshold.nearest(gamma, kind, N_TEXTS)
    if rows.empty:
        return paragraph(f"At {gamma:.3f} there are no {kind}.")
    pairs = zip(rows.clean_text.map(visible), rows.text.map(visible), strict=True)
    columns = {
        "score": rows.score.map("{:.3f}".format),
        "is": np.where(rows.is_poisoned, "poisoned", "clean"),
        "label": [names[label] for label in rows.label],
        "text in D*": [mark_trigger(*pair) for pair in pairs],
    }
    return tabulate(pd.DataFrame(columns).reset_index(drop=True), "text in D*")


def view_training(found: Sequence[Found], run: Run) -> ipw.Widget:
    """Two runs side by side, at first BeDKD and BeDKD+ of the cell of `run`."""
    pickers = [pick_run(found, side) for side in explore.find_pair(found, run)]
    look = {"width": "410px"}  # the numbers go under the picture
    columns = [ipw.VBox([p, follow(p, view_history)], layout=look) for p in pickers]
    return ipw.HBox(columns, layout={"flex_flow": "row wrap"})


def view_history(run: Run) -> ipw.Widget:
    """A slider over DMM epochs and one over AKD cycles."""
    return ipw.VBox([guard(slide_history, run, stage) for stage in READ])


def slide_history(run: Run, stage: str) -> ipw.Widget:
    need(run, stage)
    history = read_history(run, stage)
    last = int(history.epoch.max())
    look = {"description": UNITS[stage], "layout": WIDE}
    slider = ipw.IntSlider(last, min=0, max=max(1, last), **look)

    def tell(epoch: int) -> str:
        rows = []
        for name, (value, at) in explore.read_moment(history, epoch, READ[stage]).items():
            digits = 1 if name in RATES else 3
            told = (None, None) if value is None else (f"{value:.{digits}f}", f"{at:.0f}")
            rows.append((READ[stage][name], *told))
        return tabulate(pd.DataFrame(rows, columns=["", "value", "read after"]))

    return slide(slider, partial(draw_history, run, stage), tell, 400)


def view_sweeps(found: Sequence[Found], picker: ipw.Dropdown) -> ipw.Widget:
    """A parameter's curves or a grid's heat maps, and the numbers at a value, whose runs `picker`
    can be set to."""
    sweeps = find_sweeps(f.run for f in found if f.run)
    if not sweeps:
        return ipw.HTML(paragraph("No two finished runs of a cell differ in one parameter alone."))
    menu, box = ipw.Dropdown(options=list(sweeps), description="sweep", layout=WIDE), ipw.VBox()

    def show(_=None):
        box.children = [pick_point(sweeps[menu.value], found, picker)]

    react((menu,), show)
    return ipw.VBox([menu, box])


def pick_point(points: pd.DataFrame, found: Sequence[Found], picker: ipw.Dropdown) -> ipw.Widget:
    """One sweep, with a slider over its values: the larger mark, or the frame, is at the slider's,
    and a button for each seed's run there."""
    settings = points.setting.unique()
    options = [(visible(name_setting(setting)), place) for place, setting in enumerate(settings)]
    look = {"description": "value", "continuous_update": False, "layout": WIDE}
    slider = ipw.SelectionSlider(options=options, **look)
    image, told, buttons = ipw.Image(layout=PICTURE), ipw.HTML(), ipw.HBox()

    def show(_=None):
        is_picked = [setting == settings[slider.value] for setting in points.setting]
        image.value = to_png(draw_study(points.assign(is_own=is_picked)))
        told.value = tabulate(describe_points(points[is_picked]))
        done = points[is_picked].query("state == 'ok'")
        buttons.children = [make_button(run) for run in done.run]

    def make_button(run: Run) -> ipw.Button:
        button = ipw.Button(description=f"Show seed {run.config.seed} in the views above")
        button.layout.width = "260px"
        button.on_click(lambda _: setattr(picker, "value", find_option(found, run)))
        return button

    react((slider,), show)
    return ipw.VBox([slider, image, told, buttons])


def find_option(found: Sequence[Found], run: Run) -> Found:
    """The option that is this run, or else the first."""
    return next((f for f in found if f.run == run), found[0])

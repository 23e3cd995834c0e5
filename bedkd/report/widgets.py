"""The controls of `20_explore`: what they show (HTML), and the views that they make up.

ipywidgets alone: its sliders and menus are the same in JupyterLab, VS Code and Colab. A figure is
drawn once, and a line in HTML moves over it, since matplotlib takes a tenth of a second and more to
draw 70,000 rows again, and ipympl would bring JavaScript of its own to each of the three. Whatever
comes from data is escaped.
"""

import io
from collections.abc import Callable, Sequence
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
from bedkd.report.loading import load_scores, read_cycles
from bedkd.report.sensitivity import describe_points
from bedkd.report.sensitivity_figures import draw_study
from bedkd.report.show import (
    escape,
    format_fact,
    format_value,
    mark_trigger,
    name_fact,
    paragraph,
    tabulate,
    visible,
)
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_history

STEP = 0.005  # of the slider over γ
N_TEXTS = 8  # nearest the threshold
SCORES = {"p": ("p", "p (decides)"), "mepd": ("γ", "MEPD")}  # the threshold's name, and a tab's
WIDE = {"width": "98%", "max_width": "640px"}
READ = {  # of a stage's history, by its epochs
    "dmm": ("DMM epoch", ("mepd_clean", "mepd_poisoned", "flipped_loss")),
    "akd": ("AKD cycle", ("asr", "pacc", "cacc", "lfr_target", "trust_loss", "punish_loss")),
}


def draw_scores(run: Run, score: str | None = None, *, ax: Axes | None = None) -> Axes:
    """The histogram of D*'s scores (None: of those that decide), with that of `list_gammas`."""
    need(run, "data", "mepd")
    gammas = explore.list_gammas(run)
    score = score or next(iter(gammas))
    _, gamma = gammas[score]
    return figures.plot_scores(load_scores(run, "train"), threshold=gamma, score=score, ax=ax)


def draw_history(run: Run, stage: str, *, ax: Axes | None = None) -> Axes:
    """How clean and poisoned rows part while the DMM trains, or what AKD's cycles do."""
    need(run, "mepd", stage)
    if stage == "akd":
        return figures.plot_forgetting(read_cycles(run), ax=ax)
    _, gamma = explore.list_gammas(run)["mepd"]
    return figures.plot_parting(read_history(run, stage), gamma=gamma, ax=ax)


def guard(view: Callable[..., ipw.Widget], *given) -> ipw.Widget:
    """The view, or one sentence of what is wrong."""
    try:
        return view(*given)
    except (BedkdError, OSError, ValueError) as error:
        return ipw.HTML(paragraph(escape(error)))


def react(target: ipw.Widget, trait: str, make: Callable, *controls: ipw.Widget) -> ipw.Widget:
    """The target, whose trait is what `make` says of the controls' values, now and from now on."""

    def show(_=None):
        setattr(target, trait, make(*(control.value for control in controls)))

    for control in controls:
        control.observe(show, "value")
    show()
    return target


def tell(make: Callable[..., str], *controls: ipw.Widget, **layout: str) -> ipw.HTML:
    """What `make` says (HTML) of the controls' values."""
    return react(ipw.HTML(layout=layout), "value", make, *controls)


def follow(picker: ipw.Dropdown, view: Callable[[Run], ipw.Widget]) -> ipw.Widget:
    """The view of the run that is picked, made anew for another; or why it cannot be opened."""

    def show(picked: Run | str) -> list[ipw.Widget]:
        if isinstance(picked, str):
            return [ipw.HTML(paragraph(escape(picked)))]
        return [guard(view, picked)]

    return react(ipw.VBox(), "children", show, picker)


def pick_run(found: Sequence[Found], run: Run) -> ipw.Dropdown:
    """A menu of what was found; at first `run`, if it is there."""
    look = {"layout": WIDE, "style": {"description_width": "initial"}}  # room for the label
    value = find_option(found, run)
    return ipw.Dropdown(options=found, value=value, description="run", **look)


def find_option(found: Sequence[Found], run: Run) -> Run | str:
    """The option with the results of this run, or else the first."""
    folder = run.folder("akd")
    same = (option for option in explore.list_open(found) if option.folder("akd") == folder)
    return next(same, found[0][1])


def slide(
    slider: ipw.Widget, draw: Callable[..., Axes], make: Callable[..., str], width: int = 480
) -> ipw.Widget:
    """A slider, a figure, drawn once by `draw` (which takes `ax`), with a line that follows, and
    what `make` says (HTML) of the slider's value. Sizes in pixels."""
    height = 240
    figure = Figure((width / 100, height / 100), dpi=200, layout="constrained")
    axes = draw(ax=figure.subplots())
    picture = to_png(figure)
    low, high = axes.get_xlim()

    def place_line(x: float) -> str:
        share = axes.transData.transform((min(max(x, low), high), 0))[0] / figure.bbox.width
        look = f"margin-left: {share * width - 1:.0f}px; width: 2px; height: {height}px"
        return f'<div style="{look}; background: #d33"></div>'

    cell = {"grid_area": "1 / 1"}
    size = {"width": f"{width}px", "height": f"{height}px"}
    image = ipw.Image(value=picture, layout=cell | size)
    both = [ipw.GridBox([image, tell(place_line, slider, **cell)]), tell(make, slider)]
    return ipw.VBox([slider, ipw.HBox(both, layout={"flex_flow": "row wrap"})])


def to_png(figure: Figure) -> bytes:
    """And closed, or a notebook would show it again."""
    figure.savefig(png := io.BytesIO(), format="png", dpi=160)
    plt.close(figure)
    return png.getvalue()


def view_gamma(run: Run) -> ipw.Widget:
    """The slider over the threshold, for each of the run's scores."""
    scores = explore.list_gammas(run)
    tabs = [slide_gamma(run, score, *given) for score, given in scores.items()]
    return ipw.Tab(tabs, titles=[SCORES[score][1] for score in scores])


def slide_gamma(run: Run, score: str, name: str, gamma: float) -> ipw.Widget:
    threshold, labels = explore.open_threshold(run, score), run.record("data")["label_names"]
    top = max(STEP, gamma, np.nanmax(threshold.rows.score, initial=0))
    look = {"step": STEP, "readout_format": ".3f", "layout": WIDE, "description": SCORES[score][0]}
    slider = ipw.FloatSlider(gamma, min=STEP, max=top, **look)
    kind = ipw.Dropdown(options=KINDS, description="texts")

    def show_both(value: float) -> str:
        return show_numbers(threshold, {"slider": value, name: gamma})

    texts = tell(lambda *at: show_nearest(threshold, *at, labels), slider, kind)
    main = slide(slider, partial(draw_scores, run, score), show_both, 560)
    return ipw.VBox([main, kind, texts])


def show_numbers(threshold: Threshold, gammas: dict[str, float]) -> str:
    found = {f"{name}: {gamma:.3f}": threshold.at(gamma) for name, gamma in gammas.items()}
    numbers = pd.DataFrame.from_dict(found, orient="index")
    return tabulate(numbers.astype({name: float for name in numbers if "%" in name}))


def show_nearest(threshold: Threshold, gamma: float, kind: str, names: Sequence[str]) -> str:
    rows = threshold.nearest(gamma, kind, N_TEXTS)
    if rows.empty:
        return paragraph(f"At {gamma:.3f} there are no {kind}.")
    columns = {
        "score": rows.score.map("{:.3f}".format),
        "is": np.where(rows.is_poisoned, "poisoned", "clean"),
        "label": [names[label] for label in rows.label],
        "text in D*": list(map(mark_trigger, rows.clean_text, rows.text)),
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
    history, (unit, names) = read_history(run, stage), READ[stage]
    last = int(history.epoch.max())
    slider = ipw.IntSlider(last, min=0, max=max(1, last), description=unit, layout=WIDE)

    def show(epoch: int) -> str:
        moment = explore.read_moment(history, epoch, names)
        values = list(map(format_fact, names, moment.value))
        told = {"": list(map(name_fact, names)), "value": values}
        return tabulate(pd.DataFrame(told | {"read after": list(map(format_value, moment["at"]))}))

    return slide(slider, partial(draw_history, run, stage), show, 400)


def view_sweeps(
    sweeps: dict[str, pd.DataFrame], found: Sequence[Found], picker: ipw.Dropdown
) -> ipw.Widget:
    """A parameter's curves or a grid's heat maps (see `find_sweeps`), and at a point its numbers,
    whose run `picker` can be set to."""
    if not sweeps:
        return ipw.HTML(paragraph("No sweep of the profile has two finished values of this cell."))
    menu = ipw.Dropdown(options=list(sweeps), description="sweep", layout=WIDE)

    def show(name: str) -> list[ipw.Widget]:
        return [pick_point(sweeps[name], found, picker)]

    return ipw.VBox([menu, react(ipw.VBox(), "children", show, menu)])


def pick_point(points: pd.DataFrame, found: Sequence[Found], picker: ipw.Dropdown) -> ipw.Widget:
    """One sweep, with a slider over its finished points: the larger mark, or the frame, is at the
    value of the slider's, and a button opens its run."""
    done = points[points.state == "ok"]
    told = describe_points(done)
    labels = map(visible, told.value + ", " + told.method + ", seed " + told.seed)
    look = {"description": "point", "continuous_update": False, "layout": WIDE}
    slider = ipw.SelectionSlider(options=list(zip(labels, done.index, strict=True)), **look)

    def draw(at: int) -> bytes:
        return to_png(draw_study(points.assign(is_own=points.setting == done.setting[at])))

    image = ipw.Image(layout={"max_width": "min(100%, 960px)"})
    react(image, "value", draw, slider)
    numbers = tell(lambda at: tabulate(describe_points(done.loc[[at]])), slider)
    button = ipw.Button(description="Show its run in the views above", layout={"width": "260px"})
    button.on_click(lambda _: setattr(picker, "value", find_option(found, done.run[slider.value])))
    return ipw.VBox([slider, image, numbers, button])

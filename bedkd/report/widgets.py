"""The controls of `20_explore`: what they show (HTML), and the views that they make up.

ipywidgets alone: its sliders and menus are the same in JupyterLab, VS Code and Colab. A figure is
drawn once, and a line in HTML moves over it, since matplotlib takes a tenth of a second and more to
draw 70,000 rows again, and ipympl would bring JavaScript of its own to each of the three. Whatever
comes from data is escaped.
"""

import html
import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import ipywidgets as ipw
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bedkd.core.errors import BedkdError
from bedkd.report import explore, figures
from bedkd.report.explore import KINDS, METRICS, PLACES, Found, Threshold, need
from bedkd.report.layouts import NAMES
from bedkd.report.loading import load_scores
from bedkd.report.poison_text import mark_trigger
from bedkd.report.show import NO_TEX, visible
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_history, read_model

STEP = 0.005  # of the slider over γ
N_TEXTS = 8  # nearest the threshold
NAME = {"p": "p", "mepd": "γ"}  # of the threshold
# `!important`: JupyterLab has a style of its own for tables that no widget shows
STYLE = """<style>
.bedkd td, .bedkd th {padding: 2px 8px; text-align: left !important; vertical-align: top}
.bedkd td {line-height: 1.4; overflow-wrap: break-word}
.bedkd td:last-child {overflow-wrap: anywhere}
</style>"""
WIDE = {"width": "98%", "max_width": "640px"}
MODELS = {"victim": "victim", "dmm": "DMM", "akd": "clean model"}
PARTING = {"mepd_clean": "MEPD, clean", "mepd_poisoned": "MEPD, poisoned", "flipped_loss": "loss"}
RATES = {name: NAMES["metric"][name] for name in METRICS[:4]}
LOSSES = {"trust_loss": "loss, trust", "punish_loss": "loss, punish"}
READ = {"dmm": PARTING, "akd": RATES | LOSSES}  # of a stage's history
UNITS = {"dmm": "DMM epoch", "akd": "AKD cycle"}


def escape(text: object) -> str:
    return html.escape(visible(str(text)))


def paragraph(content: str) -> str:
    return f'<p {NO_TEX} style="overflow-wrap: anywhere"><bdi>{content}</bdi></p>'


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table of what is HTML already."""
    head = "".join(f"<th>{text}</th>" for text in heads)
    cells = ("".join(f"<td><bdi>{text}</bdi></td>" for text in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'{STYLE}<div {NO_TEX}><table class="bedkd"><tr>{head}</tr>{body}</table></div>'


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:,.{digits}f}"


def draw_scores(run: Run, score: str, *, ax: Axes | None = None) -> Axes:
    """The histogram of D*'s scores, with the first of `list_gammas`."""
    need(run, "data", "mepd")
    rows, (gamma, *_) = load_scores(run, "train"), explore.list_gammas(run, score).values()
    if score == "p":
        return figures.plot_p_values(rows, level=gamma, ax=ax)
    return figures.plot_mepd(rows, gamma=gamma, ax=ax)


def draw_history(run: Run, stage: str, *, ax: Axes | None = None) -> Axes:
    """How clean and poisoned rows part while the DMM trains, or what AKD's cycles do."""
    need(run, "mepd", stage)
    history = read_history(run, stage)
    if stage == "dmm":
        gamma = next(iter(explore.list_gammas(run, "mepd").values()))
        return figures.plot_parting(history, gamma=gamma, ax=ax)
    return figures.plot_forgetting(history, never_poisoned=run.record("never_poisoned"), ax=ax)


class Probe:
    """The models of a run, each loaded when it is first asked."""

    def __init__(self, run: Run):
        self.run, self.models = run, {}

    def example(self) -> str:
        """A clean test text of another class than the target."""
        need(self.run, "data")
        rows = pd.read_parquet(self.run.folder("data") / "truth/clean.parquet")
        is_other = rows.label != self.run.record("data")["target_label"]
        return next(iter(rows.text[is_other]), "")

    def show(self, text: str, trigger: str, place: str) -> str:
        """HTML: the text with the trigger marked, and the answers of MODELS."""
        if not text.split():
            return paragraph("Type a text.")
        asked = explore.insert_trigger(text, trigger, place)
        rows = [[name, *self.show_answer(stage, asked)] for stage, name in MODELS.items()]
        heads = (
            "model",
            "answer",
            "probabilities",
            "what carried it (drop without the word, in points)",
        )
        return paragraph(mark_trigger(visible(text), visible(asked))) + table(heads, rows)

    def show_answer(self, stage: str, text: str) -> list[str]:
        try:
            if stage not in self.models:
                need(self.run, stage)
                self.models[stage] = read_model(self.run, stage)
        except BedkdError as error:
            return ["–", "–", escape(error)]
        p, drops = explore.occlude(self.models[stage], text)
        names = [escape(name) for name in self.models[stage].label_names]
        shares = [f"{name} {100 * share:.1f}%" for name, share in zip(names, p, strict=True)]
        return [f"<b>{names[p.argmax()]}</b>", "<br>".join(shares), shade(text.split(), drops)]


def shade(words: Sequence[str], drops: np.ndarray) -> str:
    """HTML: the more a word carried, the darker: orange for the answer, blue against it."""
    parts = []
    for word, drop in zip(words, drops, strict=False):
        colour = f"rgba({'213,94,0' if drop > 0 else '0,114,178'},{min(0.8, abs(drop)):.2f})"
        parts.append(f'<span style="background: {colour}">{escape(word)}</span>')
    most = np.argsort(-drops, kind="stable")[:3]
    named = ", ".join(f"{escape(words[i])} {100 * drops[i]:+.1f}" for i in most)
    rest = " …" * (len(words) > len(drops))
    return f"{' '.join(parts)}{rest}<br><small>{named}</small>"


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
    first = next((f for f in found if f.run == run), found[0])
    options = [(f.label, f) for f in found]
    look = {"layout": WIDE, "style": {"description_width": "initial"}}  # room for the label
    return ipw.Dropdown(options=options, value=first, description="run", **look)


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
    figure.savefig(png := io.BytesIO(), format="png")
    low, high = axes.get_xlim()
    cell = {"grid_area": "1 / 1"}
    size = {"width": f"{width}px", "height": f"{height}px"}
    image = ipw.Image(value=png.getvalue(), layout=cell | size)
    line, told = ipw.HTML(layout=cell), ipw.HTML()

    def show(_=None):
        x = min(max(slider.value, low), high)
        share = axes.transData.transform((x, 0))[0] / figure.bbox.width
        look = f"margin-left: {share * width - 1:.0f}px; width: 2px; height: {height}px"
        line.value = f'<div style="{look}; background: #d33"></div>'
        told.value = tell(slider.value)

    react((slider,), show)
    picture = ipw.GridBox([image, line])
    return ipw.VBox([slider, ipw.HBox([picture, told], layout={"flex_flow": "row wrap"})])


def view_gamma(run: Run) -> ipw.Widget:
    """The slider over the threshold, for each of the run's scores."""
    titles = {"p": "p (decides)", "mepd": "MEPD"}
    tab = ipw.Tab([slide_gamma(run, score) for score in explore.list_scores(run)])
    for place, score in enumerate(explore.list_scores(run)):
        tab.set_title(place, titles[score])
    return tab


def slide_gamma(run: Run, score: str) -> ipw.Widget:
    threshold, gammas = explore.open_threshold(run, score), explore.list_gammas(run, score)
    names = run.record("data")["label_names"]
    top = max(STEP, *gammas.values(), *threshold.sorted["all"][-1:])
    look = {"step": STEP, "readout_format": ".3f", "layout": WIDE, "description": NAME[score]}
    slider = ipw.FloatSlider(next(iter(gammas.values())), min=STEP, max=top, **look)
    kind, texts = ipw.Dropdown(options=list(KINDS), description="texts"), ipw.HTML()

    def tell(gamma: float) -> str:
        return show_numbers(threshold, {"slider": gamma} | gammas)

    def show(_=None):
        texts.value = show_nearest(threshold, slider.value, kind.value, names)

    main = slide(slider, partial(draw_scores, run, score), tell, 560)
    react((slider, kind), show)
    return ipw.VBox([main, kind, texts])


def show_numbers(threshold: Threshold, gammas: dict[str, float]) -> str:
    found = [threshold.at(gamma) for gamma in gammas.values()]
    heads = ["", *(f"{name}: {gamma:.3f}" for name, gamma in gammas.items())]
    return table(heads, [[k, *(number(f[k], int("%" in k)) for f in found)] for k in found[0]])


def show_nearest(threshold: Threshold, gamma: float, kind: str, names: Sequence[str]) -> str:
    rows = threshold.nearest(gamma, kind, N_TEXTS)
    if rows.empty:
        return paragraph(f"At {gamma:.3f} there are no {kind}.")
    marked = map(mark_trigger, rows.clean_text.map(visible), rows.text.map(visible))
    kinds = np.where(rows.is_poisoned, "poisoned", "clean")
    labels = [escape(names[label]) for label in rows.label]
    cells = zip(rows.score.map("{:.3f}".format), kinds, labels, marked, strict=True)
    return table(("score", "is", "label", "text in D*"), cells)


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
        found = explore.read_moment(history, epoch, READ[stage])
        rows = [
            (READ[stage][name], number(value, 1 if name in RATES else 3), number(at, 0))
            for name, (value, at) in found.items()
        ]
        return table(("", "value", "read after"), rows)

    return slide(slider, partial(draw_history, run, stage), tell, 400)


def view_probe(run: Run) -> ipw.Widget:
    """A text, a trigger and its place: the models answer when one of them is changed."""
    probe, answers, button = Probe(run), ipw.HTML(), ipw.Button(description="Ask")
    triggers = [("none", ""), *((visible(name), name) for name in explore.list_triggers(run))]
    look = {"continuous_update": False, "layout": WIDE}
    controls = {
        "text": ipw.Textarea(probe.example(), description="text", **look),
        "trigger": ipw.Dropdown(options=triggers, value=triggers[-1][1], description="trigger"),
        "place": ipw.ToggleButtons(options=list(PLACES), description="where"),
    }

    def ask(_=None):
        answers.value = probe.show(**{name: control.value for name, control in controls.items()})

    button.on_click(ask)
    react(controls.values(), ask)
    return ipw.VBox([*controls.values(), button, answers])


def show_example(run: Run) -> str:
    """HTML: the answers to a text without and with the trigger."""
    probe, triggers = Probe(run), ["", *explore.list_triggers(run)[-1:]]
    return "".join(probe.show(probe.example(), trigger, "middle") for trigger in triggers)


def view_sweeps(found: Sequence[Found], picker: ipw.Dropdown) -> ipw.Widget:
    """A parameter's curve, and the numbers at a value, whose run `picker` can be set to."""
    sweeps = explore.find_sweeps(f.run for f in found if f.run)
    if not sweeps:
        return ipw.HTML(paragraph("No two finished runs of a cell differ in one parameter alone."))
    menu, box = ipw.Dropdown(options=list(sweeps), description="sweep", layout=WIDE), ipw.VBox()

    def show(_=None):
        box.children = [slide_sweep(sweeps[menu.value], found, picker)]

    react((menu,), show)
    return ipw.VBox([menu, box])


def slide_sweep(points: pd.DataFrame, found: Sequence[Found], picker: ipw.Dropdown) -> ipw.Widget:
    values = [rows for _, rows in points.groupby("value", sort=False, dropna=False)]
    options = [(str(rows.value.iloc[0]), place) for place, rows in enumerate(values)]
    slider = ipw.SelectionSlider(options=options, description="value", layout=WIDE)
    button = ipw.Button(description="Show this run in the views above", layout={"width": "260px"})

    def tell(place: int) -> str:
        rows = [[NAMES["metric"][m], *map(number, values[place][m])] for m in METRICS]
        return table(["%", *(f"seed {seed}" for seed in values[place].seed)], rows)

    def open_run(_):
        picker.value = next(f for f in found if f.run == values[slider.value].run.iloc[0])

    button.on_click(open_run)
    return ipw.VBox([slide(slider, partial(figures.plot_points, points), tell), button])

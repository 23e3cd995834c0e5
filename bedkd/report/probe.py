"""The live probe of `20_explore`: a text, a trigger in it, and what a run's models answer.

Whatever comes from data or is typed is escaped.
"""

from collections.abc import Sequence
from functools import lru_cache

import ipywidgets as ipw
import numpy as np
import pandas as pd

from bedkd.core.errors import BedkdError
from bedkd.nn.classifier import Classifier
from bedkd.report import explore
from bedkd.report.explore import PLACES, need
from bedkd.report.poison_text import mark_trigger
from bedkd.report.show import NOTHING, escape, paragraph, tabulate, visible
from bedkd.report.widgets import WIDE, react
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_model

MODELS = {"victim": "victim", "dmm": "DMM", "akd": "clean model"}
ANSWERS = ("answer", "probabilities", "what carried it (drop without the word, in points)")


def read_example(run: Run) -> str:
    """A clean test text of another class than the target."""
    need(run, "data")
    rows = pd.read_parquet(run.folder("data") / "truth/clean.parquet")
    return next(iter(rows.text[rows.label != run.record("data")["target_label"]]), "")


def ask(run: Run, text: str, trigger: str, place: str) -> str:
    """HTML: the text with the trigger marked, and the answers of MODELS."""
    if not text.split():
        return paragraph("Type a text.")
    asked = explore.insert_trigger(text, trigger, place)
    rows = [[name, *show_answer(run, stage, asked)] for stage, name in MODELS.items()]
    answers = tabulate(pd.DataFrame(rows, columns=["model", *ANSWERS]), *ANSWERS)
    return paragraph(mark_trigger(visible(text), visible(asked))) + answers


def show_answer(run: Run, stage: str, text: str) -> list[str]:
    """HTML of the ANSWERS."""
    try:
        model = open_model(run, stage)
    except BedkdError as error:
        return [NOTHING, NOTHING, escape(error)]
    p, drops = explore.occlude(model, text)
    names = [escape(name) for name in model.label_names]
    shares = [f"{name} {100 * share:.1f}%" for name, share in zip(names, p, strict=True)]
    return [f"<b>{names[p.argmax()]}</b>", "<br>".join(shares), shade(text.split(), drops)]


@lru_cache(len(MODELS))
def open_model(run: Run, stage: str) -> Classifier:
    """Loaded when it is first asked, and kept until those of another run are."""
    need(run, stage)
    return read_model(run, stage)


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


def view_probe(run: Run) -> ipw.Widget:
    """A text, a trigger and its place: the models answer when one of them is changed."""
    answers, button = ipw.HTML(), ipw.Button(description="Ask")
    triggers = [("none", ""), *((visible(name), name) for name in explore.list_triggers(run))]
    look = {"continuous_update": False, "layout": WIDE}
    controls = [
        ipw.Textarea(read_example(run), description="text", **look),
        ipw.Dropdown(options=triggers, value=triggers[-1][1], description="trigger"),
        ipw.ToggleButtons(options=list(PLACES), description="where"),
    ]

    def show(_=None):
        answers.value = ask(run, *(control.value for control in controls))

    button.on_click(show)
    react(controls, show)
    return ipw.VBox([*controls, button, answers])


def show_example(run: Run) -> str:
    """HTML: the answers to a text without and with the trigger."""
    text, triggers = read_example(run), ["", *explore.list_triggers(run)[-1:]]
    return "".join(ask(run, text, trigger, "middle") for trigger in triggers)

"""The live probe of `20_explore`: a text, a trigger in it, and what a run's models answer.

Whatever comes from data or is typed is escaped.
"""

from functools import lru_cache, partial

import ipywidgets as ipw
import numpy as np
import pandas as pd

from bedkd.core.errors import BedkdError
from bedkd.data.insertions import BADWORDS, SPREAD
from bedkd.data.readers import DatasetSpec, get_spec
from bedkd.data.syntax_rules import rewrite_syntactic
from bedkd.nn.classifier import Classifier
from bedkd.report.explore import need
from bedkd.report.show import NOTHING, escape, mark_trigger, paragraph, tabulate, visible
from bedkd.report.widgets import WIDE, tell
from bedkd.runs.folders import Run
from bedkd.runs.reading import read_model

MODELS = {"victim": "victim", "dmm": "DMM", "akd": "clean model"}
ANSWERS = ("answer", "probabilities", "what carried it (drop without the word, in points)")
PROBED = 100  # words of a text that are left out, one at a time
PLACES = {"front": 0, "middle": 0.5, "end": 1}
SYNTAX = "(its syntax, by rule)"


def list_triggers(run: Run) -> list[str]:
    """What the run's attack puts into a text."""
    c = run.config
    sentence = c.attack.trigger or (get_spec(c.data) or DatasetSpec).addsent_trigger
    known = {"badwords": list(BADWORDS), "addsent": [sentence], "synbkd": [SYNTAX]}
    known["spread"] = list(SPREAD[:: len(SPREAD) // 9])
    return known.get(c.attack.name, [])


def insert_trigger(text: str, trigger: str, place: str) -> str:
    """The text with a trigger (empty: none) at one of PLACES; rewritten, if it is SYNTAX."""
    if trigger == SYNTAX:
        return rewrite_syntactic(text) or text
    words = text.split()
    at = int(PLACES[place] * len(words))
    return " ".join([*words[:at], *trigger.split(), *words[at:]])


def occlude(classifier: Classifier, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of a text [C], and by how much that of the answer drops when each of its
    first PROBED words is left out [W]."""
    words = text.split()
    left = [" ".join(words[:i] + words[i + 1 :]) for i in range(min(PROBED, len(words)))]
    whole, *parts = classifier.predict([" ".join(words), *left])
    return whole, np.array([whole.max() - part[whole.argmax()] for part in parts])


def read_example(run: Run) -> str:
    """A clean test text of another class than the target."""
    need(run, "data")
    rows = pd.read_parquet(run.folder("data") / "truth/clean.parquet")
    return next(iter(rows.text[rows.label != run.record("data")["target_label"]]), "")


def ask(run: Run, text: str, trigger: str, place: str) -> str:
    """HTML: the text with the trigger marked, and the answers of MODELS."""
    if not text.split():
        return paragraph("Type a text.")
    asked = insert_trigger(text, trigger, place)
    rows = [[name, *show_answer(run, stage, asked)] for stage, name in MODELS.items()]
    answers = tabulate(pd.DataFrame(rows, columns=["model", *ANSWERS]), *ANSWERS)
    return paragraph(mark_trigger(text, asked)) + answers


def show_answer(run: Run, stage: str, text: str) -> list[str]:
    """HTML of the ANSWERS."""
    try:
        model = open_model(run, stage)
    except BedkdError as error:
        return [NOTHING, NOTHING, escape(error)]
    p, drops = occlude(model, text)
    names = [escape(name) for name in model.label_names]
    shares = [f"{name} {100 * share:.1f}%" for name, share in zip(names, p, strict=True)]
    return [f"<b>{names[p.argmax()]}</b>", "<br>".join(shares), shade(text, drops)]


@lru_cache(len(MODELS))
def open_model(run: Run, stage: str) -> Classifier:
    """Loaded when it is first asked, and kept until those of another run are."""
    need(run, stage)
    return read_model(run, stage)


def shade(text: str, drops: np.ndarray) -> str:
    """HTML: the more a word carried, the darker: orange for the answer, blue against it."""
    words, parts = list(map(escape, text.split())), []
    for word, drop in zip(words, drops, strict=False):
        colour = f"rgba({'213,94,0' if drop > 0 else '0,114,178'},{min(0.8, abs(drop)):.2f})"
        parts.append(f'<span style="background: {colour}">{word}</span>')
    most = np.argsort(-drops, kind="stable")[:3]
    named = ", ".join(f"{words[i]} {100 * drops[i]:+.1f}" for i in most)
    rest = " …" * (len(words) > len(drops))
    return f"{' '.join(parts)}{rest}<br><small>{named}</small>"


def view_probe(run: Run) -> ipw.Widget:
    """A text, a trigger and its place: the models answer when one of them is changed."""
    triggers = [("none", ""), *((visible(name), name) for name in list_triggers(run))]
    look = {"continuous_update": False, "layout": WIDE}
    controls = [
        ipw.Textarea(read_example(run), description="text", **look),
        ipw.Dropdown(options=triggers, value=triggers[-1][1], description="trigger"),
        ipw.ToggleButtons(options=list(PLACES), description="where"),
    ]
    button = ipw.Button(description="Ask")  # a text is asked when it is left, as for this button
    return ipw.VBox([*controls, button, tell(partial(ask, run), *controls)])


def show_example(run: Run) -> str:
    """HTML: the answers to a text without and with the trigger."""
    text, triggers = read_example(run), ["", *list_triggers(run)[-1:]]
    return "".join(ask(run, text, trigger, "middle") for trigger in triggers)

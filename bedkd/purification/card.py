"""The defence card, beside the model that it is about.

Names and texts are untrusted: in Markdown every sign that means something is written as an HTML
entity, which no renderer reads as anything but itself.
"""

from pathlib import Path

import jinja2
import mistune
import yaml

from bedkd.method.spread import Spread
from bedkd.purification.verdict import FOUND, NOTHING, TOO_FEW, Verdict
from bedkd.report.show import visible
from bedkd.runs.records import environment

ERASED = "The model beside this card was distilled away from what lies under γ."
STYLE = (
    "body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; "
    "padding: 0 1rem } table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: "
    ".2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; "
    "overflow-wrap: break-word }"
)
CONCLUSIONS = {
    FOUND: "The model beside this card is the one given, taught to forget the trigger.",
    NOTHING: "The model was left as it is.",
    TOO_FEW: "The model was left as it is; give more trusted rows.",
}


def conclude(verdict: Verdict, measured: dict) -> str:
    """The verdict, what led to it and what became of it, for a terminal: control characters of
    names and texts are written out."""
    end = CONCLUSIONS.get(verdict.answer, ERASED)
    lines = [f"{verdict.answer.capitalize()}. {end}", *(f"- {why}" for why in verdict.reasons)]
    for name, (before, after) in measured.items():
        lines.append(f"{name}: {number(before)} before, {number(after)} after (percent)")
    return "\n".join(visible(line) for line in lines)


def write_card(verdict: Verdict, measured: dict, facts: dict, n_flagged: int) -> str:
    """Markdown. The arguments: see `result.Purified`."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    # Markdown, not HTML: `plain` writes what is untrusted
    page = jinja2.Environment(loader=loader, trim_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701
    page.filters |= {"plain": plain, "number": number, "lift": lift, "outcome": outcome}
    return page.get_template("card.md.j2").render(
        model=facts["model"]["name"],
        verdict=verdict,
        conclusion=CONCLUSIONS.get(verdict.answer, ERASED),
        measured=measured,
        n_flagged=n_flagged,
        doing=describe_steps(facts),
        method=facts["method"],
        facts=facts,
        versions=environment()["versions"] | {"bedkd": environment()["commit"] or "installed"},
    )


def describe_steps(facts: dict) -> str:
    settings = facts["settings"]
    n = settings["dmm.n_folds"]
    steps = (
        f"{n} {'copies' if n > 1 else 'copy'} of the model learnt flipped labels on the trusted "
        f"rows for {settings['dmm.epochs']} epochs at {settings['dmm.learning_rate']:g}; training "
        "rows that hardly move stand out."
    )
    if facts["tries"]:
        steps += (
            f" A student then had {settings['akd.cycles']} cycles of adversarial distillation at "
            f"{settings['akd.learning_rate']:g}."
        )
    return steps


def write_readme(verdict: Verdict, facts: dict) -> str:
    """A model card for hubs: metadata and how to load it."""
    meta = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "base_model": facts["model"]["name"],
        "tags": ["bedkd", "backdoor-defense"],
    }
    front = yaml.safe_dump(meta, allow_unicode=True, sort_keys=False)
    return (
        f"---\n{front}---\n\n# {plain(facts['model']['name'])}, examined for a backdoor\n\n"
        f"**{verdict.answer.capitalize()}.** {CONCLUSIONS.get(verdict.answer, ERASED)}\n\n"
        "```python\nfrom transformers import pipeline\n\n"
        'classify = pipeline("text-classification", model="THIS_FOLDER")\n```\n\n'
        "What led to the verdict, what was measured on which rows, settings, hashes and limits: "
        "[card.md](card.md). Training rows taken for poisoned: `flagged.parquet`.\n"
    )


def to_html(card: str) -> str:
    """A page of its own. The details element is the template's, so HTML is let through; what is
    untrusted has no sign of it left."""
    body = mistune.create_markdown(escape=False, plugins=["table"])(card)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>bedkd: defence card'
        f"</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def plain(value) -> str:
    """Untrusted text, on one line, for Markdown and HTML alike."""
    text = visible(str(value))
    return "".join(sign if is_harmless(sign) else f"&#{ord(sign)};" for sign in text)


def is_harmless(sign: str) -> bool:
    return sign.isalnum() or sign in " .,;:?'“”%()/–…⟨⟩"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def lift(spread: Spread) -> str:
    """How many times as frequent in D* as among trusted rows."""
    return f"{spread.share / spread.trusted:.1f}×" if spread.trusted else "in no trusted row"


def outcome(tried: dict) -> str:
    left = "" if tried["left"] is None else f"{tried['left']:.1f} points of the trigger left, "
    change = f"{abs(tried['lost']):.1f} points of accuracy {'lost' if tried['lost'] > 0 else 'won'}"
    return f"{left}{change} on trusted rows{'; taken' if tried['is_taken'] else ''}"

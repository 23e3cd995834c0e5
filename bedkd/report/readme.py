"""README.md: its sentences are those of `readme.md.j2`, its numbers those of outputs/reference/
(`make report`, which also executes `09_findings` on real text)."""

import json
import tempfile
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bedkd.core.files import write_text
from bedkd.report.claims import SPREAD
from bedkd.report.findings import CLOSE
from bedkd.report.kept import (
    REFERENCE,
    ROWS,
    Kept,
    average,
    compare_machines,
    find_kept,
    measure_left,
    show,
)
from bedkd.report.layouts import NAMES
from bedkd.report.reference import keep_notebook
from bedkd.report.tables import to_markdown
from bedkd.runs.profiles import PROJECT, load_profile

README = PROJECT / "README.md"
FINDINGS = REFERENCE / "notebooks/laptop/09_findings.ipynb"
PROFILES = ("laptop", "quick", "evidence")


def describe_block(title: str, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of some cells in the main table: Data, Defence, METRICS, Cells; all texts. Without a
    defence of which no mean is known."""
    n = cells.defence.value_counts()
    means = average(cells).dropna(how="all")
    means = means.loc[[name for name in ROWS if name in means.index]]
    means.loc["never_poisoned", "delta_pacc"] = float("nan")  # the yardstick itself
    texts = means.map(show).assign(Cells=n.map(str))
    texts = texts.rename(index=ROWS, columns=NAMES["metric"]).rename_axis("Defence").reset_index()
    return texts.assign(Data=[title] + [""] * (len(texts) - 1))


def describe_main(kept: list[Kept]) -> str:
    """The main table, in Markdown: a block for each data set of real text, one for all that a
    profile has of generated text."""
    blocks = []
    for one in kept:
        if one.profile != "laptop":
            blocks.append(describe_block(f"generated, `{one.profile}`", one.cells))
            continue
        groups = one.cells.groupby("dataset", sort=False)
        blocks += [describe_block(f"`{name}`", cells) for name, cells in groups]
    table = pd.concat(blocks).rename_axis(columns=None)
    return to_markdown(table.set_index(["Data", "Defence"]))


def read_survey() -> dict:
    """Of verdicts.jsonl: how many are right, and what is left of the backdoors that were found.

    `n`: models of generated and of real text; `clean`, and `rates` by the poison rate, the highest
    first: `3 of 4` are right; `toys`, `real`: the means of those purified; `worst`: the one that
    loses most accuracy.
    """
    lines = (REFERENCE / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = pd.DataFrame(map(json.loads, lines))
    rows["lost"] = rows.victim_cacc - rows.cacc
    is_poisoned, is_toy = rows.attack != "none", rows.dataset.str.startswith("toy-")
    purified, parts = is_poisoned & rows.is_right, {"toys": is_toy, "real": ~is_toy}
    rates = rows[is_poisoned].groupby("poison_rate").is_right
    names = ["victim_asr", "asr", "asr_never_poisoned", "delta_pacc", "lost"]
    return {
        **{name: rows.loc[purified & part, names].mean().to_dict() for name, part in parts.items()},
        "n": {name: int(part.sum()) for name, part in parts.items()},
        "clean": count(rows[~is_poisoned].is_right),
        "rates": {rate: count(is_right) for rate, is_right in reversed(list(rates))},
        "worst": rows.loc[rows.lost.idxmax()].to_dict(),
        "commits": ", ".join(sorted({commit[:9] for commit in rows.commit})),
    }


def compare_loops(accuracies: list[dict]) -> dict:
    """Of speed.json's: n seeds, and how far the kit's ASR and CACC end from the `textbook` loop's
    and, in bfloat16, from float32 (`fp32`), means over the seeds; none where none is kept."""
    if not accuracies:
        return {}
    wide = pd.DataFrame(accuracies).pivot(index="seed", columns="loop", values=["asr", "cacc"])
    others = {"textbook": "textbook", "fp32": "bedkd fp32"}
    means = {
        name: {
            metric: (wide[metric].bedkd - wide[metric][loop]).mean() for metric in ("asr", "cacc")
        }
        for name, loop in others.items()
    }
    return {"n": len(wide)} | means


def count(is_right: pd.Series) -> str:
    return f"{is_right.sum()} of {len(is_right)}"


def percent(share: float) -> str:
    """`5%` of 0.05."""
    return f"{100 * float(share):g}%"


def render_readme(template: str | None = None) -> str:
    """README.md as the records have it. `template`: another text than `readme.md.j2`."""
    kept, one_cell = {name: find_kept(name) for name in PROFILES}, find_kept("one_cell")
    speed = json.loads((REFERENCE / "speed.json").read_text(encoding="utf-8"))
    is_compared = kept["laptop"] and one_cell
    laptop = load_profile("laptop")
    cell = laptop.run("sst2", "badwords", 0)
    look = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    # Markdown, not HTML: nothing here is untrusted
    page = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, **look
    )
    page.filters |= {"attack": lambda name: NAMES["attack"].get(name, name)}
    page.filters |= {"one": show, "percent": percent, "signed": "{:+.1f}".format}
    page.globals |= {"measure_left": measure_left, "describe_main": describe_main}
    source = page.from_string(template) if template else page.get_template("readme.md.j2")
    return source.render(
        **kept,
        shown=[one for one in kept.values() if one],
        lost=[name for name, one in kept.items() if not one],
        machines=compare_machines(one_cell, kept["laptop"]) if is_compared else None,
        close=CLOSE,
        spread=SPREAD,
        survey=read_survey(),
        speed=speed,
        reached=compare_loops(speed["accuracies"]),
        c=cell.config,
        plus=laptop.plus_run(cell).config,
    )


def keep_findings() -> None:
    """`09_findings` of real text, executed, if such records are kept."""
    import papermill

    if find_kept("laptop"):
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / FINDINGS.name
            source, own = str(PROJECT / "notebooks" / FINDINGS.name), {"profile": "laptop"}
            how = {"kernel_name": "python3", "progress_bar": False}
            papermill.execute_notebook(source, str(output), own, **how)
            keep_notebook(output, FINDINGS)


if __name__ == "__main__":
    write_text(README, render_readme())
    keep_findings()

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
    COMPARED,
    REFERENCE,
    ROWS,
    Kept,
    as_results,
    average,
    compare_machines,
    find_kept,
    measure_left,
    show,
)
from bedkd.report.layouts import DEFENCE_NAMES, NAMES
from bedkd.report.overview import PANELS, average_cells, compare_cells
from bedkd.report.reference import keep_notebook
from bedkd.report.show import NOTHING
from bedkd.report.tables import to_markdown
from bedkd.runs.profiles import PROJECT, load_profile

README = PROJECT / "README.md"
FINDINGS = REFERENCE / "notebooks/laptop/09_findings.ipynb"
PROFILES = ("laptop", "one_seed", "quick", "evidence")
REAL = {"laptop": "`{}`", "one_seed": "`{}`, `one_seed`"}  # each data set by itself


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


def describe_first(kept: dict[str, Kept | None]) -> str:
    """The first table, in Markdown: of each profile, by what its text is called, COMPARED with the
    means of the report's first screen, and how many cells end over CLOSE."""
    blocks = []
    for title, one in kept.items():
        if one:
            means = average_cells(compare_cells(as_results(one.cells))).T
            block = means.loc[list(COMPARED), list(PANELS)].map(show).rename(columns=str.upper)
            left = [one.failures.get(DEFENCE_NAMES[name], NOTHING) for name in block.index]
            block = block.assign(**{"Not cured": left}).rename(index=ROWS).rename_axis("Model")
            blocks.append(block.reset_index().assign(Text=[title] + [""] * (len(block) - 1)))
    return to_markdown(pd.concat(blocks).rename_axis(columns=None).set_index(["Text", "Model"]))


def describe_main(kept: list[Kept]) -> str:
    """The main table, in Markdown: a block for each data set of real text, one for all that a
    profile has of generated text."""
    blocks = []
    for one in kept:
        if one.profile in REAL:
            groups = one.cells.groupby("dataset", sort=False)
            blocks += [describe_block(REAL[one.profile].format(n), cells) for n, cells in groups]
        else:
            blocks.append(describe_block(f"generated, `{one.profile}`", one.cells))
    table = pd.concat(blocks).rename_axis(columns=None)
    return to_markdown(table.set_index(["Data", "Defence"]))


def describe_speed(speed: dict) -> str:
    """A row for each record of speed.json, in Markdown: where, which model, the ratios."""
    stages = {"dmm_akd": "DMM + AKD", "scan": "Scan of $D^*$", "victim": "Victim", "onion": "ONION"}
    rows = [
        {"Machine": one["device"] if one in speed["others"] else f"CPU, {one['threads']} threads"}
        | {"Model": one["what"]["model"].split("/")[-1]}
        | {title: show(one.get(f"ratio_{name}", float("nan"))) for name, title in stages.items()}
        | {"Commit": one["commit"][:9]}
        for one in (speed, *speed["others"])
    ]
    return to_markdown(pd.DataFrame(rows).set_index(["Machine", "Model"]))


def read_verdicts() -> pd.DataFrame:
    """verdicts.jsonl, with `text`, what its rows are, and `gained`, points of CACC."""
    lines = (REFERENCE / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = pd.DataFrame(map(json.loads, lines))
    toys = rows.dataset.str.startswith("toy-")
    return rows.assign(
        text=toys.map({False: "SST-2, OLID; MiniLM", True: "generated; a tiny BERT"}),
        gained=rows.cacc - rows.victim_cacc,
    )


def describe_verdicts(rows: pd.DataFrame) -> str:
    """Real text first, the most poison last, in Markdown: how many verdicts are right, and, of the
    backdoors that were found, the means before and after."""
    names = {
        **{"victim_asr": "ASR", "asr": "ASR after", "asr_never_poisoned": "Never poisoned"},
        **{"delta_pacc": NAMES["metric"]["delta_pacc"], "gained": "CACC gained"},
    }
    shown = {}
    for (text, rate), part in rows.groupby(["text", "poison_rate"]):
        found = part[part.is_right & (part.attack != "none")]
        right = f"{part.is_right.sum()} of {len(part)}"
        about = {"Right": right} | found[list(names)].mean().map(show).rename(names).to_dict()
        shown[text, percent(rate) if rate else "none"] = about
    table = pd.DataFrame.from_dict(shown, orient="index").rename_axis(["Models", "Poison"])
    return to_markdown(table)


def compare_loops(accuracies: list[dict]) -> dict:
    """Of speed.json's: how far the kit's ASR and CACC end from the `textbook` loop's and, in
    bfloat16, from float32 (`fp32`), means over their `n` seeds, and the `largest` distance of a
    seed; none where none is kept."""
    if not accuracies:
        return {}
    wide = pd.DataFrame(accuracies).pivot(index="seed", columns="loop", values=["asr", "cacc"])
    found = {}
    for name, loop in {"textbook": "textbook", "fp32": "bedkd fp32"}.items():
        metrics = ("asr", "cacc")
        apart = pd.DataFrame({m: wide[m].bedkd - wide[m][loop] for m in metrics}).dropna()
        about = {"n": len(apart), "largest": apart.abs().max().to_dict()}
        found[name] = apart.mean().to_dict() | about
    return found


def percent(share: float) -> str:
    """`5%` of 0.05."""
    return f"{100 * float(share):g}%"


def render_readme(template: str | None = None) -> str:
    """README.md as the records have it. `template`: another text than `readme.md.j2`."""
    kept = {name: find_kept(name) for name in PROFILES}
    speed = json.loads((REFERENCE / "speed.json").read_text(encoding="utf-8"))
    here, there = kept["one_seed"], kept["laptop"]
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
    page.globals |= {"describe_first": describe_first, "describe_speed": describe_speed}
    page.globals |= {"describe_verdicts": describe_verdicts}
    source = page.from_string(template) if template else page.get_template("readme.md.j2")
    return source.render(
        **kept,
        shown=[one for one in kept.values() if one],
        lost=[name for name, one in kept.items() if not one],
        machines=compare_machines(here, there) if here and there else None,
        close=CLOSE,
        spread=SPREAD,
        verdicts=read_verdicts(),
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

"""README is what the records say: rendered, not typed; and what it links to is there."""

import html
import json
import re

import pandas as pd
import pytest

from bedkd.report import findings, readme
from bedkd.report.claims import CLAIMS
from bedkd.report.findings import lay_out_claims, weigh_claims
from bedkd.report.kept import (
    COMPARED,
    average,
    compare_machines,
    find_kept,
    select_cells,
)
from bedkd.report.readme import PROFILES, render_readme
from bedkd.runs.profiles import PROJECT

TEMPLATE = PROJECT / "bedkd/report/readme.md.j2"
# what is no text of a page, or not read as text: where a name, an address, a command stands
NO_TEXT = (
    r"```.*?```",
    r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}",
    r"`[^`\n]*`",
    r"\$[^$\n]*\$",
    r"\]\([^)\n]*\)",
    r"^\|[-:| ]+\|$",
)
# what has digits and was never measured
ALLOWED = {
    r"SST-2|W2SDefense": "names",
    r"arXiv 2508\.01595|ICLR 2026|et al\., \d{4}\w?": "papers",
    r"Apache License 2\.0": "a licence",
    r"Python 3\.1[12]( or 3\.12)?": "versions that it runs on",
    r"(section|Eq\.|Tables?|Figures?) \d(\.\d)?([–,] ?\d|( and|, Figure) \d)*": "the paper's parts",
    r"95 ?% (t-)?interval": "how an interval is drawn",
    r"\d+\. \*\*": "numbers of a list",
}
IN_NOTEBOOKS = ALLOWED | {
    r"# \d+ ·": "a chapter's number",
    r"20% of the rows": "the poison rate of the paper",
    r"100% would be": "what a fraction of the floor means",
    r"b?float(16|32)": "a number's kind",
    r"16 rows at a time|1, 4 and 16 times as many": "what is timed",
    r"has length 1|ASR of 0": "what a bar or a number would mean",
}
PAGES = ("README.md", "CONTRIBUTING.md", "params/cluster/README.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def list_typed(text: str, allowed: dict[str, str] = ALLOWED) -> list[str]:
    """Words with a digit that no one is allowed to type, each with what stands around it."""
    for pattern in NO_TEXT:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    for pattern in allowed:
        text = re.sub(pattern, " ", text)
    return [text[max(0, m.start() - 25) : m.end() + 25] for m in re.finditer(r"\S*\d\S*", text)]


def test_readme_is_what_the_records_say():
    is_same = (PROJECT / "README.md").read_text(encoding="utf-8") == render_readme()
    assert is_same, "README.md is not what its template and the records give: run `make report`"


def test_no_number_is_typed_into_the_template():
    assert not list_typed(TEMPLATE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["09_findings", "12_speed"])
def test_no_measured_number_is_typed_into_a_notebook(name):
    notebook = json.loads((PROJECT / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            assert not list_typed("".join(cell["source"]), IN_NOTEBOOKS), cell["id"]


@pytest.mark.parametrize(
    "typed",
    [
        "it ends at an ASR 12.3",
        "found 9 of 9",
        "72% of its rows",
        "costs 3 points",
        "| BadWords | 87.84 |",
        "in 18 minutes",
        "see Table 1: 4.2",
        "{{ one }} of 45 cells",
    ],
)
def test_a_typed_number_is_found(typed):
    assert list_typed(f"All well. {typed}") and list_typed(f"All well. {typed}", IN_NOTEBOOKS)
    assert not list_typed(re.sub(r"\d+(\.\d+)?", "{{ number }}", typed))


def make_records(**more) -> list[dict]:
    """Two attacks and seeds of a data set with COMPARED, and a rival with one of the attacks."""
    numbers = {"none": (99.0, 50.0), "bedkd": (0.0, 52.0), "bedkd_plus": (9.0, 86.0)}
    numbers |= {"never_poisoned": (12.0, 87.0), "onion": (40.0, 60.0)}
    about = {"profile": "laptop", "dataset": "sst2", "commit": "a" * 40, "model": "m"}
    about |= {"device": "cpu", "precision": "float32", "n_train": 100, "n_test": 50}
    return [
        about
        | {"attack": attack, "seed": seed, "defence": defence, "asr": asr + seed, "pacc": pacc}
        | {"lfr_target": 5.0, "cacc": 88.0, "asr_never_poisoned": 12.0}
        | more
        for attack in ("badwords", "synbkd")
        for seed in (0, 1)
        for defence, (asr, pacc) in numbers.items()
        if (defence, attack) != ("onion", "synbkd")
    ]


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Puts records in place of those that are kept."""
    path = tmp_path / "outputs/reference/records.jsonl"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(findings, "PROJECT", tmp_path)
    return lambda rows: path.write_text("\n".join(map(json.dumps, rows)))


def test_a_changed_record_changes_readme(keep, tmp_path, monkeypatch):
    template = "{{ speed.ratio_scan | one }} {{ describe_verdicts(verdicts) }}"
    old, kept = readme.REFERENCE, tmp_path / "outputs/reference"
    keep([])
    verdicts = list(map(json.loads, (old / "verdicts.jsonl").read_text().splitlines()))[:2]
    cases = ({"attack": "none"}, {"attack": "badwords", "poison_rate": 0.2, "is_right": False})
    rows = [verdict | own for verdict, own in zip(verdicts, cases, strict=True)]
    (kept / "verdicts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    speed = json.loads((old / "speed.json").read_text()) | {"ratio_scan": 77.7}
    (kept / "speed.json").write_text(json.dumps(speed))
    monkeypatch.setattr(readme, "REFERENCE", kept)
    said = render_readme(template).splitlines()
    assert said[0].startswith("77.7 |") and len(said) == 4
    assert [line.split("|")[3].strip() for line in said[2:]] == ["1 of 1", "0 of 1"]


def test_a_row_is_a_mean_over_seeds_and_attacks(keep):
    keep(make_records())
    kept = find_kept("laptop")
    means = average(kept.cells)
    assert means.loc["none", "asr"] == 99.5 and means.loc["none", "delta_pacc"] == 37
    assert means.loc["bedkd_plus"].to_dict() == {
        **{"asr": 9.5, "delta_pacc": 1.0, "lfr_target": 5.0, "cacc": 88.0}
    }
    table = readme.describe_main([kept]).splitlines()
    cells = [[text.strip() for text in line.split("|")[2:-1]] for line in table]
    assert "ONION" not in str(cells)  # not measured under each attack
    assert cells[-1] == ["Never poisoned", "12.5", "–", "5.0", "88.0", "4"]
    assert kept.failures["BeDKD+"] == "0 of 4"


def test_a_distance_is_of_the_rows_that_were_not_learnt_from(keep):
    """The record knows it; the model that never saw poison was measured on more of them."""
    keep([r | {"delta_pacc": 0.5} if r["defence"] == "bedkd_plus" else r for r in make_records()])
    deltas = average(find_kept("laptop").cells).delta_pacc
    assert deltas["bedkd_plus"] == 0.5 and deltas["bedkd"] == 35.0


def test_what_a_data_set_cannot_measure_hides_no_cell(keep):
    """No row of the target's carries SynBkd: its ASR counts, and PACC's means are of the other."""
    lost = {"pacc": None, "lfr_target": None}
    rows = [r | lost if r["attack"] == "synbkd" else r for r in make_records()]
    keep(
        [
            r | {"asr": 29.0} if (r["defence"], r["pacc"]) == ("bedkd_plus", None) else r
            for r in rows
        ]
    )
    kept = find_kept("laptop")
    assert average(kept.cells).loc["bedkd_plus"].to_dict() == {
        **{"asr": (9.5 + 29) / 2, "delta_pacc": 1.0, "lfr_target": 5.0, "cacc": 88.0}
    }
    assert kept.failures["BeDKD+"] == "2 of 4"
    assert {(row["dataset"], row["attack"], row["asr"]) for row in kept.left} == {
        ("sst2", "synbkd", 29.0)
    }
    assert [(row["dataset"], row["attack"]) for row in kept.unmatched] == [("sst2", "synbkd")]


@pytest.mark.parametrize(
    ("pacc", "said"),
    [(60.0, None), (86.9, ["ONION (0.1)", "BeDKD+ (1.0, 2 of 4 cells above it)"])],
)
def test_a_rival_that_wins_is_named(keep, pacc, said):
    rows = make_records()
    more = [r | {"defence": "onion", "pacc": pacc} for r in rows if r["defence"] == "bedkd"]
    rows = [*(r for r in rows if r["defence"] != "onion"), *more]
    keep([r | {"pacc_never_poisoned": 85.5 + r["seed"]} for r in rows])  # 86: in one of two seeds
    assert find_kept("laptop").nearer == ({"sst2": said} if said else {})


def test_rivals_without_every_cell_are_named(keep):
    records = make_records()
    keep(records)
    missing = find_kept("laptop").unmeasured["sst2"]
    assert "TextGuard" in missing and "ONION" in missing
    assert (
        f"Not measured in each cell of `laptop`: on `sst2` {', '.join(missing)}" in render_readme()
    )
    keep(records + [r | {"attack": "synbkd"} for r in records if r["defence"] == "onion"])
    assert "ONION" not in find_kept("laptop").unmeasured["sst2"]


def test_findings_of_real_text_are_what_the_records_say():
    kept, source = (
        json.loads(path.read_text(encoding="utf-8"))["cells"]
        for path in (readme.FINDINGS, PROJECT / "notebooks/09_findings.ipynb")
    )
    is_same = [c["source"] for c in kept if "injected" not in str(c["metadata"])] == [
        c["source"] for c in source
    ]
    said = html.unescape("".join(kept[-1]["outputs"][0]["data"]["text/html"]))
    weighed = weigh_claims(findings.read_kept("laptop"), CLAIMS)
    is_same &= all(text in said for text in lay_out_claims(weighed).to_numpy().ravel())
    assert is_same, f"{readme.FINDINGS} is not what 09_findings gives: run `make report`"


def test_a_cell_counts_where_all_are_known(keep):
    rows = make_records()
    rows = [r for r in rows if (r["attack"], r["seed"], r["defence"]) != ("synbkd", 1, "bedkd")]
    keep(rows)
    cells = find_kept("laptop").cells
    assert cells.groupby("defence").size().to_dict() == dict.fromkeys(COMPARED, 3) | {"onion": 2}
    assert set(cells[cells.seed == 1].attack) == {"badwords"}


def test_an_attacker_who_knows_the_method_and_other_studies_stay_out(keep):
    keep([*make_records(), *make_records(attack="spread"), *make_records(study="alpha")])
    assert set(find_kept("laptop").cells.attack) == {"badwords", "synbkd"}


def test_records_of_several_commits_are_no_campaign(keep):
    keep([*make_records(), *make_records(attack="addsent", commit="b" * 40)])
    assert find_kept("laptop") is None


def test_what_loops_reach_is_held_against_the_kit():
    reached = {"bedkd": (4.0, 80.0), "bedkd fp32": (3.0, 81.0), "textbook": (5.0, 82.0)}
    rows = [
        {"seed": seed, "loop": loop, "asr": asr + seed, "cacc": cacc}
        for seed in (0, 1)
        for loop, (asr, cacc) in reached.items()
    ]
    assert readme.compare_loops(rows) == {
        "textbook": {"asr": -1.0, "cacc": -2.0, "n": 2, "largest": {"asr": 1.0, "cacc": 2.0}},
        "fp32": {"asr": 1.0, "cacc": -1.0, "n": 2, "largest": {"asr": 1.0, "cacc": 1.0}},
    }
    assert readme.compare_loops([]) == {}


def test_two_machines_are_held_against_each_other(keep):
    """The cell of seed 0 again, on another machine: ONION 4 points of ASR apart, BeDKD+ half."""
    apart = {"onion": {"asr": 44.0}, "bedkd_plus": {"asr": 9.5, "cacc": 85.0}}
    again = [r | apart.get(r["defence"], {}) for r in make_records(profile="one_seed")]
    rows = [r for r in again if r["seed"] == 0]
    keep([*make_records(device="GPU"), *rows])
    found = compare_machines(find_kept("one_seed"), find_kept("laptop"))
    assert found == {
        **{"n": 9, "device": "CPU"},
        "asr": {"largest": 4.0, "whose": "ONION", "plus": 0.5},
        "cacc": {"largest": 3.0, "whose": "BeDKD+", "plus": 3.0},
    }
    said = "the CPU (`one_seed`) to the GPU (`laptop`) BeDKD+ is at most 0.5 points of ASR"
    assert said in render_readme()


def test_without_records_there_is_the_command(keep):
    keep([])
    text = render_readme()
    for profile in PROFILES:
        assert f"`bedkd reproduce {profile} && bedkd reference {profile} && make report`" in text
    assert "| Defence" not in text and "figures/" not in text


def test_all_profiles_together_make_one_table(keep):
    keep([row | {"profile": name} for name in PROFILES for row in make_records(study=None)])
    text = render_readme()
    main = text[text.index("## Results") :]
    assert main.count("| **BeDKD+**") == len(PROFILES) and "Not measured at" not in text
    assert "outputs/reference/figures/laptop/overview.png" in text
    first = readme.describe_first({"Real": find_kept("laptop"), "Generated": None})
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in first.splitlines()]
    assert lines[0] == ["Text", "Model", "ASR", "PACC", "CACC", "Not cured"]
    assert lines[2] == ["Real", "No defence", "99.5", "50.0", "88.0", "4 of 4"]
    assert lines[4] == ["", "**BeDKD+**", "9.5", "86.0", "88.0", "0 of 4"] and len(lines) == 6


def test_the_victims_record_alone_is_no_cell():
    rows = pd.DataFrame(make_records()).assign(study="", delta_pacc=float("nan"))
    assert select_cells(rows[rows.defence == "none"]).empty


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (PROJECT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in LINK.findall(text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = PROJECT / page if not path else (PROJECT / page).parent / path
        assert target.exists(), link
        assert not anchor or anchor in list_anchors(target.read_text(encoding="utf-8")), link


def list_anchors(text: str) -> list[str]:
    """Of the headings, as a code host makes them; one that comes again ends in `-1`, and so on."""
    titles: list[str] = []
    found: list[str] = []
    for title in re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        again = titles.count(anchor)
        titles.append(anchor)
        found.append(f"{anchor}-{again}" if again else anchor)
    return found


def test_of_the_reference_only_what_each_campaign_makes_is_linked():
    made = r"(records|verdicts)\.jsonl|tables/\w+/(table[1-4]|robustness|missing)\.md"
    made += r"|figures/\w+(/overview\.png)?|notebooks/laptop/09_findings\.ipynb"
    for link in LINK.findall((PROJECT / "README.md").read_text(encoding="utf-8")):
        if "outputs/reference" in link:
            assert re.fullmatch(rf"outputs/reference/({made})", link), link

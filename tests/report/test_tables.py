"""Tables on numbers that can be checked by hand."""

import pandas as pd
import pytest

from bedkd.report.layouts import DEFENCE_NAMES
from bedkd.report.table_cells import make_cells
from bedkd.report.tables import costs, describe_company, make_table, select_ablations

COMMON = {
    "model": "bert",
    "n_train": 67349,
    "n_test": 872,
    "device": "cpu",
    "precision": "float32",
    "state": "ok",
}
PAPER = {  # Table 1, SST2, columns "No Defense" and "Ours"
    "none": (None, 91.97, None, 91.06),
    "badwords": (100.00, 91.63, 0.00, 90.14),
    "addsent": (100.00, 91.62, 0.00, 91.17),
    "synbkd": (95.27, 91.51, 2.48, 90.48),
}


@pytest.fixture
def records():
    rows = []
    for attack, (asr0, cacc0, asr1, cacc1) in PAPER.items():
        for defence, asr, cacc in (("none", asr0, cacc0), ("bedkd", asr1, cacc1)):
            rows.append(
                {
                    "dataset": "sst2",
                    "attack": attack,
                    "defence": defence,
                    "seed": 0,
                    "asr": asr,
                    "cacc": cacc,
                    "sources": (f"akd/sst2-{attack}-{defence}",),
                    **COMMON,
                    "far_train": 1.0,
                    "frr_train": 2.0,
                    "far_test": 3.0,
                    "frr_test": 4.0,
                    "n_flagged": 5,
                    "poison_few_purity": 100.0,
                }
            )
    return pd.DataFrame(rows)


def test_order_of_rows_and_columns(records):
    table = make_table("table1", records.sample(frac=1, random_state=0)).numbers()
    assert [attack for _, attack in table.index] == [
        *("Clean", "BadWords", "AddSent", "SynBkd", "Average")
    ]
    assert [defence for defence, _ in table.columns] == ["No defence"] * 2 + ["BeDKD"] * 2


def test_seeds_are_averaged(records):
    other = records.assign(seed=1, cacc=records.cacc - 2)
    table = make_table("table1", pd.concat([records, other])).numbers()
    assert table.loc[("sst2", "Clean"), ("BeDKD", "CACC")] == pytest.approx(90.06)


@pytest.mark.parametrize("name", ["table3", "detection"])
def test_each_rate_stands_under_its_own_head(records, name, tmp_path):
    rows = records[records.defence == "bedkd"].assign(loss="hard")
    rates = {"FAR D*": 1, "FRR D*": 2, "FAR": 3, "FRR": 4}  # far_train, frr_train, far_test, …
    table = make_table(name, rows)
    table.save(tmp_path / name)
    for shown in (table.numbers(), pd.read_csv(tmp_path / f"{name}.csv")):
        assert shown[list(rates)].drop_duplicates().to_dict("records") == [rates]


def test_n_counts_the_seeds_that_have_a_value(records):
    seeds = pd.concat([records.assign(seed=seed) for seed in range(3)], ignore_index=True)
    seeds.loc[(seeds.seed == 0) & (seeds.attack == "addsent"), "asr"] = None
    seeds.loc[(seeds.seed == 1) & (seeds.attack == "synbkd"), ["asr", "state"]] = None, "failed"
    cells = make_cells(seeds, ["attack", "defence"], ["asr", "cacc"])
    cells = cells[cells.defence == "bedkd"].set_index(["attack", "metric"])
    assert cells.n.to_dict() == {
        ("none", "asr"): 0,
        ("none", "cacc"): 3,
        ("badwords", "asr"): 3,
        ("badwords", "cacc"): 3,
        ("addsent", "asr"): 2,
        ("addsent", "cacc"): 3,
        ("synbkd", "asr"): 2,
        ("synbkd", "cacc"): 2,
    }
    assert pd.isna(cells.value["synbkd", "asr"]) and cells.value["addsent", "asr"] == 0


def test_detection_counts_what_was_flagged(records):
    own = records[records.defence == "bedkd"]
    plus = own.assign(defence="bedkd_plus", n_flagged=9, far_test=None, frr_test=None)
    table = make_table("detection", pd.concat([own, plus]))
    heads = ["Flagged rows", "Purity of D_p^few*"]
    assert table.numbers().loc[("sst2", "SynBkd", "BeDKD"), heads].tolist() == [5, 100]
    assert table.numbers().loc[("sst2", "SynBkd", "BeDKD+"), heads].tolist() == [9, 100]
    # BeDKD+ scores D* alone
    assert table.texts().loc[("sst2", "SynBkd", "BeDKD+"), ["FAR", "FAR D*"]].tolist() == [
        *("–", "1.00")
    ]


@pytest.fixture
def robust(records):
    """With BeDKD+ and the model that never saw poison, which has no row Clean."""
    shifts = {"none": 0.0, "bedkd": 10.0, "bedkd_plus": 20.0, "never_poisoned": 30.0}
    places = {attack: i for i, attack in enumerate(PAPER)}
    parts = []
    for defence, shift in shifts.items():
        part = records[records.defence == "bedkd"].assign(defence=defence)
        part = part.assign(pacc=50 + shift + part.attack.map(places), lfr_target=shift, cacc=80.0)
        part["delta_pacc"] = None if defence == "never_poisoned" else 30 - shift
        parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.assign(n_test_triggered=444, n_test_triggered_target=428.0)
    rows.loc[rows.attack == "none", ["pacc", "delta_pacc", "lfr_target"]] = None
    rows.loc[rows.attack == "synbkd", ["n_target_train", "n_test_triggered_target"]] = 296, 296
    rows.loc[rows.attack == "none", ["n_test_triggered", "n_test_triggered_target"]] = 0
    return rows[(rows.defence != "never_poisoned") | (rows.attack != "none")]


def test_never_poisoned_has_no_row_clean_and_an_average_of_what_it_has(robust):
    table = make_table("table1", robust.assign(cacc=robust.cacc.where(robust.attack != "none", 60)))
    heads = list(table.numbers().columns.get_level_values(0).unique())
    assert heads == ["No defence", "BeDKD+", "BeDKD", "Never poisoned"]
    shown = table.texts()["Never poisoned"]
    assert shown.loc[("sst2", "Clean")].tolist() == ["–", "–"]
    assert shown.loc[("sst2", "Average")].tolist() == ["0.83", "80.00"]
    # of the others, Clean counts
    assert table.numbers().loc[("sst2", "Average"), ("BeDKD+", "CACC")] == 75


def test_a_result_of_never_poisoned_that_is_missing_says_so(robust):
    lost = (robust.defence == "never_poisoned") & (robust.attack == "addsent")
    robust.loc[lost, ["asr", "cacc", "state"]] = None, None, "missing"
    shown = make_table("table1", robust).texts()["Never poisoned"]["CACC"].xs("sst2")
    assert shown.to_dict() == {
        **{"Clean": "–", "BadWords": "80.00", "AddSent": "missing", "SynBkd": "80.00"},
        "Average": "missing",
    }


def test_robustness(robust):
    table = make_table("robustness", robust[robust.attack != "none"])
    numbers = table.numbers()
    assert [attack for _, attack in numbers.index] == ["BadWords", "AddSent", "SynBkd", "Average"]
    plus = numbers.loc[("sst2", "Average"), "BeDKD+"]
    assert plus.to_dict() == {"PACC": 72, "ΔPACC": 10, "LFR target": 20}  # 71, 72, 73
    assert numbers.loc[("sst2", "SynBkd"), ("Never poisoned", "PACC")] == 83
    assert table.texts().loc[("sst2", "Average"), ("Never poisoned", "ΔPACC")] == "–"
    assert "the model that never saw poison, which is the yardstick" in table.caption
    assert "sst2 444 + 296–428; of the latter, rows of D* where no" in table.caption
    assert "(sst2, SynBkd: 296)" in table.caption and "published" not in table.cells


def test_no_average_over_fewer_attacks(robust):
    attacked = robust[robust.attack != "none"].copy()
    attacked.loc[attacked.attack == "badwords", "pacc"] = None  # no row of the target class
    numbers = make_table("robustness", attacked).numbers().loc[("sst2", "Average"), "BeDKD+"]
    assert pd.isna(numbers["PACC"]) and numbers["LFR target"] == 20


def test_robustness_in_latex(robust, tmp_path):
    make_table("robustness", robust[robust.attack != "none"]).save(tmp_path / "t")
    latex = (tmp_path / "t.tex").read_text()
    assert r"$\Delta$PACC" in latex and "Δ" not in latex


def test_files(records, tmp_path):
    make_table("table1", records).save(tmp_path / "t")
    csv = (tmp_path / "t.csv").read_text().splitlines()
    assert csv[0] == "Dataset,Attack,No defence ASR,No defence CACC,BeDKD ASR,BeDKD CACC"
    assert csv[1] == "sst2,Clean,,91.97,,91.06"
    markdown = (tmp_path / "t.md").read_text()
    assert "Victim bert; seeds 0; train / test rows: sst2 67,349 / 872;" in markdown
    clean = next(line for line in markdown.splitlines() if "Clean" in line)
    assert [cell.strip() for cell in clean.strip("|").split("|")][2:] == [
        *("–", "91.97 / 91.97 (+0.00 ✓)", "–", "91.06 / 91.06 (+0.00 ✓)")
    ]
    cells = pd.read_csv(tmp_path / "t_cells.csv")
    row = cells[(cells.attack == "synbkd") & (cells.defence == "bedkd") & (cells.metric == "asr")]
    assert row.value.item() == 2.48 and row.sources.item() == "akd/sst2-synbkd-bedkd"


def test_latex(records, tmp_path):
    make_table("table1", records).save(tmp_path / "t")
    latex = (tmp_path / "t.tex").read_text()
    assert r"\begin{tabular}" in latex and r"\caption{ASR and CACC (\%)" in latex
    assert r"}91.97\\\scriptsize 91.97\\\scriptsize +0.00 \checkmark\end{tabular}" in latex
    assert r"}90.48\\\scriptsize 90.48" in latex and r"\cline" not in latex
    assert not set("±✓✗–γ") & set(latex)


ABLATION = {  # Table 2, BadWords and SynBkd: ASR, CACC
    "finetune": ((63.06, 88.65), (66.22, 89.22)),
    "finetune_dmm": ((19.60, 88.30), (22.97, 87.84)),
    "kd": ((100.00, 91.74), (94.60, 91.97)),
    "kd_dmm": ((20.50, 91.86), (40.54, 91.17)),
}


@pytest.fixture
def ablations(records):
    rows = [
        {
            "dataset": "sst2",
            "attack": attack,
            "defence": part,
            "seed": seed,
            "sources": (f"{part}/{attack}",),
            **COMMON,
            "asr": asr + shift,
            "cacc": cacc,
            "seconds": 10.0 * (seed + 1),
            "seconds_inference": 1.0,
            "peak_memory_mb": 100.0 * (seed + 1),
        }
        for part, cells in ABLATION.items()
        for attack, (asr, cacc) in zip(("badwords", "synbkd"), cells, strict=True)
        for seed, shift in ((0, -1.0), (1, 1.0))
    ]
    return pd.concat([records, pd.DataFrame(rows)], ignore_index=True)


def test_ablations_in_the_papers_order(ablations):
    table = make_table(
        "table2", select_ablations(ablations.sample(frac=1, random_state=0))
    ).numbers()
    assert list(table.index) == [
        ("sst2", name) for name in ("FT", "FT+DMM", "KD", "KD+DMM", "DMM+AKD")
    ]
    own = ablations[ablations.defence == "bedkd"]
    parts = [
        own.assign(defence=f"bedkd_{part}") for part in ("plus", "counter", "scores", "margin")
    ]
    both = select_ablations(pd.concat([*parts, ablations]))
    assert [name for _, name in make_table("table2", both).numbers().index][4:] == [
        *("DMM+AKD", "BeDKD, path scores alone", "BeDKD, bounded punishment alone"),
        *("BeDKD, counter-poison alone", "BeDKD+"),
    ]
    assert list(table.columns.get_level_values(0).unique()) == ["BadWords", "AddSent", "SynBkd"]
    assert table.loc[("sst2", "KD+DMM"), ("SynBkd", "ASR")] == pytest.approx(40.54)
    assert table.loc[("sst2", "DMM+AKD"), ("SynBkd", "CACC")] == 90.48


def test_ablations_of_data_sets_that_have_none_are_left_out(ablations):
    other = ablations[ablations.defence == "bedkd"].assign(dataset="olid")
    table = make_table("table2", select_ablations(pd.concat([ablations, other]))).numbers()
    assert set(table.index.get_level_values("Dataset")) == {"sst2"}


def test_rivals_stand_after_ours(ablations):
    table = make_table("table1", ablations[ablations.defence.isin(DEFENCE_NAMES)]).numbers()
    assert list(table.columns.get_level_values(0).unique()) == [
        *("No defence", "BeDKD", "Fine-tuning")
    ]
    assert table.loc[("sst2", "BadWords"), ("Fine-tuning", "ASR")] == pytest.approx(63.06)


def test_losses():
    rows = [
        {
            "dataset": "sst2",
            "attack": "badwords",
            "seed": seed,
            "loss": loss,
            "far_test": far,
            "frr_test": 4.0 + 2 * seed,
            "far_train": 1.0,
            "frr_train": 2.0,
        }
        for loss, far in (("hard", 76.13), ("hard + soft", 0.0))
        for seed in (0, 1)
    ]
    table = make_table(
        "table3", pd.DataFrame(rows).assign(**COMMON, sources=[("mepd/x",)] * 4)
    ).numbers()
    assert list(table.index) == [
        ("sst2", "BadWords", "L_hard"),
        ("sst2", "BadWords", "L_hard + L_soft"),
    ]
    assert table.loc[("sst2", "BadWords", "L_hard"), "FAR"] == 76.13
    assert table.loc[("sst2", "BadWords", "L_hard"), "FRR"] == 5.0


def test_costs(ablations):
    table = costs(ablations)
    row = table.loc[("sst2", "KD")]
    assert row["Seconds"] == 15.0 and row["Peak memory (MiB)"] == 200.0
    yardstick = ablations[ablations.defence == "kd"].assign(defence="never_poisoned")
    assert list(costs(pd.concat([ablations, yardstick])).index) == list(table.index)


def test_it_is_said_how_many_shared_the_machine():
    """The second begins while the first is made; AKD's own seconds are those without the DMM's."""
    day = "2026-01-01T00:00:"
    rows = [
        {"key": "a", "started_at": f"{day}00+00:00", "seconds": 10.0},
        {"key": "b", "started_at": f"{day}05+00:00", "seconds": 20.0, "seconds_akd": 3.0},
        {"key": "c", "started_at": f"{day}12+00:00", "seconds": 9.0},
    ]
    records = pd.DataFrame(rows).assign(state="ok")
    assert describe_company(records) == "About 2 results were made at the same time."
    again = pd.concat([records, records])  # a result that two cells share
    assert describe_company(again) == describe_company(records)
    assert describe_company(records[:1]) == describe_company(records[:0]) == ""


def test_rows_stand_in_the_order_of_names_however_few_there_are():
    """`sort_index` takes an index of categories with one attack for sorted."""
    rows = [
        {"dataset": "toy-topics", "attack": attack, "defence": defence, "seed": 0, "state": "ok"}
        | {"sources": (attack + defence,), "model": "tiny-bert", "far_train": 1.0}
        for attack in ("addsent", "badwords")
        for defence in ("bedkd", "bedkd_plus")
    ]
    for n in (2, 4):
        numbers = make_table("detection", pd.DataFrame(rows[:n])).numbers()
        defences = numbers.index.get_level_values("Defence")
        assert list(defences) == ["BeDKD+", "BeDKD"] * (n // 2)

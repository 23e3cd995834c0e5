"""Tables on numbers that can be checked by hand."""

import pandas as pd
import pytest

from bedkd.report.layouts import DEFENCE_NAMES
from bedkd.report.table_cells import make_cells
from bedkd.report.tables import costs, make_table, select_ablations

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
    table = make_table("detection", records[records.defence == "bedkd"]).numbers()
    shown = table.loc[("sst2", "SynBkd"), ["Flagged rows", "Purity of D_p^few*"]]
    assert list(shown) == [5, 100]


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
    assert list(table.columns.get_level_values(0).unique()) == ["BadWords", "AddSent", "SynBkd"]
    assert table.loc[("sst2", "KD+DMM"), ("SynBkd", "ASR")] == pytest.approx(40.54)
    assert table.loc[("sst2", "DMM+AKD"), ("SynBkd", "CACC")] == 90.48


def test_ablations_of_data_sets_that_have_none_are_left_out(ablations):
    other = ablations[ablations.defence == "bedkd"].assign(dataset="olid")
    table = make_table("table2", select_ablations(pd.concat([ablations, other]))).numbers()
    assert set(table.index.get_level_values("Dataset")) == {"sst2"}


def test_rivals_stand_between_no_defence_and_ours(ablations):
    table = make_table("table1", ablations[ablations.defence.isin(DEFENCE_NAMES)]).numbers()
    assert list(table.columns.get_level_values(0).unique()) == [
        *("No defence", "Fine-tuning", "BeDKD")
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

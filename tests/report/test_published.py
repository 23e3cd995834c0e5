"""The paper's numbers, as transcribed, and ours held against them."""

import pandas as pd
import pytest

from bedkd.report.published import compare, describe_difference, load_published
from bedkd.report.table_cells import AVERAGE, average_attacks, make_cells
from bedkd.report.tables import make_table


def as_records(table, **more):
    """The published numbers as if they were our records of one seed."""
    published = load_published(table)
    fields = [name for name in published if name not in ("metric", "published")]
    records = published.pivot(index=fields, columns="metric", values="published").reset_index()
    common = {"seed": 0, "state": "ok", "n_train": 67349, "n_test": 872, "device": "cpu"}
    common |= {"precision": "float32", "model": "bert-base-uncased"}
    records = records.assign(**{k: v for k, v in common.items() if k not in records}, **more)
    return records.assign(sources=[(f"akd/{i}",) for i in range(len(records))])


def test_every_number_is_there():
    counts = {
        table: len(load_published(table)) for table in ("table2", "table3", "table4", "table5")
    }
    assert counts == {"table2": 30, "table3": 12, "table4": 24, "table5": 36}
    # 3 data sets x (4 rows and the average) x 7 defences, ASR and CACC; Clean has no ASR
    assert len(load_published("table1")) == 3 * 5 * 7 * 2 - 3 * 7


def test_the_averages_come_out_as_printed():
    """ASR over the three attacks, CACC over all four rows. The paper cuts some instead of rounding,
    so a hundredth either way is as printed."""
    records = as_records("table1")
    records["n_train"] = 1
    printed = records[records.attack == AVERAGE].set_index(["dataset", "defence"])
    ours = average_attacks(records[records.attack != AVERAGE]).set_index(["dataset", "defence"])
    for metric in ("asr", "cacc"):
        gap = (ours[metric] - printed[metric].reindex(ours.index)).abs()
        assert len(gap) == 21 and gap.max() <= 0.011, gap[gap > 0.011]
    assert round(ours.asr["sst2", "bedkd"], 2) == 0.83
    assert round(ours.cacc["sst2", "bedkd"], 2) == 90.71


def test_table_1_of_the_papers_own_numbers():
    records = as_records("table1")
    table = make_table("table1", records[records.attack != AVERAGE])
    numbers = table.numbers()
    assert numbers.shape == (15, 14)
    assert numbers.loc[("sst2", "Average"), ("BeDKD", "ASR")] == pytest.approx(0.83, abs=0.011)
    assert numbers.loc[("agnews", "SynBkd"), ("W2SDefense", "CACC")] == 93.91
    assert (
        set(table.cells.agreement.dropna()) == {"yes"}
        and table.cells.difference.abs().max() <= 0.011
    )
    assert table.texts().loc[("olid", "Clean"), ("IMBERT", "ASR")] == "–"
    assert table.texts().loc[("olid", "AddSent"), ("BeDKD", "CACC")] == "81.28 / 81.28 (+0.00 ✓)"


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table5"])
def test_the_other_tables_of_the_papers_own_numbers(name):
    table = make_table(name, as_records(name, **({"far_train": 0.0, "frr_train": 0.0})))
    known = table.cells.dropna(subset="published")
    assert len(known) == len(load_published(name)) and (known.difference == 0).all()


def cell(value, half_width=float("nan"), dataset="sst2"):
    fields = {"dataset": dataset, "attack": "synbkd", "defence": "bedkd", "metric": "asr"}
    return pd.DataFrame([fields | {"value": value, "half_width": half_width}])


def test_agreement():
    assert compare(cell(4.4), "table1").agreement[0] == "yes"  # printed: 2.48
    assert compare(cell(4.6), "table1").agreement[0] == "no"
    assert compare(cell(9.0, half_width=7.0), "table1").agreement[0] == "unclear"
    assert compare(cell(float("nan")), "table1").agreement[0] is None
    assert compare(cell(4.4, dataset="mine"), "table1").agreement[0] is None
    other_name = compare(cell(5.0, dataset="sst2-glue"), "table1")
    assert other_name.published[0] == 2.48 and other_name.difference[0] == pytest.approx(2.52)


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4", "table5"])
def test_generated_texts_are_held_against_nothing(table):
    """Not even where all else is the paper's; and the caption says so, and gives no legend."""
    records = as_records(table, **({"far_train": 0.0, "frr_train": 0.0}))
    names = {"sst2": "toy-sentiment", "olid": "toy-offence", "agnews": "toy-topics"}
    made = make_table(table, records.assign(dataset=records.dataset.replace(names)))
    assert made.cells.published.isna().all() and made.cells.agreement.isna().all()
    assert "toy-sentiment" in made.caption and "generated texts" in made.caption
    assert "✓" not in made.caption and "paper's" not in made.caption
    own = make_table(table, records)
    assert "generated" not in own.caption and "the paper's (difference; ✓" in own.caption


def test_generated_texts_beside_the_papers_own_data():
    records = as_records("table1")
    records = records[(records.attack != AVERAGE) & records.dataset.isin(["sst2", "olid"])]
    mixed = records.assign(dataset=records.dataset.replace("olid", "toy-offence"), n_test=800)
    table = make_table("table1", mixed)
    held = table.cells.dropna(subset="published").dataset
    assert set(held) == {"sst2"} and "toy-offence: generated texts" in table.caption
    assert "sst2 67,349 / 872 rows" in table.caption and "olid 13,240" not in table.caption


def test_ours_beyond_the_paper_have_no_published_number():
    records = as_records("table1")
    records = records[records.defence.isin(["none", "bedkd"]) & (records.attack != AVERAGE)]
    beyond = {"none": "never_poisoned", "bedkd": "bedkd_plus"}
    table = make_table("table1", records.assign(defence=records.defence.map(beyond)))
    assert table.cells.value.notna().any() and table.cells.published.isna().all()


def test_newer_rivals_stand_behind_the_papers_and_the_caption_says_so(tmp_path):
    records = as_records("table1")
    records = records[(records.attack != AVERAGE) & (records.dataset == "sst2")]
    assert "Not in the paper" not in make_table("table1", records).caption
    newer = {"w2s": "rga", "finetune": "dup", "bedkd": "bedkd_plus"}
    more = records[records.defence.isin(newer)]
    more = more.assign(defence=more.defence.map(newer), cacc=50.0)
    table = make_table("table1", pd.concat([more, records]))
    heads = list(table.numbers().columns.get_level_values(0).unique())
    assert heads[:3] == ["No defence", "BeDKD+", "BeDKD"]
    assert heads[-3:] == ["W2SDefense", "RGA", "DUP"]
    own = table.cells[table.cells.defence.isin(["rga", "dup"])]
    assert own.value.notna().any() and own.published.isna().all()
    table.save(tmp_path / "t")
    for kind in ("md", "tex"):
        text = (tmp_path / f"t.{kind}").read_text()
        assert "Not in the paper: BeDKD+, RGA, DUP." in text
    assert "RGA CACC,DUP ASR,DUP CACC" in (tmp_path / "t.csv").read_text().splitlines()[0]


def test_another_data_set_is_held_against_no_table_about_sst2():
    records = as_records("table2").assign(dataset="olid")
    table = make_table("table2", records)
    assert table.cells.published.isna().all() and describe_difference(records, "table2") == ""


def test_a_cell_of_another_value_is_held_against_nothing():
    cells = pd.DataFrame(
        [{"dataset": "sst2", "n_clean": 40, "attack": "badwords", "metric": "asr"}]
    )
    own = compare(cells.assign(value=0.0, half_width=float("nan")), "table4")
    assert own.published.isna().all() and own.agreement[0] is None


def test_the_caption_says_what_differs():
    records = as_records("table1")
    records = records[(records.dataset == "sst2") & (records.attack != AVERAGE)]
    assert describe_difference(records, "table1") == ""
    other = records.assign(model="tiny-bert", n_train=2600, n_test=600, dataset="sst2-glue")
    said = describe_difference(other, "table1")
    assert "bert-base-uncased" in said and "sst2 67,349 / 872 rows (here sst2-glue)" in said
    assert said in make_table("table1", other).caption


def test_average_of_a_row_that_failed_is_no_number():
    records = as_records("table1")
    records = records[(records.dataset == "sst2") & (records.attack != AVERAGE)].copy()
    hit = (records.attack == "addsent") & (records.defence == "onion")
    records.loc[hit, ["asr", "cacc"]] = None
    records.loc[hit, "state"] = "failed"
    table = make_table("table1", records)
    assert table.texts().loc[("sst2", "Average"), ("ONION", "ASR")] == "failed"
    assert table.texts().loc[("sst2", "Average"), ("IMBERT", "ASR")].startswith("42.94")


def test_interval_over_seeds():
    records = pd.concat([as_records("table4").assign(seed=s) for s in range(3)], ignore_index=True)
    records["cacc"] = records.cacc + records.seed - 1
    cells = make_cells(records, ["dataset", "n_clean", "attack"], ["asr", "cacc"])
    cacc = cells[cells.metric == "cacc"]
    assert (cacc.n == 3).all() and cacc.half_width.round(3).eq(2.484).all()  # 4.303 * 1 / sqrt(3)
    assert cells[cells.metric == "asr"].half_width.abs().max() < 1e-9
    assert cells.sources.map(len).eq(3).all()

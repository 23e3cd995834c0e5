"""Claims are weighed by what the records say, whichever way that is."""

import numpy as np
import pandas as pd
import pytest

from bedkd.core.errors import BedkdError
from bedkd.report import claims, findings
from bedkd.report.claims import CLAIMS, excess, gain
from bedkd.report.findings import Claim, lay_out_claims, weigh_claims
from bedkd.report.findings_figures import draw_seeds, draw_shift, draw_study

NEVER = {"asr_never_poisoned": 10.0, "lfr_target_never_poisoned": 12.0, "pacc_never_poisoned": 88.0}


def make_records(study="", value=""):
    """Printed BeDKD turns the trigger round, BeDKD+ does not; three seeds."""
    rows = []
    for seed, wobble in enumerate((-1.0, 0.0, 1.0)):
        cell = {"dataset": "sst2", "seed": seed, "study": study, "value": value} | NEVER
        for attack, far in (("badwords", 1.0), ("synbkd", 40.0)):
            about = cell | {"attack": attack, "far_train": far + wobble, "cacc": 88.0}
            numbers = {
                "none": (99.0, 0.0, 40.0, np.nan),
                "bedkd": (0.5 + wobble, 90.0 + wobble, 36.0 + wobble, 60.0 + 10 * wobble),
                "bedkd_plus": (9.0 + wobble, 13.0 - wobble, 2.0 + wobble, 90.0),
            }
            for defence, (asr, lfr, delta, purity) in numbers.items():
                own = {"asr": asr, "lfr_target": lfr, "delta_pacc": delta}
                rows.append(about | own | {"defence": defence, "poison_few_purity": purity})
        for defence, cacc in (("none", 89.0), ("bedkd", 84.0 + wobble), ("bedkd_plus", 89.0)):
            rows.append(cell | {"attack": "none", "defence": defence, "cacc": cacc})
    return pd.DataFrame(rows)


def weigh(*claims, records=None):
    return weigh_claims(make_records() if records is None else records, list(claims))


def test_a_claim_holds_or_its_opposite_does_or_it_is_open():
    rows = weigh(
        Claim("t", "turned round", excess("lfr_target", "bedkd")),
        Claim("t", "printed is nearer", gain("delta_pacc", "bedkd_plus", by="bedkd")),
        Claim("t", "one point", excess("lfr_target", "bedkd_plus")),
    )
    assert list(rows.verdict) == ["holds", "opposite", "holds"]
    assert list(rows["mean"]) == pytest.approx([78, -34, 1]) and set(rows.n) == {6}
    noisy = make_records()
    noisy.loc[noisy.defence == "bedkd_plus", "lfr_target"] += [9, -9, 0] * 3
    row = weigh(Claim("t", "s", excess("lfr_target", "bedkd_plus")), records=noisy).iloc[0]
    assert row.verdict == "open" and row.half_width > abs(row["mean"])


def test_the_interval_is_students():
    row = weigh(Claim("t", "s", claims.far_over("synbkd", "badwords"))).iloc[0]
    assert row["mean"] == 39 and row.half_width == pytest.approx(0, abs=1e-9) and row.n == 3
    row = weigh(Claim("t", "s", claims.loss_of_clean("bedkd"))).iloc[0]
    assert row["mean"] == 5 and row.half_width == pytest.approx(4.3027 / np.sqrt(3), rel=1e-3)


def test_what_was_not_measured_is_said():
    rows = weigh(Claim("t", "s", gain("delta_pacc", "onion")))
    assert rows.verdict.item() == "not measured" and rows.n.item() == 0
    study = Claim("t", "of a study", claims.clearance("bedkd", value=0.1), "poison_rate")
    assert weigh(study).verdict.item() == "not measured"
    both = pd.concat([make_records(), make_records("poison_rate", "0.1")])
    assert weigh(study, records=both).n.item() == 6


def test_one_cell_alone_is_open():
    records = make_records().query("seed == 0 and attack != 'synbkd'")
    row = weigh(Claim("t", "s", excess("lfr_target", "bedkd")), records=records).iloc[0]
    assert row.verdict == "open" and row.n == 1 and np.isnan(row.half_width)


def test_every_claim_can_be_weighed_and_read():
    studies = [
        make_records(study, str(value))
        for study, values in (
            ("selection", ("file_order", "lowest_mepd")),
            ("choices", ("text", "released code")),
            ("poison_rate", (0.01, 0.05, 0.1, 0.2)),
            ("label_mode", ("mixed", "dirty", "clean")),
            ("resistance", (0, 2)),
        )
        for value in values
    ]
    weighed = weigh_claims(pd.concat([make_records(), *studies], ignore_index=True), CLAIMS)
    assert len(weighed) == len(CLAIMS)
    unknown = set(weighed[weighed.n == 0].claim)  # the rivals and an attack, which are not there
    assert all(says.startswith("… than") or "spread over" in says for says in unknown)
    shown = lay_out_claims(weighed)
    assert len(shown) == len(CLAIMS) and shown.iloc[0, 0] == "+78.0 ± 0.9 points (n = 6): holds"
    page = findings.show_topic(weighed, "Trigger shifting").to_html()
    assert f"{len(unknown) - 2} of " in page and "sentences: not measured" in page
    assert "turns the trigger round" in page and "than ONION" not in page
    page = findings.show_topic(weighed.assign(n=0, verdict="not measured"), "SynBkd").to_html()
    assert "sentences: not measured" in page and "<th>" not in page and "<th " not in page


def test_failures_are_counted_with_wilsons_interval():
    records = make_records()
    records.loc[(records.defence == "bedkd") & (records.seed == 0), "asr"] = 50
    table = findings.count_failures(records).set_index("defence")
    row = table.loc["BeDKD"]
    assert (row.cells, row.failed) == (6, 2) and row.share == pytest.approx(100 / 3)
    assert (row.low, row.high) == pytest.approx((9.68, 70.0), abs=0.1)
    assert table.loc["BeDKD+"].failed == 0 and table.loc["BeDKD+"].high > 30


def test_purity_is_correlated_over_cells():
    records = make_records()
    records.loc[records.defence == "bedkd", "asr"] = 100 - records.poison_few_purity
    assert "ρ = -1.00 (p = 0, n = 6)" in findings.describe_purity(records)
    assert "not measured (0 cells)" in findings.describe_purity(records, "onion")


def test_a_profile_of_which_nothing_is_kept():
    with pytest.raises(BedkdError, match="nothing is kept of profile nowhere"):
        findings.read_kept("nowhere")


def test_the_pictures_have_each_cell_where_it_is():
    rates = [make_records("poison_rate", rate) for rate in ("0.1", "0.2")]
    records = pd.concat([make_records(), *rates], ignore_index=True)
    records.loc[records.defence == "none", "asr_never_poisoned"] = np.nan  # as a victim's record
    points = draw_shift(records).collections[0].get_offsets()
    assert len(points) == 12 and sorted({round(x) for x, _ in points}) == [0, 1, 2, 77, 78, 79]
    names = [label.get_text() for label in draw_seeds(records).get_yticklabels()]
    assert names == ["BeDKD", "BeDKD+"]
    ax = draw_study(records, "poison_rate")
    assert ax.get_xticks().tolist() == [0.1, 0.2]
    assert {-9.5, -1.0} <= {round(y, 6) for line in ax.lines for y in line.get_ydata()}


def test_without_a_cell_a_picture_says_so():
    records = make_records()
    one = draw_study(make_records("alpha", "0.3"), "alpha")  # varies nothing
    none = (draw_shift(records[:0]), draw_seeds(records[:0]), draw_study(records, "alpha"))
    for ax in (one, *none):
        assert [text.get_text() for text in ax.texts] == ["not measured"]

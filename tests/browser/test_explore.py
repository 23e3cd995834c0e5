"""Notebooks in JupyterLab and a headless Chromium: what a reader does, and what the page then says.

Texts and values are compared, not pixels.
"""

import re
import time
from functools import partial

import pytest
from bs4 import BeautifulSoup

from bedkd.report import explore, probe, widgets
from bedkd.report.sensitivity import describe_points, find_sweeps
from bedkd.report.show import format_fact, tabulate
from bedkd.runs.profiles import load_profile
from bedkd.runs.reading import read_history, read_model

# no conftest: other tests import from the one above, by its name
pytest_plugins = ["in_browser"]
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def explored(open_notebook):
    notebook = open_notebook("20_explore")
    yield notebook
    notebook.page.close()


def read_table(table):
    """The cells' texts, a list for each row below the head."""
    rows = table.locator("tr").all()[1:]
    return [[tidy(cell) for cell in row.locator("td").all_inner_texts()] for row in rows]


def parse_table(page_html):
    """The same of a table's HTML."""
    rows = BeautifulSoup(page_html, "html.parser").find_all("tr")[1:]
    return [[tidy(cell.get_text()) for cell in row.find_all("td")] for row in rows]


def tidy(text):
    return " ".join(text.split())


def expect(read, wanted):
    """Until the page says so: a kernel answers when it can."""
    for _ in range(100):
        if (found := read()) == wanted:
            return
        time.sleep(0.2)
    assert found == wanted


def test_opens_without_an_error(explored, cell):
    menu = explored.output("picker = ").locator("select")
    labels = [label for label, _ in explore.find_runs(cell[0].root)]
    assert [tidy(text) for text in menu.locator("option").all_inner_texts()] == labels
    explored.check()


def test_gamma(explored, cell):
    """The slider by mouse and by keys; the numbers and the texts are those that Python has."""
    run, view = cell[0], explored.output("widgets.view_gamma")
    threshold, names = explore.open_threshold(run, "mepd"), run.record("data")["label_names"]
    handle, value = view.locator(".noUi-handle").first, view.locator(".widget-readout").first

    def check(kind="all"):
        gamma = float(value.inner_text())
        gammas = {"slider": gamma} | dict([explore.list_gammas(run)["mepd"]])
        for place, page_html in enumerate(
            (
                widgets.show_numbers(threshold, gammas),
                widgets.show_nearest(threshold, gamma, kind, names),
            )
        ):
            table = view.locator("table").nth(place)
            expect(partial(read_table, table), parse_table(page_html))
        return gamma

    first = check()
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    explored.page.mouse.move(x, y)
    explored.page.mouse.down()
    explored.page.mouse.move(x + 60, y, steps=10)
    explored.page.mouse.up()
    expect(lambda: float(value.inner_text()) > first, True)
    dragged = check()
    for _ in range(3):
        handle.press("ArrowLeft")
    expect(lambda: float(value.inner_text()), round(dragged - 3 * widgets.STEP, 3))
    check()
    view.locator("select").select_option("false rejects")
    check("false rejects")
    explored.check()


def test_scrubs(explored, cell):
    """Through the DMM's epochs and AKD's cycles of the run at the left."""
    view = explored.output("widgets.view_training")
    for place, (stage, name) in enumerate((("dmm", "mepd_clean"), ("akd", "cacc"))):
        history = read_history(cell[0], stage)
        handle, table = view.locator(".noUi-handle").nth(place), view.locator("table").nth(place)
        row = widgets.READ[stage][1].index(name)
        for epoch in (len(history) - 2, len(history) - 3):
            handle.press("ArrowLeft")
            value, at = explore.read_moment(history, epoch, [name]).loc[name]
            shown = [format_fact(name, value), f"{at:.0f}"]
            expect(lambda t=table, r=row: read_table(t)[r][1:], shown)
    explored.check()


def test_probe(explored, cell, hostile):
    """A typed text is answered by all three models, and is a text, whatever it says."""
    view = explored.output("probe.view_probe")
    view.locator("select").select_option("mn")
    view.get_by_role("button", name="end", exact=True).click()
    view.locator("textarea").fill(f"the cast is warm {hostile[0]}")
    view.get_by_role("button", name="Ask").click()
    expect(lambda: tidy(view.locator("p").inner_text()), f"the cast is warm {hostile[1]} mn")
    asked = probe.insert_trigger(f"the cast is warm {hostile[0]}", "mn", "end")
    for row, stage in zip(read_table(view.locator("table")), probe.MODELS, strict=True):
        model = read_model(cell[0], stage)
        p = model.predict([asked])[0]
        assert row[1] == model.label_names[p.argmax()]
        assert f"{model.label_names[0]} {100 * p[0]:.1f}%" in row[2]
    explored.check()


def test_texts_are_texts(explored, hostile):
    """In the widgets and in the figures' cells: seen as they are, obeyed nowhere, wide nowhere."""
    explored.output("widgets.view_gamma").locator("select").select_option("all")
    for source in ("widgets.view_gamma", "probe.view_probe", "probe.show_example"):
        output = explored.output(source)
        expect(lambda box=output: hostile[1] in tidy(box.inner_text()), True)
        assert output.locator("script, img[src=x], mjx-container").count() == 0
        assert output.locator("b", has_text=re.compile("^bad$")).count() == 0
        assert output.evaluate("box => box.scrollWidth <= box.clientWidth + 1")
    explored.check()


def test_sweep_opens_its_run(explored, cell):
    view, menu = explored.output("widgets.view_sweeps"), explored.output("picker = ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEDKD_OUTPUTS", str(cell[0].root))
        profile = load_profile(str(cell[0].root.parent / "small.yaml"))
        (points,) = find_sweeps(profile, cell[0]).values()
    page_html = tabulate(describe_points(points[:1]))
    assert parse_table(page_html)[0][:3] == ["BeDKD", "4", "0"]
    expect(lambda: read_table(view.locator("table")), parse_table(page_html))
    view.get_by_role("button", name="Show its run").click()
    expect(lambda: cell[1].key("akd")[:6] in menu.locator("select").input_value(), True)
    explored.check()

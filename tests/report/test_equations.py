"""Equations of exported notebooks: MathML, for a page without a network."""

import json
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbformat import read
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from traitlets.config import Config

from bedkd.report import equations
from bedkd.runs.profiles import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
CONFIG = json.loads((Path(equations.__file__).parent / "jupyter_config.json").read_text())


def export(notebook):
    """The page as `jupyter nbconvert --to html` writes it where the project is installed."""
    page, _ = HTMLExporter(config=Config(CONFIG)).from_notebook_node(notebook)
    return BeautifulSoup(page, "html.parser").main


def export_text(text):
    return export(new_notebook(cells=[new_markdown_cell(text)]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_equation_of_the_notebooks(path):
    notebook = read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    n = sum(bool(m["tex"]) for text in sources for m in equations.MATH.finditer(text))
    page = export(notebook)
    assert len(page.find_all("math")) == n
    for equation in page.find_all("math"):
        assert not re.search(r"[\\$]", equation.text), "TeX that was not understood"
    for cell in page.select(".jp-MarkdownCell"):
        assert "$" not in cell.text


def test_an_equation_survives_markdown():
    (equation,) = export_text(r"$$a^*_{i} = |b|^* \cdot [c](d)\ e_1 ~ f_2$$").find_all("math")
    assert equation["display"] == "block" and equation.find("msubsup") and not equation.find("em")
    assert equation.text.count("∗") == 2 and "[c](d)" in equation.text  # one for both of TeX
    (equation,) = export_text("A prime $y'$ here.").find_all("math")
    assert equation["display"] == "inline" and equation.text == "y′" and not equation.find("msup")


def test_a_dollar_that_is_none_of_tex_stays():
    text = "It costs 5$ or `$x$`, \\$y\\$ and 3 $ more.\n\n```sh\necho $HOME $PATH\n```"
    page = export_text(text)
    assert not page.find_all("math") and "$HOME $PATH" in page.text
    code = export(new_notebook(cells=[new_code_cell("'$x$'")]))
    assert not code.find_all("math")


def test_tex_that_cannot_be_read_stays(monkeypatch):
    assert "$a_{$" in export_text("See $a_{$ there.").text

"""Equations of an exported notebook, readable without a network.

The sources keep TeX, which JupyterLab, VS Code, Colab and code hosts draw themselves. An exported
page would need MathJax from the network for it, so there it becomes MathML, which browsers draw.
`jupyter_config.json` beside this file names `use_mathml` to nbconvert, be it
`jupyter nbconvert --to html` or JupyterLab's menu, from the environment's `etc/jupyter`. `make`
puts it there, since an editable install brings no such file along.
"""

import re

from latex2mathml.converter import convert

# code first, where a dollar is a dollar; a backslash before one says the same
MATH = re.compile(
    r"(`+)(?!`).+?(?<!`)\1(?!`)|(?<![\\$])(?P<ends>\$\$?)(?![\s$])(?P<tex>.+?)(?<![\s\\$])(?P=ends)",
    re.DOTALL,
)
XMLNS = ' xmlns="http://www.w3.org/1998/Math/MathML"'
PRIMED = r"<msup>(<mi>[^<]*</mi>)<mi>&#x02032;</mi></msup>"


def write_mathml(found: re.Match) -> str:
    """One equation as MathML; code, and TeX that the library cannot read, as it is."""
    if not found["tex"]:
        return found[0]
    try:
        markup = convert(found["tex"], display="block" if found["ends"] == "$$" else "inline")
    except Exception:  # the library's errors have no base class; MathJax may know better
        return found[0]
    markup = markup.replace(XMLNS, "")  # HTML has none, and nbconvert's headings trip over it
    # what browsers would raise too high: the glyph is a raised one already
    markup = re.sub(r"\*|&#x0002A;", "&#x2217;", markup)
    markup = re.sub(PRIMED, r"<mrow>\1<mo>&#x2032;</mo></mrow>", markup)
    # Markdown comes after this, and would read emphasis, links and tables into an operator
    return re.sub(r"[_\[\]|`~\\]", lambda sign: f"&#{ord(sign[0])};", markup)


def use_mathml(notebook, resources: dict) -> tuple:
    """A preprocessor of nbconvert's: the notebook's markdown cells with MathML for TeX."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = MATH.sub(write_mathml, cell.source)
    return notebook, resources

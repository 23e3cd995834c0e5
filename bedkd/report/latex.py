"""A table as LaTeX."""

import re

import pandas as pd

ESCAPES = str.maketrans(
    {character: "\\" + character for character in "%_#&${}"}
    | {
        "\\": r"\textbackslash{}",
        "^": r"\^{}",
        "±": r"$\pm$",
        "✓": r"\checkmark",
        "✗": r"$\times$",
        "~": r"$\sim$",
        "–": "--",
        "γ": r"$\gamma$",
        "α": r"$\alpha$",
        "λ": r"$\lambda$",
        "Δ": r"$\Delta$",
    }
)


def escape_latex(text: object) -> str:
    return str(text).translate(ESCAPES)


def stack_lines(text: str) -> str:
    """A cell's text (see `tables.describe_cell`) in lines: ours, the paper's, the difference."""
    ours, *others = text.removesuffix(")").replace(" (", " / ").split(" / ")
    if not others:
        return escape_latex(ours)
    small = (rf"\scriptsize {escape_latex(line)}".replace("-", "$-$") for line in others)
    return r"\begin{tabular}[t]{@{}c@{}}" + r"\\".join([ours, *small]) + r"\end{tabular}"


def to_latex(texts: pd.DataFrame, caption: str) -> str:
    """Across both columns of a page, made smaller only if it is wider.

    It needs the packages booktabs, multirow, amssymb and graphicx.
    """
    columns = "l" * texts.index.nlevels + "c" * len(texts.columns)
    escaped = texts.map(stack_lines).rename(index=escape_latex, columns=escape_latex)
    escaped = escaped.rename_axis(index=escape_latex, columns=escape_latex)
    tabular = escaped.to_latex(escape=False, multicolumn_format="c", column_format=columns)
    tabular = re.sub(r"\\cline{[-\d]+}\n\\bottomrule", r"\\bottomrule", tabular)
    tabular = tabular.replace(r"\cline", r"\cmidrule")
    return (
        "% needs booktabs, multirow, amssymb, graphicx\n"
        "\\begin{table*}\n\\centering\n\\setlength{\\tabcolsep}{3pt}\n"
        f"\\caption{{{escape_latex(caption)}}}\n"
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        f"{tabular}}}\n\\end{{table*}}\n"
    )

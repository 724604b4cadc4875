"""A table of ready strings as LaTeX: booktabs rules, everything escaped, no wider than the page."""

import re

HEAD = "% In the preamble: \\usepackage{booktabs,graphicx}"

_ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "★": r"$\star$", "†": r"\dag{}", "×": r"$\times$",
    "−": "$-$", "\N{NO-BREAK SPACE}": "~", "–": "--", "…": r"\ldots{}", "→": r"$\rightarrow$", "’": "'",
    "“": "``", "”": "''", "\n": " ",
}
_SIGN = re.compile(r"(?<![\w.])[+-](?=\d)")  # a minus is longer than a hyphen


def escape(text):
    """Text as LaTeX typesets it: special characters escaped, the signs of our tables in mathematics."""
    parts = _SIGN.split(str(text))
    signs = [f"${sign}$" for sign in _SIGN.findall(str(text))]
    escaped = ["".join(_ESCAPED.get(character, character) for character in part) for part in parts]
    return "".join(part + sign for part, sign in zip(escaped, [*signs, ""]))


def latex(caption, table, label=None):
    """A DataFrame of strings as a LaTeX table environment that needs booktabs and graphicx.

    The first column is the index. A table wider than the line is made smaller.
    """
    header = [table.index.name or "", *table.columns]
    lines = [[label_of, *row] for label_of, row in zip(table.index, table.to_numpy())]
    rows = [" & ".join(map(escape, line)) + r" \\" for line in lines]
    marks = [rf"\label{{tab:{re.sub(r'[^A-Za-z0-9.:-]+', '-', label)}}}"] if label else []
    return "\n".join([
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        *marks,
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(map(escape, header)) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ])

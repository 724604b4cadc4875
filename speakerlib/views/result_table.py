"""Tables of results for a notebook: a click on a column's head sorts, a button copies as TSV or Markdown."""

import hashlib
import html
import re
from pathlib import Path

SCRIPT = Path(__file__).with_suffix(".js")
_CELL = "text-align: right; padding: 0.25em 0.9em; white-space: nowrap"
_HEAD = "text-align: left; padding: 0.25em 0.9em; font-weight: bold"
_CAPTION = "caption-side: top; text-align: left; font-weight: bold; padding: 0.4em 0; color: inherit"


def result_table(table, caption=None):
    """A DataFrame of ready strings such as "91.7 ± 0.2" as HTML that sorts and copies; its index is the first columns.

    The table is plain HTML with heads for screen readers; what makes it sort is a script beside it, which needs no
    network, no kernel and, in JupyterLab, a notebook that was run here. Without it the table is read as it is.
    """
    from IPython.display import HTML

    rows = table.reset_index() if any(table.index.names) else table
    levels = table.index.nlevels if any(table.index.names) else 0
    heads = "".join(f'<th scope="col" style="{_HEAD if place < levels else _CELL}">{_text(name)}</th>'
                    for place, name in enumerate(rows.columns))
    lines = "".join(f"<tr>{_line(row, levels)}</tr>" for row in rows.itertuples(index=False))
    told = f'<caption style="{_CAPTION}">{_text(caption)}</caption>' if caption else ""
    whole = (f'<div style="overflow-x: auto; max-width: 100%"><table style="margin: 0">{told}<thead><tr>{heads}</tr>'
             f"</thead><tbody>{lines}</tbody></table></div>")
    name = "table-" + hashlib.blake2b(whole.encode(), digest_size=6).hexdigest()
    return HTML(f'<div id="{name}">{whole}</div><script>{_script(name)}</script>')


def _line(row, levels):
    return "".join(f'<th scope="row" style="{_HEAD}">{_text(value)}</th>' if place < levels else
                   f'<td style="{_CELL}">{_text(value)}</td>' for place, value in enumerate(row))


def _text(value):
    return "" if value is None or value != value else html.escape(str(value))


def _script(name):
    """The script for the box of that name, without its comments."""
    source = SCRIPT.read_text(encoding="utf-8").replace("TABLE_ID", name)
    return re.sub(r"(?m)^\s*//.*\n|\s+// .*$|^\s+", "", source)

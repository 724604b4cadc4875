"""The workbook as it was executed: a folder of HTML pages that opens from the file system, without a network."""

import html
import re
from pathlib import Path

from speakerlib.data.corpora import find_corpus
from speakerlib.data.files import atomic_path, data_folder
from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.workbook import MAKES_ITS_CORPUS, STEPS, is_done, place_of

WIDGET = "application/vnd.jupyter.widget-view+json"
SLIDERS = "*Here JupyterLab shows sliders, menus and buttons; the picture is what they show at first.*"
_MATH = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$(?![\w$])", re.DOTALL)
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_STYLE = """
:root {color-scheme: light dark}
body {font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem}
ol {list-style: none; padding: 0; display: grid; gap: 1rem;
    grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr))}
li {border: 1px solid #8884; border-radius: 6px; padding: 1rem}
h2 {font-size: 1.1rem; margin: 0 0 .5rem} img {width: 100%; height: 10rem; object-fit: contain; background: white}
"""


def write_book(corpus="demo", folder=None):
    """Writes the executed workbook of a corpus (a name, or the folder of one) as HTML; returns the index's path.

    Figures, tables and sound are in the pages; equations are MathML; widgets, which need a kernel, leave a sentence.
    folder: where to (default: <data>/book/<corpus>). FileNotFoundError names a chapter that was not executed yet.
    """
    found = find_corpus(str(Path(corpus).expanduser()))
    corpus, speech = found.name, "synthetic" if found.synthetic else "real"
    folder = Path(folder).expanduser() if folder else data_folder() / "book" / corpus
    executed = [_executed(notebook, {"corpus": corpus, **parameters}) for notebook, parameters in STEPS]
    pages = sorted(executed, key=lambda page: page["name"])
    names = {page["notebook"]: page["name"] for page in sorted(pages, key=lambda page: -len(page["name"]))}
    folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        _write(folder / f"{page['name']}.html", _page(page, names))
    _write(folder / "index.html", _index(f"{corpus} ({speech} speech)", pages))
    return folder / "index.html"


def _executed(notebook, given):
    """Where a chapter was executed, and what its page is called: with what is not by default, where that matters."""
    import nbformat

    corpus, defaults = given["corpus"], notebook_parameters(notebook)
    given = {name: value for name, value in given.items() if notebook not in MAKES_ITS_CORPUS or name != "corpus"}
    name, _, folder = place_of(notebook, given)
    if not is_done(name, folder):
        raise FileNotFoundError(f"{name} was not executed yet on {corpus!r}. First: make run CORPUS={corpus}")
    several = sum(step == notebook for step, _ in STEPS) > 1
    told = {key: value for key, value in given.items() if several and key != "corpus" and value != defaults[key]}
    return {"notebook": notebook, "name": "_".join([notebook, *(f"{key}-{value}" for key, value in told.items())]),
            "told": told, "cells": nbformat.read(folder / "executed.ipynb", as_version=4)}


def _page(page, names):
    """The HTML of one executed notebook."""
    from nbconvert import HTMLExporter

    notebook = page["cells"]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["title"] = _title(page)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _with_mathml(_with_pages(cell.source, names))
        elif cell.cell_type == "code":
            cell.outputs = [each for output in cell.outputs for each in _without_widget(output)]
    offline = {"mathjax_url": "", "require_js_url": "", "jquery_url": "", "mermaid_js_url": ""}
    body, _ = HTMLExporter(template_name="lab", **offline).from_notebook_node(notebook)
    return body


def _without_widget(output):
    """An output that needs a kernel becomes a sentence, or nothing if it was a progress bar."""
    import nbformat

    data = output.get("data", {})
    if WIDGET not in data:
        return [output]
    if "|" in data.get("text/plain", "") or "HTML(" in data.get("text/plain", ""):
        return []
    return [nbformat.v4.new_output("display_data", {"text/markdown": SLIDERS})]


def _with_pages(text, names):
    """Links to notebooks as links to their pages."""
    return re.sub(r"\]\((\w+)\.ipynb", lambda found: f"]({names.get(found[1], found[1])}.html", text)


def _with_mathml(text):
    """Equations between dollars as MathML, but for what is code."""
    from latex2mathml.converter import convert

    def converted(found):
        return convert(found["block"] or found["inline"], display="block" if found["block"] else "inline")

    parts = _CODE.split(text)
    return "".join(part if place % 2 else _MATH.sub(converted, part) for place, part in enumerate(parts))


def _title(page):
    for cell in page["cells"].cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            told = ", ".join(f"{key} = {value}" for key, value in page["told"].items())
            return cell.source.splitlines()[0][2:] + f" ({told})" * bool(told)
    return page["name"]


def _what_it_shows(page):
    """A chapter's first paragraph as plain text."""
    text = next((cell.source for cell in page["cells"].cells if cell.source.startswith("# ")), "")
    first = (text.split("\n\n") + [""])[1].partition("**Needs**")[0].removeprefix("**What it shows.**")
    return re.sub(r"\[([^\]]+)\]\([^)]*\)|[*`]", r"\1", first).strip()


def _index(speech, pages):
    """The list of chapters, each with its first paragraph and its first figure; speech: which it was executed on."""
    items = []
    for page in pages:
        picture = next((output.data["image/png"].strip() for cell in page["cells"].cells
                        for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})), None)
        image = f'<img alt="" src="data:image/png;base64,{picture}">' if picture else ""
        items.append(f'<li><a href="{page["name"]}.html"><h2>{html.escape(_title(page))}</h2>{image}</a>'
                     f"<p>{html.escape(_what_it_shows(page))}</p></li>")
    title = f"Who is speaking? The workbook, executed on {html.escape(speech)}"
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
            f'<meta name="viewport" content="width=device-width"><h1>{title}</h1><ol>{"".join(items)}</ol></html>\n')


def _write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

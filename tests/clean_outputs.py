"""What no reader of an executed notebook should meet: errors, warnings, raw Python objects, empty tables."""

import re

import nbformat

_RAW = re.compile(r"\{['\"]|Warning\b|Traceback|Empty DataFrame|^\s*[<\[(]", re.M)  # dicts, warnings, objects, lists


def unclean(path):
    """[(cell's first line, what is wrong in its output)] of an executed notebook.

    The text that stands for a figure, a formatted table or a widget is seen by nobody, and does not count.
    """
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "error" or output.get("name") == "stderr":
                text = output.get("text") or f"{output.get('ename')}: {output.get('evalue')}"
            elif output.output_type == "stream":
                text = output.text if _RAW.search(output.text) else ""
            else:
                plain = output.data.get("text/plain", "")
                raw = set(output.data) == {"text/plain"} and _RAW.search(plain)
                text = plain if raw or "Empty DataFrame" in plain else ""
            if text:
                found.append((cell.source.strip().splitlines()[0], text[:300]))
    return found

"""What lets the keyboard work on controls in JupyterLab, which otherwise takes arrows and letters for its commands."""

from functools import cache
from pathlib import Path


def own_keys():
    """A widget without a picture: beside controls in one output, it leaves plain keys to the one that has the focus.

    Combinations with Control and Command, and Shift with Enter, stay JupyterLab's.
    """
    return _own_keys()()


def script_with_keys(script):
    """The text of a script beside this file, after that of claim_keys.js, which it calls."""
    return "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("claim_keys.js", script))


@cache
def _own_keys():
    import anywidget

    class OwnKeys(anywidget.AnyWidget):
        _esm = script_with_keys("own_keys.js")

    return OwnKeys

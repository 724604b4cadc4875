"""Widgets as a cell shows them: every one of them, and a press of the button that a person sees."""

import ipywidgets


def widgets_of(explorer, monkeypatch):
    """All widgets that explorer.display() puts before a person, containers and what is in them."""
    shown = []
    with monkeypatch.context() as patched:
        patched.setattr("IPython.display.display", lambda *parts, **options: shown.extend(parts))
        explorer.display()
    explorer._outputs.clear()  # there is no page to bring up to date
    found = [part for part in shown if isinstance(part, ipywidgets.Widget)]
    for widget in found:
        found += getattr(widget, "children", ())
    return found


def press(explorer, description, monkeypatch):
    """Presses the one button of that description."""
    (button,) = [widget for widget in widgets_of(explorer, monkeypatch)
                 if isinstance(widget, ipywidgets.Button) and widget.description == description]
    button.click()

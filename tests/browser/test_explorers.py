"""What moves in the chapters: sliders and menus by keyboard, pictures that follow, sound, Reset, progress."""

import io

import matplotlib.image
import numpy as np
import pytest
from lab_pages import WAIT

pytestmark = pytest.mark.slow
EXPLORERS = {  # the cell, a slider, the keys that move it, menus
    "02_spectrogram_exploration": ("SpectrogramExplorer", "range, dB", "ArrowRight", ("left speaker", "condition")),
    "03_mae_mask_visualisation": ("MaskExplorer", "ratio", "ArrowLeft", ("speaker", "mask")),
}
WATCH = """(cell) => { const before = cell.querySelector('img').src; window.pressed = window.redrawn = 0;
    document.addEventListener('keydown', () => window.pressed = performance.now(), {once: true, capture: true});
    const watcher = new MutationObserver(() => { const picture = cell.querySelector('img');
        if (picture && picture.src !== before) { watcher.disconnect();
            picture.decode().then(() => window.redrawn = performance.now()); } });
    watcher.observe(cell, {subtree: true, childList: true, attributes: true}); }"""
HEARD = """(cell) => { const all = [...cell.querySelectorAll('audio')];
    return all.length && all.every((each) => (each.currentSrc || each.src).length > 1000 && each.duration > 0.4); }"""
PLAYED = """async (each) => { await each.play(); await new Promise((on) => each.ontimeupdate = on);
    return each.currentTime; }"""


def pixels(cell):
    """The cell's picture as it is on the screen."""
    picture = cell.locator(".jp-OutputArea img").first
    picture.scroll_into_view_if_needed()
    return matplotlib.image.imread(io.BytesIO(picture.screenshot()))


def differs(one, other):
    """Of how many pixels in a hundred two pictures differ visibly."""
    return 100.0 if one.shape != other.shape else 100 * (np.abs(one - other).max(axis=2) > 0.1).mean()


def follows(page, cell, act):
    """Does something and waits until the picture has changed: (pixels after it, milliseconds from key to picture)."""
    cell.evaluate(WATCH)
    act()
    page.wait_for_function("() => window.redrawn", timeout=WAIT)
    return pixels(cell), page.evaluate("() => window.redrawn - window.pressed")


@pytest.mark.parametrize("name", EXPLORERS)
def test_pictures_follow_sliders_and_menus_and_come_back_by_reset(notebook, name, record_property):
    source, slider, key, menus = EXPLORERS[name]
    opened = notebook(name)
    opened.run_all()
    page, cell = opened.page, opened.show(opened.find(source))
    handle = cell.locator(".widget-slider", has=page.get_by_text(slider, exact=True)).get_by_role("slider")
    first, times = pixels(cell), []
    for _ in range(4):
        handle.focus()
        moved, milliseconds = follows(page, cell, lambda: page.keyboard.press(key))
        times.append(milliseconds)
    assert differs(first, moved) > 0.5
    record_property(f"{name}, from {slider} to the picture", f"{min(times):.0f} to {max(times):.0f} ms")
    for menu in menus:
        choice = cell.get_by_label(menu, exact=True)
        choice.focus()
        last = choice.evaluate("(each) => each.selectedIndex === each.options.length - 1")
        chosen, _ = follows(page, cell, lambda: page.keyboard.press("ArrowUp" if last else "ArrowDown"))
        assert differs(moved, chosen) > 0.5, menu
        moved = chosen
    if cell.get_by_role("button", name="Listen").count():
        cell.get_by_role("button", name="Listen").press("Enter")
    cell.locator("audio").first.wait_for(timeout=WAIT)
    page.wait_for_function(HEARD, arg=cell.element_handle(), timeout=WAIT)
    assert cell.locator("audio").first.evaluate(PLAYED) >= 0
    again, _ = follows(page, cell, lambda: cell.get_by_role("button", name="Reset").press("Enter"))
    assert differs(first, again) < 0.2  # edges fall on other pixels where the page has moved by part of one

"""Every chapter in JupyterLab, run as a reader runs it: no error or warning, all of it seen, readable in two themes."""

import re
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from lab_pages import TOKEN, lab_command

from speakerlib.data.files import project_folder

pytestmark = pytest.mark.slow
CHAPTERS = sorted(path.stem for path in (project_folder() / "notebooks").glob("*.ipynb"))
READABLE = 4.5  # contrast of text, WCAG 2.2 AA
CUT_OFF = """() => { const found = [];
    for (const area of document.querySelectorAll('.jp-Notebook .jp-OutputArea-output')) {
        const edge = area.getBoundingClientRect().right + 1;
        const scrolls = (node) => { for (; node && node !== area.parentElement; node = node.parentElement)
            if (['auto', 'scroll'].includes(getComputedStyle(node).overflowX)) return true; return false; };
        for (const each of area.querySelectorAll('img, canvas, button, select, input, audio, svg'))
            if (each.getBoundingClientRect().right > edge && !scrolls(each.parentElement))
                found.push(each.outerHTML.slice(0, 200));
    } return found; }"""
FAINT = """(least) => { const found = {};
    const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
    const over = (top, under) => top.slice(0, 3).map((value, k) => value * top[3] + under[k] * (1 - top[3]));
    const behind = (node) => { const layers = []; let base = [255, 255, 255];
        for (; node; node = node.parentElement) { const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour[3] === 1) { base = colour.slice(0, 3); break; } if (colour[3]) layers.unshift(colour); }
        return layers.reduce((under, top) => over(top, under), base); };
    const light = (colour) => { const [r, g, b] = colour.map((value) => { const v = value / 255;
        return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    for (const area of document.querySelectorAll('.jp-RenderedHTMLCommon, .jp-OutputArea-output')) {
        const walker = document.createTreeWalker(area, NodeFilter.SHOW_TEXT);
        for (let text = walker.nextNode(); text; text = walker.nextNode()) {
            const node = text.parentElement, box = node.getBoundingClientRect();
            const other = '[disabled], script, style, option, .MathJax, mjx-container, pre, code';
            if (!text.data.trim() || !box.width || node.closest(other)) continue;
            const under = behind(node), colour = over(parse(getComputedStyle(node).color), under);
            const [low, high] = [light(colour), light(under)].sort((one, other) => one - other);
            const contrast = (high + 0.05) / (low + 0.05);
            if (contrast < least) found[text.data.trim().slice(0, 40)] = Math.round(10 * contrast) / 10;
        } } return found; }"""
SIDEWAYS = """() => [...document.querySelectorAll('.cm-scroller, .jp-OutputArea-output, .jp-OutputArea-output *')]
    .filter((each) => each.clientWidth && each.scrollWidth > each.clientWidth + 1 && !each.querySelector('table')
        && ['auto', 'scroll'].includes(getComputedStyle(each).overflowX))
    .map((each) => each.textContent.trim().slice(0, 100))"""
SEEN_THROUGH = """() => [...document.querySelectorAll('.jp-OutputArea-output img')].filter((each) => {
    if (!each.complete || !each.naturalWidth) return false;
    const canvas = document.createElement('canvas'), brush = canvas.getContext('2d');
    brush.drawImage(each, 0, 0);
    return brush.getImageData(1, 1, 1, 1).data[3] < 255; }).length"""


def test_the_lab_is_for_this_computer_and_asks_for_a_token(lab):
    assert "--ip=127.0.0.1" in lab_command() and lab_command()[-1] == "notebooks/00_start_here.ipynb"
    with pytest.raises(HTTPError, match="403"):
        urlopen(f"{lab}/api/contents", timeout=30)
    assert urlopen(f"{lab}/api/contents?token={TOKEN}", timeout=30).status == 200


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_and_nothing_is_wrong_cut_off_or_faint(notebook, name):
    opened = notebook(name)
    opened.run_all()
    outputs = opened.outputs()
    assert outputs
    for number, output in outputs:
        assert output["output_type"] != "error", f"cell {number}: {output.get('evalue')}"
        assert output.get("name") != "stderr", f"cell {number} warns: {''.join(output['text'])[:500]}"
        plain = "".join(output.get("data", {}).get("text/plain", "")) if "text/html" not in output.get(
            "data", {}) else ""
        assert not re.match(r"\s*[\[{]['\"]", plain), f"cell {number} shows a bare container: {plain[:200]}"
    pictures = [number for number, output in outputs if "image/png" in output.get("data", {})]
    assert pictures or name == "01_data_scraping"
    assert not opened.page.get_by_text("Jupyter news").count()  # a window over the pictures
    for width, theme in ((1280, "JupyterLab Light"), (700, "JupyterLab Dark")):
        opened.page.set_viewport_size({"width": width, "height": 900})
        opened.command("apputils:change-theme", theme=theme)
        cut, faint, sideways = set(), {}, set()
        for number in sorted({number for number, _ in outputs}):
            opened.show(number)
            cut |= set(opened.page.evaluate(CUT_OFF))
            faint |= opened.page.evaluate(FAINT, READABLE)
            sideways |= set(opened.page.evaluate(SIDEWAYS))
            assert not opened.page.evaluate(SEEN_THROUGH), f"cell {number}: a theme's colour is behind a picture's text"
            text = opened.page.locator(".jp-Notebook").inner_text()
            assert not re.search("odel not found|rror displaying widget|oading widget", text), f"cell {number}"
        assert not cut, f"at {width} pixels these are cut off: {cut}"
        assert width < 1280 or not sideways, f"what is no table has a scroll bar at {width} pixels: {sideways}"
        assert not faint, f"text that can hardly be read in {theme}: {faint}"
    opened.command("apputils:change-theme", theme="JupyterLab Light")
    assert not [text for text in opened.errors if "favicon" not in text], opened.errors

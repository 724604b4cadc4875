"""Seconds from `make lab` to the first interactive picture, that of chapter 02's explorer, and what takes them.

    python tests/browser/first_picture.py [--output figures/lab/first_picture.md]

The demo corpus is made first where it is absent. Run it on an idle computer; `taskset -c 0,1` leaves it two cores.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

from lab_pages import CHROMIUM, LONGEST, WAIT, OpenNotebook, running_lab

from speakerlib.data.demo_corpus import demo_corpus
from speakerlib.data.files import data_folder

FIRST, EXPLORED = "00_start_here", "02_spectrogram_exploration"
READY = """async () => { const panel = jupyterapp.shell.currentWidget;
    await panel.context.ready; await panel.sessionContext.ready; await panel.content.widgets.at(-1).ready; }"""
WATCH = """([imports, before, explored]) => { const cells = jupyterapp.shell.currentWidget.content.widgets;
    const began = performance.now(), seen = window.seen = {};
    const done = (number) => cells[number].model.executionCount && !cells[number].promptNode.textContent.includes('*');
    const look = () => { const now = (performance.now() - began) / 1000;
        const picture = cells[explored].node.querySelector('img');
        if (done(imports)) seen.imports ??= now;
        if (done(before)) seen.before ??= now;
        if (picture && picture.complete && picture.naturalWidth) seen.picture ??= now;
        if (!seen.picture) setTimeout(look, 20); };
    look(); }"""


def main():
    """Prints the parts in their order as a table, and writes it where asked to."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="a Markdown file for the table")
    output = parser.parse_args().output
    demo_corpus(progress=False)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # a reader has one open
        parts = measure(Path(folder), browser)
        browser.close()
    lines = [f"| {part} | {seconds:.1f} |" for part, seconds in [*parts.items(), ("together", sum(parts.values()))]]
    text = "\n".join(["From `make lab` to the first interactive picture, that of chapter 02's explorer:", "",
                      "| what takes the time | seconds |", "| --- | --- |", *lines, "",
                      f"*`python tests/browser/first_picture.py`, {len(os.sched_getaffinity(0))} cores, "
                      f"{platform.machine()}, a Chromium that was open*"])
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")


def measure(folder, browser):
    """{part: seconds}, of a server started for it."""
    clock = [time.perf_counter()]

    def passed():
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    with running_lab(folder, data_folder()) as address:
        parts = {"JupyterLab's server": passed()}
        opened = OpenNotebook(browser.new_page(viewport={"width": 1280, "height": 900}), address, FIRST)
        parts["the page with the first notebook, and its kernel"] = passed()
        opened.command("docmanager:open", path=f"{EXPLORED}.ipynb")
        opened.page.wait_for_function(f"() => jupyterapp.shell.currentWidget?.context?.path === '{EXPLORED}.ipynb'",
                                      timeout=WAIT)
        opened.page.evaluate(READY)
        parts["chapter 02, and its kernel"] = passed()
        explored = opened.find("SpectrogramExplorer")
        opened.page.evaluate("number => jupyterapp.shell.currentWidget.content.scrollToItem(number, 'start')", explored)
        opened.page.evaluate(WATCH, [opened.find("import FRONT_ENDS"), opened.find("Audio(elsewhere"), explored])
        opened.run_all(wait=False)
        opened.page.wait_for_function("() => window.seen.picture", timeout=LONGEST)
        seen = opened.page.evaluate("window.seen")
        opened.page.evaluate("async () => { await jupyterapp.serviceManager.sessions.shutdownAll(); }")
    parts["its imports, and the corpus opened"] = seen["imports"]
    parts["its still pictures and sounds"] = seen["before"] - seen["imports"]
    parts["the explorer's controls and its first picture"] = seen["picture"] - seen["before"]
    return parts


if __name__ == "__main__":
    main()

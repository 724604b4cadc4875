"""Pictures of the best views as they are in JupyterLab, for the README: on the synthetic demo corpus.

    python tests/browser/screenshots.py [folder, or figures/lab]
"""

import io
import re
import sys
import tempfile
from pathlib import Path

from lab_pages import CHROMIUM, WAIT, OpenNotebook, running_lab

from speakerlib.data.audio import write_audio
from speakerlib.data.demo_corpus import demo_corpus
from speakerlib.data.files import atomic_path, data_folder, project_folder
from speakerlib.experiments.who_is_speaking import guests_of_corpus

WIDTH = 1180
CLOSED = "() => { jupyterapp.shell.collapseLeft(); jupyterapp.shell.collapseRight(); }"
ASKER = 3  # of the people whom chapter 09 enrols: who speaks into the pretended microphone


def through_a_channel(page, cell):
    """Chooses the condition `changed` and waits for its picture."""
    before = cell.locator("img").first.get_attribute("src")
    cell.get_by_label("condition", exact=True).focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("([each, before]) => each.querySelector('img').src !== before",
                           arg=[cell.element_handle(), before], timeout=WAIT)


def heard(page, cell):
    """Asks by the microphone who is speaking, and waits for the answer and the nearest clips."""
    cell.get_by_role("button", name="Record and ask").click()
    page.get_by_text(re.compile(r"^[4-9]\.\d s of at most")).wait_for(timeout=WAIT)
    cell.get_by_role("button", name="Stop").click()
    cell.locator("audio").last.wait_for(timeout=WAIT)


VIEWS = {  # file: the notebook, a text of the cell, what is done in it, the height that shows all of it
    "explorer": ("02_spectrogram_exploration", "SpectrogramExplorer", through_a_channel, 800),
    "masks": ("03_mae_mask_visualisation", "MaskExplorer", None, 780),
    "microphone": ("09_who_is_speaking", "microphone(people)", heard, 1060),
}


def main(arguments):
    """Writes <folder>/<view>.png and returns the paths."""
    from playwright.sync_api import sync_playwright

    target = Path(arguments[0]) if arguments else project_folder() / "figures" / "lab"
    guests = guests_of_corpus(demo_corpus(progress=False), num_people=6, num_clips=3)
    written = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        sound = Path(folder, "asker.wav")
        write_audio(sound, guests.asked[ASKER][1])
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={sound}"])
        context = browser.new_context(permissions=["microphone"])
        with running_lab(Path(folder), data_folder()) as address:
            for view, (name, text, act, height) in VIEWS.items():
                page = context.new_page()
                page.set_viewport_size({"width": WIDTH, "height": height})
                opened = OpenNotebook(page, address, name)
                written.append(write(target / f"{view}.png", photograph(opened, opened.find(text), act)))
                opened.close()
                print(f"{written[-1]}: {written[-1].stat().st_size / 1000:.0f} kB")
        browser.close()
    return written


def photograph(opened, number, act=None):
    """The window with a cell at the top, after it and those above it were run: the bytes of a PNG."""
    cell = opened.show(number)
    for each in ("notebook:run-all-above", "notebook:run-cell"):
        opened.command(each)
    opened.finished()
    opened.page.evaluate(CLOSED)
    cell.locator("img").first.wait_for(timeout=WAIT)
    if act:
        act(opened.page, cell)
    opened.page.evaluate("() => document.activeElement.blur()")
    opened.page.mouse.move(0, 0)
    cell.evaluate("(each) => each.scrollIntoView({block: 'start'})")
    opened.page.wait_for_timeout(1000)  # what moves comes to rest
    return opened.page.screenshot()


def write(path, picture):
    """Saves a picture in 255 colours, which take half of the bytes."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.open(io.BytesIO(picture)).convert("RGB").quantize(255).save(temporary, format="PNG", optimize=True)
    return path


if __name__ == "__main__":
    main(sys.argv[1:])

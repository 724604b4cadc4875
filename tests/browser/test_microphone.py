"""The microphone in Chromium with a pretended one: alone on a page, and in JupyterLab with a kernel behind it."""

import base64
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from lab_pages import CHROMIUM, OpenNotebook, write_notebook
from made_up_voices import voice

from speakerlib.data.audio import write_audio
from speakerlib.data.files import project_folder
from speakerlib.views.microphone import Microphone, samples_of

STYLE = project_folder() / "speakerlib" / "views" / "microphone.css"
TONE_HZ = 1000
WAIT = 30_000  # ms for what takes a moment
PAGE = """<!doctype html><meta charset="utf-8"><title>microphone</title><link rel="stylesheet" href="microphone.css">
<div id="here"></div><script type="module">
import widget from "./microphone.js";
const handlers = [];
window.sent = [];
window.answer = (message) => handlers.forEach((each) => each(message));
const model = {
  get: () => window.longest || 20,
  on: (name, each) => handlers.push(each),
  off: () => handlers.length = 0,
  send: (content, callbacks, [pcm]) => window.sent.push({...content, bytes: pcm.byteLength,
    pcm: btoa(Array.from(new Uint8Array(pcm.buffer), (each) => String.fromCharCode(each)).join(""))}),
};
window.remove = widget.render({model, el: document.getElementById("here")});
</script>"""
KERNEL = """from made_up_voices import swelling_weights, voice
from speakerlib.identification import SpeakerIdentifier
from speakerlib.views.microphone import microphone
people = SpeakerIdentifier(swelling_weights())
for number in (0, 1, 3, 4):
    people.enrol(f"P{number}", [voice(number, 2.0)])
microphone(people)"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder with tone.wav and voice2.wav, which the pretended microphone plays over and over."""
    folder = tmp_path_factory.mktemp("sounds")
    tone = 0.3 * np.sin(2 * np.pi * TONE_HZ * np.arange(3 * 16000) / 16000)
    write_audio(folder / "tone.wav", tone.astype(np.float32))
    write_audio(folder / "voice2.wav", voice(2, 8.0, 5))
    return folder


@pytest.fixture
def browser(sounds, playwright):
    """browser(file or None, *switches): a Chromium that hears the file; None: no fake microphone, so none at all."""
    opened = []

    def start(file, *switches):
        pretended = [] if file is None else ["--use-fake-device-for-media-stream",
                                             f"--use-file-for-fake-audio-capture={sounds / file}"]
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", *pretended, *switches]
        opened.append(playwright.chromium.launch(executable_path=CHROMIUM, args=arguments))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.fixture(scope="module")
def site():
    """The address of a page with the widget alone; browsers count 127.0.0.1 as secure."""
    files = {"/": (PAGE.encode(), "text/html"), "/microphone.js": (Microphone._esm.encode(), "text/javascript"),
             "/microphone.css": (STYLE.read_bytes(), "text/css")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body, kind = files.get(self.path, (b"", "text/plain"))
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def open_page(browser, site, allowed=True):
    page = browser.new_context(permissions=["microphone"] if allowed else []).new_page()
    page.goto(site)
    page.get_by_role("button", name="Record and ask").wait_for(timeout=WAIT)
    return page


def sent(page):
    """(what the page handed over last, its samples)."""
    page.wait_for_function("window.sent.length", timeout=WAIT)
    message = page.evaluate("window.sent.at(-1)")
    return message, samples_of(base64.b64decode(message["pcm"]))


def said(page):
    return page.get_by_role("status").first.inner_text()


def lit(page):
    """How many pixels of the level's picture are drawn on."""
    return page.evaluate("""() => { const canvas = document.querySelector("canvas");
        return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
            .filter((value, place) => place % 4 === 3 && value).length; }""")


def test_what_is_heard_is_what_arrives(browser, site):
    page = open_page(browser("tone.wav"), site)
    page.get_by_role("button", name="Record and ask").click()
    page.get_by_text(re.compile(r"^1\.\d s of at most 20 s$")).wait_for(timeout=WAIT)
    assert "Recording" in said(page) and page.get_by_role("button", name="Record and enrol").is_disabled()
    assert page.get_by_label("Name").is_disabled() and lit(page) > 2000
    page.get_by_role("button", name="Stop").click()
    message, samples = sent(page)
    assert (message["kind"], message["purpose"]) == ("recorded", "ask") and message["sample_rate"] >= 16000
    assert message["bytes"] == 2 * len(samples) and len(samples) > message["sample_rate"]
    power = np.abs(np.fft.rfft(samples[-message["sample_rate"] // 2:] * np.hanning(message["sample_rate"] // 2))) ** 2
    hertz = np.fft.rfftfreq(message["sample_rate"] // 2, 1 / message["sample_rate"])
    assert abs(hertz[power.argmax()] - TONE_HZ) <= 4
    assert power[np.abs(hertz - TONE_HZ) < 50].sum() > 0.95 * power.sum()
    assert 0.1 < np.abs(samples).max() < 0.6
    page.evaluate("""window.answer({kind: "answered", text: "Ann, by 1.2 s of sound.",
                                    candidates: [["Ann", 0.83], ["<b>unknown</b>", 0.17], ["Bo", null]]})""")
    assert said(page) == "Ann, by 1.2 s of sound."
    rows = page.get_by_role("listitem").all_inner_texts()
    assert [row.split() for row in rows] == [["Ann", "83", "%"], ["<b>unknown</b>", "17", "%"], ["Bo"]]


def test_keys_are_enough(browser, site):
    page = open_page(browser("tone.wav"), site)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Record and ask"
    page.keyboard.press("Space")
    page.get_by_text(re.compile(r"^0\.[3-9] s of at most")).wait_for(timeout=WAIT)
    page.keyboard.press("Escape")
    assert said(page) == "Nothing was kept." and page.evaluate("window.sent.length") == 0 and lit(page) == 0
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert said(page) == "Whose voice will it be? Write a name first."
    page.keyboard.type("  Ann B ")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"^0\.[5-9] s of at most")).wait_for(timeout=WAIT)
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    message, _ = sent(page)
    assert (message["purpose"], message["name"]) == ("enrol", "Ann B")


def test_a_recording_ends_by_itself_and_the_microphone_is_given_back(browser, site):
    page = open_page(browser("tone.wav"), site)
    page.evaluate("""() => { window.longest = 1; const media = navigator.mediaDevices, real = media.getUserMedia;
        media.getUserMedia = async (asked) => window.stream = await real.call(media, asked); }""")
    page.get_by_role("button", name="Record and ask").click()
    message, samples = sent(page)
    assert len(samples) / message["sample_rate"] == pytest.approx(1, abs=0.1)
    assert page.evaluate("window.stream.getTracks().map((each) => each.readyState)") == ["ended"]
    page.get_by_role("button", name="Record and ask").click()
    page.get_by_text("Recording: speak").wait_for(timeout=WAIT)
    page.evaluate("window.remove()")
    assert page.evaluate("window.stream.getTracks().map((each) => each.readyState)") == ["ended"]


def test_a_refusal_no_microphone_and_a_page_that_is_not_secure_are_told_apart(browser, site):
    refused = open_page(browser("tone.wav"), site, allowed=False)
    refused.get_by_role("button", name="Record and ask").click()
    refused.get_by_text("The browser did not allow the microphone.").wait_for(timeout=WAIT)
    assert refused.get_by_role("button", name="Record and ask").is_enabled()
    absent = open_page(browser(None), site)
    absent.get_by_role("button", name="Record and ask").click()
    absent.get_by_text("No microphone was found.").wait_for(timeout=WAIT)
    address = site.replace("127.0.0.1", "elsewhere.test")
    insecure = open_page(browser("tone.wav", "--host-resolver-rules=MAP elsewhere.test 127.0.0.1"), address)
    assert "Browsers give the microphone to secure pages alone" in said(insecure)
    insecure.get_by_role("button", name="Record and ask").click()
    assert "http://localhost" in said(insecure)


def test_in_jupyterlab_a_stranger_enrols_and_is_known(browser, lab, lab_folder):
    saved = write_notebook(lab_folder, "voices", KERNEL)
    page = browser("voice2.wav").new_context(permissions=["microphone"]).new_page()
    opened = OpenNotebook(page, lab, saved.stem)
    opened.run_all()
    ask = page.get_by_role("button", name="Record and ask")
    ask.wait_for(timeout=2 * WAIT)
    cells = page.locator(".jp-Notebook .jp-Cell").count()

    def record(button):
        button.click()
        page.get_by_text(re.compile(r"^[2-9]\.\d s of at most")).wait_for(timeout=WAIT)
        page.get_by_role("button", name="Stop").click()

    record(ask)
    page.get_by_text(re.compile(r"^Nobody who is enrolled, by \d\.\d s of sound\.$")).wait_for(timeout=WAIT)
    assert page.locator(".speakerlib-microphone li").first.inner_text().startswith("unknown")
    page.locator(".speakerlib-microphone audio").first.wait_for(timeout=WAIT)
    page.wait_for_function("Array.from(document.querySelectorAll('audio')).every((each) => each.duration > 1.9)")
    picture = page.locator(".jp-OutputArea img").first
    before = picture.get_attribute("src")
    page.get_by_label("Name").click()
    page.keyboard.type("Abby")  # a and b make cells where the notebook has the keys
    record(page.get_by_role("button", name="Record and enrol"))
    page.get_by_text(re.compile(r"^Abby is enrolled, with 1 clip of \d\.\d s together\.$")).wait_for(timeout=WAIT)
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells
    page.wait_for_function("before => document.querySelector('.jp-OutputArea img').src !== before", arg=before)
    record(ask)
    page.get_by_text(re.compile(r"^Abby, by \d\.\d s of sound\.$")).wait_for(timeout=WAIT)
    page.keyboard.press("Control+s")  # the notebook's, also where the widget has the keys
    until = time.monotonic() + 30
    while not any(cell.get("outputs") for cell in json.loads(saved.read_text())["cells"]) and time.monotonic() < until:
        time.sleep(0.2)
    text = saved.read_text()
    assert "Microphone(4 people)" in text and len(text) < 50_000  # no sound in it
    opened.close()

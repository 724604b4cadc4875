"""The microphone's half in the kernel: what a recording does, what is said about it, and what is not kept."""

import json
from io import BytesIO

import numpy as np
import pytest
import soundfile
from made_up_voices import swelling_weights, voice

from speakerlib.identification import SpeakerIdentifier
from speakerlib.views.microphone import Microphone, hear, microphone, samples_of

RATE = 48000


def pcm(speaker, seconds=2.0, take=0):
    """What the browser sends of a voice: 16-bit samples, low byte first."""
    return (32767 * voice(speaker, seconds, take, RATE)).round().astype("<i2").tobytes()


@pytest.fixture
def people():
    found = SpeakerIdentifier(swelling_weights())
    for speaker in range(4):
        found.enrol(f"P{speaker}", [voice(speaker, 2.0, take) for take in range(2)])
    return found


@pytest.fixture
def wave(people):
    """A Microphone that writes down what it sends to the browser, in `sent`."""
    made = Microphone(people)
    made.sent = []
    made.send = lambda content, buffers=None: made.sent.append(content)
    return made


def record(wave, purpose, sound, name="", rate=RATE):
    wave._handle_custom_msg({"kind": "recorded", "purpose": purpose, "name": name, "sample_rate": rate},
                            [memoryview(sound)])
    return wave.sent[-1]


def test_a_question_is_answered_with_the_likeliest_names_first(wave):
    answer = record(wave, "ask", pcm(2, take=5))
    assert answer["text"] == "P2, by 2.0 s of sound." and answer["candidates"][0][0] == "P2"
    shares = [share for _, share in answer["candidates"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    stranger = record(wave, "ask", pcm(9))
    assert stranger["text"].startswith("Nobody who is enrolled") and stranger["candidates"][0][0] == "unknown"
    json.dumps(answer)  # plain values


def test_a_recording_enrols_under_its_name_beside_what_is_there(wave, people):
    assert record(wave, "enrol", pcm(7), " Ann ")["text"] == "Ann is enrolled, with 1 clip of 2.0 s together."
    assert record(wave, "enrol", pcm(7, 3.0, 1), "Ann")["text"] == "Ann is enrolled, with 2 clips of 5.0 s together."
    assert people.names[-1] == "Ann" and people.identify(voice(7, 2.0, 4)).name == "Ann"
    again = SpeakerIdentifier(swelling_weights())
    again.enrol("Ann", [voice(7, 2.0, 0, RATE)], RATE)
    assert again.embeddings[0] @ people.embeddings[8] > 0.9999  # 16 bits are enough


@pytest.mark.parametrize("purpose, name, sound, said", [
    ("enrol", "a/b", pcm(1), "'a/b' cannot be a person's name"),
    ("enrol", "Unknown", pcm(1), "'Unknown' cannot be a person's name: it is what a clip of nobody is called"),
    ("enrol", None, pcm(1), "A name is a text"),
    ("enrol", "Bo", pcm(1, 0.1), "the recording: 0.10 s of sound; expected at least 0.5 s"),
    ("ask", "", pcm(1, 0.1), "The recording: 0.10 s of sound"),
    ("ask", "", bytes(2 * RATE), "The recording: silent."),
    ("ask", "", b"", "The recording: 0.00 s of sound"),
    ("tell", "", pcm(1), "purpose='tell': expected one of ask, enrol."),
])
def test_what_cannot_be_used_is_said_and_changes_nothing(wave, people, purpose, name, sound, said):
    heard = []
    wave.heard = lambda *recording: heard.append(recording)
    answer = record(wave, purpose, sound, name)
    assert said in answer["text"] and answer["candidates"] == [] and heard == [] and len(people.clips) == 8


def test_nobody_enrolled_and_no_calibration_have_their_words():
    nobody = SpeakerIdentifier(swelling_weights(calibration=None))
    assert hear(nobody, "ask", "", voice(1), 16000)[0].startswith("Nobody is enrolled: enrol(")
    nobody.enrol("P1", [voice(1)])
    text, candidates, used = hear(nobody, "ask", "", voice(1, take := 3), 16000)
    assert used and text == f"P1, by {take:.1f} s of sound." and candidates[0] == ["P1", None]


def test_a_clipped_recording_is_used_with_a_warning(people):
    text, _, used = hear(people, "ask", "", np.clip(50 * voice(1), -1, 1), 16000)
    assert used and "The recording: " in text and "it is clipped" in text


def test_sound_is_no_part_of_the_state_that_a_notebook_saves(wave):
    before = wave.get_state()
    record(wave, "ask", pcm(2))
    assert wave.get_state() == before
    assert wave.sample_rate == RATE and wave.waveform == pytest.approx(voice(2, 2.0, 0, RATE), abs=1e-4)


def test_samples_are_as_the_browser_meant_them():
    assert samples_of(b"\x00\x00\x00\x40\x00\x80").tolist() == [0, 0.5, -1]


def test_the_map_and_the_nearest_clips_follow_what_was_recorded():
    people = SpeakerIdentifier(swelling_weights())
    desk = microphone(people)
    wave, picture = desk.children
    sent = wave.__dict__.setdefault("sent", [])
    wave.send = lambda content, buffers=(): sent.append((content, buffers))
    assert picture.value == b"" and str(wave) == "Microphone(0 people)"
    for speaker in range(4):
        record(wave, "enrol", pcm(speaker), f"P{speaker}")
    enrolled = bytes(picture.value)
    assert enrolled.startswith(b"\x89PNG") and all(content["kind"] == "answered" for content, _ in sent)
    record(wave, "ask", pcm(1, take=4))
    content, sounds = sent[-1]
    assert content["kind"] == "nearest" and content["captions"][0].startswith("P1, cosine ")
    assert len(sounds) == 3 and bytes(picture.value) != enrolled
    played = soundfile.read(BytesIO(sounds[0]))[0]
    assert np.corrcoef(played, people.audio[1])[0, 1] > 0.999
    people.audio[1] = None  # as of people who were loaded
    record(wave, "ask", pcm(1, take=4))
    assert len(sent[-1][1]) == 2 and not any("P1" in caption for caption in sent[-1][0]["captions"])

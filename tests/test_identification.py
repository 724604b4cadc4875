"""Who is speaking: embeddings, enrolment, answers, files of people, and what is refused, on made-up voices."""

import warnings

import numpy as np
import pytest
from made_up_voices import CALIBRATION, random_weights, swelling_weights, voice
from safetensors import safe_open

from speakerlib.data.audio import write_audio
from speakerlib.identification import SpeakerIdentifier


@pytest.fixture
def people():
    found = SpeakerIdentifier(swelling_weights())
    for number, name in enumerate(("speaker A", "speaker B", "Zoë")):
        found.enrol(name, [voice(number, seed=seed) for seed in range(3)])
    return found


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """People of a network with random weights, from a file."""
    path = tmp_path_factory.mktemp("weights") / "voice.safetensors"
    random_weights(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SpeakerIdentifier.load(path)


# --- embeddings ---

def test_embeddings_in_a_batch_are_those_of_the_clips_alone(network):
    clips = [voice(1, seconds) for seconds in (0.5, 3, 3, 1.004, 61, 3)]
    together = network.embed(clips)
    alone = np.concatenate([network.embed([clip]) for clip in clips])
    assert together.shape == (6, 3 * 16) and together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.abs(together - alone).max() < 1e-4
    assert np.abs(together[1] - together[0]).max() > 1e-3  # and not all the same


def test_the_same_sound_in_other_forms_has_the_same_embedding(people, tmp_path):
    wave = voice(0)
    write_audio(tmp_path / "a.flac", wave)
    expected = people.embed([wave])[0]
    stereo = np.stack([wave * 1.5, wave * 0.5], axis=1)
    integers = np.round(wave * 32768).astype(np.int16)
    for clip in (stereo, integers, wave.astype(np.float64), tmp_path / "a.flac", str(tmp_path / "a.flac")):
        assert people.embed([clip])[0] @ expected > 0.999


def test_other_rates_are_resampled(people):
    fast = voice(0, rate=44100)
    assert people.embed([fast], sample_rate=44100)[0] @ people.embed([voice(0)])[0] > 0.95
    assert people.embed([fast])[0] @ people.embed([voice(0)])[0] < 0.9  # what ignoring the rate would give


@pytest.mark.parametrize("clips, said", [
    ([], "no clip"),
    (np.zeros(16000, np.float32), "into a list"),
    ([0.1, 0.2, 0.3], "into a list"),
    ([np.zeros(16000)], "silent"),
    ([voice(0), voice(0, 0.1)], r"clip 2 of 2: 0\.10 s of sound"),
    ([np.where(np.arange(16000) == 5, np.nan, voice(0, 1.0))], "NaN"),
    ([np.array(["a", "b"])], "expected samples as floats"),
    ([voice(0) * 30000], "Divide"),
    ([np.stack([voice(0), voice(0)])], "Transpose"),
    ([np.zeros((0,))], "0.00 s"),
    (["nowhere.wav"], "there is no file nowhere.wav"),
])
def test_what_cannot_be_embedded_is_said(people, clips, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        people.embed(clips)


@pytest.mark.parametrize("rate", [0, -16000, float("nan"), "16k", None])
def test_sample_rates_that_are_none_are_refused(people, rate):
    with pytest.raises(ValueError, match="sample_rate="):
        people.embed([voice(0)], sample_rate=rate)


def test_clipping_is_said_and_the_clip_used(people):
    loud = np.clip(voice(0) * 30, -1, 1)
    with pytest.warns(UserWarning, match="at full scale"):
        assert people.identify(loud).table["probability"].sum() == pytest.approx(1)


# --- answers ---

def test_people_are_recognised_and_a_stranger_is_unknown(people):
    for number, name in enumerate(("speaker A", "speaker B", "Zoë")):
        answer = people.identify(voice(number, seed=9))
        assert answer.name == name and answer.probability > 0.9
        assert answer.table["name"].iloc[0] == name and len(answer.table) == 4
        assert answer.table["probability"].is_monotonic_decreasing
        assert answer.table["probability"].sum() == pytest.approx(1)
    answer = people.identify(voice(7))
    assert answer.name == "unknown" and answer.probability > 0.9
    assert "unknown" in answer._repr_html_()


def test_a_stricter_rate_rejects_more(people):
    clip = voice(0, seed=5)
    best = float(people.scores(people.embed([clip])).max())
    thresholds = people.weights.calibration["thresholds"] | {"0.01": [best + 0.01, 0, 0], "0.05": [best - 0.01, 0, 0]}
    people.weights = swelling_weights(CALIBRATION | {"thresholds": thresholds})
    assert people.identify(clip).name == "speaker A"
    assert people.identify(clip, false_acceptance=0.01).name == "unknown"
    with pytest.raises(ValueError, match="thresholds for 0.01, 0.05"):
        people.identify(clip, false_acceptance=0.3)


def test_scores_are_cosines_with_the_mean_of_a_persons_embeddings(people):
    query = people.embed([voice(1, seed=4)])
    for place, name in enumerate(people.names):
        mean = people.embeddings[(people.clips["name"] == name).to_numpy()].mean(axis=0)
        assert people.scores(query)[0, place] == pytest.approx(query[0] @ mean / np.linalg.norm(mean), abs=1e-6)


def test_nobody_enrolled(network, tmp_path):
    for ask in (lambda: network.identify(voice(0)), lambda: network.timeline(voice(0)), lambda: network.save(tmp_path)):
        with pytest.raises(ValueError, match="nobody is enrolled"):
            ask()


def test_without_a_calibration_there_is_a_ranking_and_a_warning(tmp_path):
    random_weights(tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match="no calibration"):
        found = SpeakerIdentifier.load(tmp_path / "w.safetensors")
    found.enrol("a", [voice(0)])
    answer = found.identify(voice(3))
    assert answer.name == "a" and np.isnan(answer.probability) and answer.false_acceptance is None
    assert found.timeline(voice(3, 4.0))["name"].tolist() == ["a"]


# --- enrolment ---

def test_a_name_is_enrolled_twice_only_if_asked(people):
    with pytest.raises(ValueError, match="'speaker A' is enrolled already, with 3 clips"):
        people.enrol("speaker A", [voice(5)])
    with pytest.raises(ValueError, match="exclude each other"):
        people.enrol("speaker A", [voice(5)], add=True, replace=True)
    people.enrol("speaker A", [voice(5)], add=True)
    assert (people.clips["name"] == "speaker A").sum() == 4 and len(people.audio) == len(people.embeddings) == 10
    people.enrol("speaker A", [voice(5)], replace=True)
    assert people.identify(voice(5, seed=3)).name == "speaker A"
    assert people.identify(voice(0, seed=3)).name == "unknown"


def test_a_replacement_that_cannot_be_used_leaves_the_person(people):
    with pytest.raises(ValueError, match="none of 1 clips"):
        people.enrol("speaker A", [np.zeros(16000)], replace=True)
    assert people.identify(voice(0, seed=3)).name == "speaker A"


@pytest.mark.parametrize("name", ["a/b", "..\\b", "", "   ", "two\nlines", "x" * 101, "Unknown", "silence", 7, None])
def test_names_that_cannot_be_one(people, name):
    with pytest.raises(ValueError, match="name"):
        people.enrol(name, [voice(0)])


def test_a_corrupt_file_among_good_ones_is_left_out(people, tmp_path):
    write_audio(tmp_path / "good.wav", voice(4))
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing")
    with pytest.warns(UserWarning, match="1 of 2 clips left out: .*bad.wav"):
        table = people.enrol("D", [tmp_path / "good.wav", tmp_path / "bad.wav"])
    assert table["used"].tolist() == [True, False] and "bad.wav" in table["reason"][1]
    assert people.identify(voice(4, seed=2)).name == "D"
    with pytest.raises(ValueError, match="'E' is not enrolled: none of 1"):
        people.enrol("E", [tmp_path / "bad.wav"])
    assert "E" not in people.names


def test_forgetting(people):
    people.forget("speaker B")
    assert people.names == ["speaker A", "Zoë"] and len(people.audio) == len(people.clips) == 6
    with pytest.raises(ValueError, match="'speaker B' is not enrolled"):
        people.forget("speaker B")


# --- files of people ---

def test_people_come_back_from_a_file_that_holds_no_audio(people, tmp_path):
    path = people.save(tmp_path)
    assert path == tmp_path / "people.safetensors" and list(tmp_path.iterdir()) == [path]
    with safe_open(path, "np") as file:
        assert list(file.keys()) == ["embeddings"]
    assert path.stat().st_size < 9 * 64 * 4 + 2000
    again = SpeakerIdentifier(swelling_weights())
    again.load_people(path)
    assert again.names == people.names and again.audio == [None] * 9
    for number in (0, 1, 2, 7):
        one, other = people.identify(voice(number, seed=9)), again.identify(voice(number, seed=9))
        assert one.name == other.name and one.probability == pytest.approx(other.probability, abs=1e-6)


def test_audio_is_kept_when_asked_and_comes_back(people, tmp_path):
    path = people.save(tmp_path / "team.safetensors", keep_audio=True)
    assert len(list((tmp_path / "team-audio").glob("*.flac"))) == 9
    again = SpeakerIdentifier(swelling_weights())
    again.load_people(path)
    assert all((one == other).all() for one, other in zip(people.audio, again.audio, strict=True))
    (tmp_path / "team-audio" / "0002.flac").unlink()
    again.load_people(path, replace=True)
    assert again.audio[1] is None and again.audio[2] is not None
    with pytest.raises(ValueError, match="audio of 1 of 9 clips"):
        again.save(tmp_path / "other.safetensors", keep_audio=True)


def test_people_of_another_model_are_refused(people, tmp_path):
    path = people.save(tmp_path)
    other = SpeakerIdentifier(swelling_weights(digest="b" * 32))
    with pytest.raises(ValueError, match="other weights .aaaaaaaa. than are loaded .bbbbbbbb."):
        other.load_people(path)


def test_names_in_a_file_that_are_enrolled_already(people, tmp_path):
    path = people.save(tmp_path)
    people.forget("Zoë")
    with pytest.raises(ValueError, match="'speaker A', 'speaker B', enrolled here already"):
        people.load_people(path)
    assert len(people.clips) == 6
    people.load_people(path, replace=True)
    assert len(people.clips) == 9 and len(people.names) == 3


def test_files_that_hold_no_people(people, tmp_path):
    random_weights(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_text("nothing")
    whole = people.save(tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-50])
    for name in ("weights", "text", "cut"):
        with pytest.raises(ValueError, match="no file of people"):
            people.load_people(tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="no file of people"):
        people.load_people(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="ends in .safetensors"):
        people.save(tmp_path / "team.json")


# --- who speaks when ---

def test_a_timeline_names_turns_silence_and_strangers(people):
    parts = [(0, 4.0), (None, 2.0), (1, 3.0), (7, 4.0)]
    wave = np.concatenate([np.zeros(round(16000 * seconds), np.float32) if who is None else voice(who, seconds, seed=8)
                           for who, seconds in parts])
    table = people.timeline(wave)
    assert table["start"].iloc[0] == 0 and table["end"].iloc[-1] == len(wave) / 16000
    assert (table["start"].iloc[1:].to_numpy() == table["end"].iloc[:-1].to_numpy()).all()

    def who(second):
        return table.loc[(table["start"] <= second) & (second < table["end"]), "name"].item()

    assert [who(second) for second in (2.0, 5.0, 7.5, 11.0)] == ["speaker A", "silence", "speaker B", "unknown"]
    assert table.loc[table["name"] == "silence", "probability"].isna().all()
    assert table.loc[table["name"] != "silence", "probability"].between(0, 1).all()
    every = people.timeline(wave, merged=False)
    assert len(every) == 26 and set(every["name"]) == set(table["name"])


def test_a_clip_shorter_than_the_window_has_a_timeline(people):
    table = people.timeline(voice(2, 0.7, seed=1))
    assert table[["start", "end"]].to_numpy().tolist() == [[0.0, 0.7]]


@pytest.mark.parametrize("window, hop", [(0.1, 0.1), (1.5, 2.0), (1.5, 0), (float("nan"), 0.5)])
def test_windows_that_cannot_be(people, window, hop):
    with pytest.raises(ValueError, match="window="):
        people.timeline(voice(0), window, hop)

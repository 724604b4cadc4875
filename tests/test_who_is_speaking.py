"""Chapter 09: who is enrolled and asked about, a meeting and its timeline, the pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
from made_up_voices import swelling_weights, voice

from speakerlib.data.audio import SAMPLE_RATE, write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.experiments import who_is_speaking as who
from speakerlib.experiments.voice_weights import read_voice_weights
from speakerlib.identification import SpeakerIdentifier
from speakerlib.views import people as views


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight speakers of six utterances, six of them test speakers."""
    folder, patch = tmp_path_factory.mktemp("voices"), pytest.MonkeyPatch()
    patch.setenv("SPEAKERLIB_DATA", str(folder / "data"))
    splits = ["speaker,split"]
    for speaker in range(8):
        splits.append(f"s{speaker},{'test' if speaker > 1 else ('train', 'validation')[speaker]}")
        for take in range(6):
            write_audio(folder / "audio" / f"s{speaker}" / f"{take}.wav", voice(speaker, 3.2, take))
    (folder / "split.csv").write_text("\n".join(splits) + "\n")
    yield import_corpus(folder / "audio", name="voices", split_file=folder / "split.csv", progress=False)
    patch.undo()


@pytest.fixture
def people(corpus):
    """(SpeakerIdentifier with four people enrolled, the Guests)."""
    guests = who.guests_of_corpus(corpus, 4, 3, seed=0)
    found = SpeakerIdentifier(swelling_weights())
    for name, clips in guests.enrolled.items():
        found.enrol(name, clips)
    return found, guests


def test_guests_are_test_speakers_asked_with_clips_that_did_not_enrol_them(corpus):
    guests = who.guests_of_corpus(corpus, 4, 3, seed=1)
    assert len(guests.enrolled) == 4 and {len(clips) for clips in guests.enrolled.values()} == {3}
    asked = [name for name, _ in guests.asked]
    assert asked[:4] == list(guests.enrolled) and asked[4] not in guests.enrolled
    assert set(asked) <= {f"s{speaker}" for speaker in range(2, 8)}
    for name, clip in guests.asked[:4]:
        assert not any(np.array_equal(clip, other) for other in guests.enrolled[name])
    again = who.guests_of_corpus(corpus, 4, 3, seed=1)
    assert [name for name, _ in again.asked] == asked
    assert [name for name, _ in who.guests_of_corpus(corpus, 4, 3, seed=2).asked] != asked
    with pytest.raises(ValueError, match="has 6 test speakers with 4 utterances of a second; num_people=6 and a "):
        who.guests_of_corpus(corpus, 6, 3)


def test_guests_of_a_folder_are_asked_about_with_their_last_clip(tmp_path, corpus):
    for name, clips in (("Ann", 3), ("Bo", 2), ("a stranger", 1)):
        for number in range(clips):
            write_audio(tmp_path / name / f"{number}.wav", voice(number, 1.0))
    (tmp_path / "Bo" / "notes.txt").write_text("not sound")
    (tmp_path / "empty").mkdir()
    guests = who.find_guests(SimpleNamespace(people_folder=str(tmp_path)), corpus)
    assert {name: [path.name for path in clips] for name, clips in guests.enrolled.items()} == {
        "Ann": ["0.wav", "1.wav"], "Bo": ["0.wav"]}
    assert [(name, path.name) for name, path in guests.asked] == [("Ann", "2.wav"), ("Bo", "1.wav"),
                                                                 ("a stranger", "0.wav")]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        who.guests_of_folder(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"nobody has two clips \(no folders in it\)"):
        who.guests_of_folder(tmp_path / "empty")


def test_a_meeting_is_the_clips_one_after_another_and_its_timeline_finds_them(people):
    identifier, guests = people
    waveform, truth = who.meeting(guests, turns=6, seed=3)
    assert len(truth) == 6 and (truth["start"].iloc[1:].to_numpy() - truth["end"].iloc[:-1].to_numpy()
                                == pytest.approx(who.PAUSE))
    assert truth["end"].iloc[-1] + who.PAUSE == pytest.approx(len(waveform) / SAMPLE_RATE)
    strangers = [name for name, _ in guests.asked if name not in identifier.names]
    timeline = identifier.timeline(waveform)
    assert who.share_right(timeline, truth, strangers) > 0.6
    assert who.share_right(truth.replace(dict.fromkeys(strangers, "unknown")), truth, strangers) == pytest.approx(1)
    assert who.share_right(truth.assign(name="nobody"), truth) == 0
    (axis,) = views.plot_timeline(timeline, identifier.names, truth).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [*sorted(identifier.names), "unknown"]
    assert sum(not patch.get_fill() for patch in axis.patches) == 6
    assert who.times_real_time(identifier, seconds=30) > 0


def test_answers_and_the_nearest_clips_are_of_who_was_asked_about(people):
    identifier, guests = people
    answers = [identifier.identify(clip) for _, clip in guests.asked]
    table = views.answers_table(guests.asked, answers)
    assert (table["clip of"][:4] == table["answer"][:4]).all() and table["probability"].str.endswith(" %").all()
    embeddings = identifier.embed([clip for _, clip in guests.asked])
    for (name, _), embedding in zip(guests.asked[:4], embeddings):
        nearest = views.nearest_clips(identifier, embedding, 2)
        assert nearest["name"].tolist()[0] == name and nearest["cosine"].is_monotonic_decreasing
        place = nearest["place"].iloc[0]
        assert identifier.clips["name"][place] == name
    (axis,) = views.plot_people(identifier, [("1", embeddings[0])]).axes
    labels = axis.get_legend_handles_labels()[1]
    assert labels == [*sorted(identifier.names), "asked about"] and [each.get_text() for each in axis.texts] == ["1"]


@pytest.mark.slow
def test_errors_are_those_of_the_test_speakers_and_are_drawn(people, corpus):
    found = who.errors_on_test_speakers(people[0], corpus, num_tasks=60)
    assert set(found["errors"]["condition"]) == {"recorded", "changed I", "changed II", "mixed"}
    assert set(found["errors"]["speakers"]) == {6} and len(found["seconds"]) == 3 * 9
    assert who.lengths_that_fit(corpus.table, 5, (0.5, 1, 3, 5)) == (0.5, 1, 3)
    assert who.lengths_that_fit(corpus.table, 5, (4, 5)) == (4,)  # repeated end to end
    table = views.errors_table(found["errors"])
    assert table.shape == (4, 6) and table.index[0] == "recorded"
    (axis,) = views.plot_tradeoff(found["tradeoff"]).axes
    assert axis.get_legend_handles_labels()[1] == ["recorded", "changed I", "changed II", "mixed"]
    (axis,) = views.plot_reliability(found["reliability"]).axes
    assert [label.split(":")[0] for label in axis.get_legend_handles_labels()[1]] == list(found["reliability"])
    panels = views.plot_seconds(found["seconds"]).axes
    titles = [axis.get_title(loc="left") or axis.get_title() for axis in panels]  # use_style moves them to the left
    assert titles == ["recorded", "changed I", "changed II"]


def test_the_model_that_ships_is_small_calibrated_and_says_where_it_is_from():
    weights = read_voice_weights()
    assert weights.path.stat().st_size < 3e6 and sum(each.numel() for each in weights.encoder.parameters()) <= 134_688
    assert weights.facts["corpus"] == "so762" and weights.facts["augment"] == "both"
    assert weights.calibration["split"] == "validation" and "0.05" in weights.calibration["thresholds"]


def test_the_model_that_ships_knows_people_whom_it_never_heard(so762):
    test_speakers = ("0120 0563 0575 0765 0811 1012 1156 1336 1362 2061 2116 2448 2740 2917 2981 9610 9611 9618 9624 "
                     "9626").split()  # of the published records
    clips = {name: sorted((so762 / "speech" / name).iterdir()) for name in test_speakers}
    people = SpeakerIdentifier.load()
    for name in test_speakers[:8]:
        people.enrol(name, clips[name][:3])
    right = [people.identify(clip).name == name for name in test_speakers[:8] for clip in clips[name][3:7]]
    strangers = [people.identify(clip).name != "unknown" for name in test_speakers[8:] for clip in clips[name][:2]]
    assert np.mean(right) > 0.6 and np.mean(strangers) < 0.25


def test_a_recording_of_ones_own_has_a_timeline_and_no_truth(people, tmp_path):
    identifier, guests = people
    waveform, truth = who.meeting(guests, turns=4)
    path = tmp_path / "own.wav"
    write_audio(path, waveform)
    own, nobody_knows = who.find_recording(SimpleNamespace(recording=str(path), seed=0), guests)
    assert own == pytest.approx(waveform, abs=1e-4) and nobody_knows is None
    timeline = identifier.timeline(own)
    assert who.share_right(timeline, None) is None
    (axis,) = views.plot_timeline(timeline, identifier.names, None).axes
    assert all(patch.get_fill() for patch in axis.patches)
    table = views.timeline_table(timeline.assign(start=timeline["start"] + 60), rows=3)
    assert len(table) == 3 and "silence" not in set(table["who"]) and table["from"].str.match(r"1:\d\d\.\d").all()
    made, turns = who.find_recording(SimpleNamespace(recording="none", seed=0), guests)
    assert len(turns) == 8 and len(made) > len(own)

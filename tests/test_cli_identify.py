"""The command `speakerlib identify`: what it prints, saves and refuses, and its exit status."""

import json

import pytest
from made_up_voices import swelling_weights, voice

from speakerlib import identification
from speakerlib.cli import main
from speakerlib.data.audio import write_audio


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A folder of clips, named speaker_take.wav; the model is the one of made-up voices."""
    monkeypatch.setattr(identification, "read_voice_weights", lambda weights=None: swelling_weights())
    monkeypatch.chdir(tmp_path)
    for speaker in range(3):
        for take in range(3):
            write_audio(tmp_path / f"{speaker}_{take}.wav", voice(speaker, seed=take))
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing")
    return tmp_path


ENROL = ["--enrol", "speaker A", "0_0.wav", "0_1.wav", "--enrol", "speaker B", "1_0.wav"]


def test_a_table_says_who_it_is(clips, capsys):
    assert main(["identify", "0_2.wav", "1_2.wav", "2_0.wav", *ENROL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["clip", "name", "probability", "next"]
    assert [line[:7] for line in lines[1:]] == ["0_2.wav", "1_2.wav", "2_0.wav"]
    assert ["speaker A" in lines[1][:20], "speaker B" in lines[2][:20], "unknown" in lines[3][:20]] == [True] * 3
    assert lines[1].count("%") == 2


def test_clips_may_follow_two_dashes(clips, capsys):
    assert main(["identify", *ENROL, "--", "0_2.wav"]) == 0
    assert "speaker A" in capsys.readouterr().out


def test_json_holds_all_candidates(clips, capsys):
    assert main(["identify", "0_2.wav", "--json", *ENROL]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["clip"] == "0_2.wav" and record["name"] == "speaker A" and record["false_acceptance"] == 0.05
    assert [row["name"] for row in record["candidates"]][0] == "speaker A" and len(record["candidates"]) == 3


def test_people_are_saved_and_asked_later(clips, capsys):
    assert main(["identify", *ENROL, "--save", "team.safetensors"]) == 0
    assert "saved: team.safetensors" in capsys.readouterr().err
    assert main(["identify", "1_2.wav", "--people", "team.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "speaker B"
    assert not (clips / "team-audio").exists()
    assert main(["identify", *ENROL, "--save", "team.safetensors", "--keep-audio"]) == 0
    assert len(list((clips / "team-audio").iterdir())) == 3


def test_a_timeline_says_who_speaks_when(clips, capsys):
    assert main(["identify", "0_2.wav", "--timeline", *ENROL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0_2.wav" and "0:00.0 to   0:03.0" in lines[1] and lines[1].endswith("speaker A")
    assert main(["identify", "0_2.wav", "--timeline", "--json", *ENROL]) == 0
    assert json.loads(capsys.readouterr().out)[0]["turns"][0]["name"] == "speaker A"


def test_corrupt_files_among_good_ones_are_said_counted_and_give_status_1(clips, capsys):
    assert main(["identify", "bad.wav", "0_2.wav", "--enrol", "speaker A", "0_0.wav", "bad.wav"]) == 1
    said = capsys.readouterr()
    assert "0_2.wav  speaker A" in said.out and "bad.wav  " not in said.out
    assert "left out of 'speaker A': bad.wav" in said.err and "2 of 4 files left out." in said.err
    assert "Warning" not in said.err  # each is said once, in words


@pytest.mark.parametrize("arguments, said", [
    (["0_0.wav"], "nobody is enrolled"),
    (["--enrol", "speaker A", "0_0.wav"], "no clip to ask about"),
    (["0_0.wav", "--enrol", "speaker A"], "has no file"),
    (["0_0.wav", "--enrol", "a/b", "0_0.wav"], "cannot be a person's name"),
    (["0_0.wav", "--enrol", "a", "0_0.wav", "--enrol", "a", "0_1.wav"], "enrolled already"),
    (["0_0.wav", "--enrol", "a", "bad.wav"], "'a' is not enrolled: none of 1 clips"),
    (["0_0.wav", "--people", "bad.wav"], "no file of people"),
    (["0_0.wav", "--false-acceptance", "0.3", *ENROL], "thresholds for"),
    (["0_0.wav", "--timeline", "--hop", "9", *ENROL], "--hop 9"),
    (["0_0.wav", "--keep-audio", *ENROL], "--save"),
])
def test_what_cannot_be_done_is_one_message_and_status_2(clips, capsys, arguments, said):
    assert main(["identify", *arguments]) == 2
    assert said in capsys.readouterr().err

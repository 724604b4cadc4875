"""A folder of audio becomes a table, splits that share no speaker, and waveforms; bad input is told."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data import corpora, waveform_shards
from speakerlib.data.audio import read_audio, to_int16, write_audio
from speakerlib.data.corpora import (
    COLUMNS,
    find_corpus,
    import_corpus,
    list_corpora,
    open_corpus,
    summary,
)
from speakerlib.data.patterns import compile_pattern, infer_pattern, scan
from speakerlib.data.splits import SPLITS, assign_splits

PROJECT = Path(__file__).resolve().parents[1]


def touch(folder, *paths):
    """Empty files: a scan looks at names alone."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def ids(table):
    return list(table[["speaker", "session", "utterance"]].itertuples(index=False, name=None))


def make_audio(folder, num_speakers=4, num_utterances=3, seconds=0.6):
    """A {speaker}/{utterance} tree of noise, a different length each."""
    random = np.random.default_rng(0)
    for speaker in range(num_speakers):
        for utterance in range(num_utterances):
            num_samples = round(16000 * seconds) + 160 * (3 * speaker + utterance)
            samples = random.integers(-9000, 9000, num_samples)
            write_audio(folder / f"anne{speaker}" / f"clip {utterance}.wav", samples.astype(np.int16))
    return folder


@pytest.fixture
def source(tmp_path):
    return make_audio(tmp_path / "people")


@pytest.fixture
def decoded(monkeypatch):
    """Paths decoded so far."""
    paths, original = [], waveform_shards.decode
    monkeypatch.setattr(waveform_shards, "decode", lambda *job: paths.append(job[0]) or original(*job))
    return paths


# Scanning


@pytest.mark.parametrize(("paths", "pattern", "expected"), [
    (["wav/id10001/-5ybVB7lXoE/00002.wav", "wav/id10002/1zcIwhmdeo4/00001.wav"], None,
     [("id10001", "-5ybVB7lXoE", "00002"), ("id10002", "1zcIwhmdeo4", "00001")]),
    (["id1/a/00002.m4a", "id2/b/00001.m4a"], None, [("id1", "a", "00002"), ("id2", "b", "00001")]),
    (["dev/aac/id1/a/1.m4a", "test/aac/id2/b/1.m4a"], None, [("id1", "a", "1"), ("id2", "b", "1")]),
    (["aac/id2/b/1.m4a", "dev/aac/id1/a/1.m4a"], None, [("id1", "a", "1"), ("id2", "b", "1")]),
    (["train-clean-100/19/198/19-198-0001.flac", "train-clean-100/26/495/26-495-0000.flac"], None,
     [("19", "198", "0001"), ("26", "495", "0000")]),
    (["speech/0120/1.opus", "speech/0135/1.opus", "speech/README.md"], None,
     [("0120", "1", "1"), ("0135", "1", "1")]),
    (["Jürgen/clip 1.m4a", "Ольга/a.b.OPUS", "._x.wav", ".cache/x/y.wav"], None,
     [("Jürgen", "1", "clip 1"), ("Ольга", "1", "a.b")]),
    (["bed/bob_nohash_0.wav", "bed/eve_nohash_0.wav", "cat/bob_nohash_1.wav"],
     "{word}/{speaker}_nohash_{take}.wav",
     [("bob", "1", "bed-0"), ("bob", "1", "cat-1"), ("eve", "1", "bed-0")]),
    (["x/y/bob.wav", "x/z/eve.wav"], "{speaker}.wav", [("bob", "1", "bob"), ("eve", "1", "eve")]),
    (["a/x.sph", "b/x.sph"], "{speaker}/{utterance}.sph", [("a", "1", "x"), ("b", "1", "x")]),
    (["a-1.wav", "b-1.wav"], "/{speaker}-*.wav", [("a", "1", "a-1"), ("b", "1", "b-1")]),
])
def test_names_come_from_the_paths(tmp_path, paths, pattern, expected):
    table = scan(touch(tmp_path, *paths), pattern)
    assert ids(table) == expected
    assert all(Path(path).is_file() for path in table["path"])


def test_files_that_do_not_match_are_said(tmp_path, capsys):
    touch(tmp_path, "a/1.wav", "b/1.wav", "noise.wav")
    assert len(scan(tmp_path, "{speaker}/{utterance}.wav")) == 2
    assert "1 of 3 audio files" in capsys.readouterr().out


@pytest.mark.parametrize(("paths", "pattern", "message"), [
    ([], None, "there is no audio in .*: 0 files"),
    (["a/notes.txt"], None, "there is no audio in .*: 1 files"),
    (["a/1.wav", "b/1.wav"], "{speaker}/{session}/{utterance}.flac",
     "matches none of the 2 audio files.*such as a/1.wav"),
    (["a/1.wav", "a/2.wav"], None, "all of one speaker, 'a'.*expected several"),
    (["a/1.wav", "b/1.wav"], "{speaker}/*/{utterance}.wav", "matches none"),
    (["a_1.wav", "b_1.wav"], None, "without folders for the speakers, such as a_1.wav"),
    (["a/1.wav", "b/c/1.wav"], None, "different depths, such as a/1.wav and b/c/1.wav"),
    (["a/x/1.wav", "a/y/1.wav", "b/1/1.wav"], "{speaker}/*/{utterance}.wav", "both utterance '1' of.*tells them"),
    (["a/1.wav", "a/1.flac", "b/1.wav"], None, "both utterance '1' of speaker 'a'.*the suffix to take, .flac or .wav"),
    (["a/1.wav", "b/1.wav"], "{name}/{utterance}.wav", "does not say which part of a path is the {speaker}"),
    (["a/1.wav", "b/1.wav"], "{speaker/{utterance}.wav", "a brace outside a field"),
    (["a/1.wav", "b/1.wav"], "{}/{speaker}.wav", "a brace outside a field"),
    (["a/1.wav", "b/1.wav"], "{1}/{speaker}.wav", "a field {1}"),
    (["a\n/1.wav", "b/1.wav"], None, "speaker 'a\\\\n'.*Rename"),
])
def test_bad_folders_and_patterns_are_told(tmp_path, paths, pattern, message):
    with pytest.raises(ValueError, match=message):
        scan(touch(tmp_path, *paths), pattern)


def test_a_missing_folder_or_a_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nix"):
        scan(tmp_path / "nix")
    with pytest.raises(NotADirectoryError, match="expected a folder"):
        scan(touch(tmp_path, "a.wav") / "a.wav")


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    touch(tmp_path, "disk/bob/1.wav", "people/eve/1.wav")
    (tmp_path / "people" / "bob").symlink_to(tmp_path / "disk" / "bob")
    (tmp_path / "people" / "eve" / "round").symlink_to(tmp_path / "people")
    found = scan(tmp_path / "people", "{speaker}/{utterance}.wav")
    assert ids(found) == [("bob", "1", "1"), ("eve", "1", "1")]


characters = st.characters(codec="utf-8", categories=["L", "N"], include_characters="_ .+()[]")
names = st.text(characters, min_size=1, max_size=8).filter(lambda name: name == name.strip(" ."))


@given(names, names, names, st.lists(names, max_size=2))
def test_any_tree_of_depth_three_is_read_as_it_is(speaker, session, utterance, above):
    path = "/".join([*above, speaker, session, f"{utterance}.wav"])
    other = "/".join([*above, f"{speaker}x", "s", "u.wav"])
    matcher, _ = compile_pattern(infer_pattern([path, other]))
    found = matcher.fullmatch(path)
    assert (found["speaker"], found["session"]) == (speaker, session)
    assert f"{speaker}-{session}-{found['utterance']}" == utterance or found["utterance"] == utterance


# Splits


@settings(max_examples=60)
@given(st.sets(names, min_size=3, max_size=60), st.integers(0, 2**32), st.randoms())
def test_splits_share_no_speaker_and_cover_all(speakers, seed, random):
    rows = sorted(speakers) * 2
    table = pd.DataFrame({"speaker": rows})
    split = assign_splits(table, seed)
    sets = {name: set(table["speaker"][split == name]) for name in SPLITS}
    assert set.union(*sets.values()) == speakers
    assert sum(map(len, sets.values())) == len(speakers)
    at_least = 2 if len(speakers) >= 6 else 1
    assert all(len(part) >= at_least for part in sets.values())
    if len(speakers) >= 20:
        assert abs(len(sets["validation"]) - 0.1 * len(speakers)) <= 0.5
        assert abs(len(sets["test"]) - 0.3 * len(speakers)) <= 0.5
    random.shuffle(rows)
    shuffled = pd.DataFrame({"speaker": rows})
    again = assign_splits(shuffled, seed)
    assert set(zip(shuffled["speaker"], again, strict=True)) == set(zip(table["speaker"], split, strict=True))


def test_another_seed_draws_other_splits():
    table = pd.DataFrame({"speaker": [f"{number:03d}" for number in range(50)]})
    assert not assign_splits(table, 0).equals(assign_splits(table, 1))


def test_two_speakers_cannot_be_split():
    with pytest.raises(ValueError, match="2 speakers cannot be divided"):
        assign_splits(pd.DataFrame({"speaker": ["a", "b", "a"]}))


def test_a_split_file_is_followed_to_the_letter(tmp_path, capsys):
    lines = ["speaker,gender,split", "0120,f,train", "NA,f,validation", "007,m,test", "8,m,test"]
    (tmp_path / "split.csv").write_text("\n".join(lines))
    table = pd.DataFrame({"speaker": ["0120", "NA", "007", "0120"]})
    split = assign_splits(table, split_file=tmp_path / "split.csv")
    assert split.tolist() == ["train", "validation", "test", "train"]
    assert "names 1 speakers not in the corpus, such as '8'" in capsys.readouterr().out


@pytest.mark.parametrize(("lines", "message"), [
    ("speaker,split\na,train\nb,test\n", "says nothing of 1 of the corpus' 3 speakers, such as 'c'"),
    ("speaker,split\na,train\nb,test\nc,dev\n", "into split 'dev'; expected one of train, validation, test"),
    ("speaker,split\na,train\na,test\nb,test\nc,test\n", "names speaker 'a' more than once"),
    ("name,part\na,train\n", "has the columns name, part; expected speaker and split"),
    ("", "split.csv is not a csv with the columns speaker and split"),
    ("speaker,split\na,train\nb,train\nc,train\nx,test\n", "leaves test without speakers: 1 of the 4"),
])
def test_a_wrong_split_file_is_told(tmp_path, lines, message):
    (tmp_path / "split.csv").write_text(lines)
    with pytest.raises(ValueError, match=message):
        assign_splits(pd.DataFrame({"speaker": ["a", "b", "c"]}), split_file=tmp_path / "split.csv")


def test_the_committed_split_of_so762(so762):
    split = pd.read_csv(PROJECT / "data" / "splits" / "so762.csv", dtype="str")
    speakers = pd.read_csv(so762 / "speakers.csv", dtype="str")
    merged = split.merge(speakers, on=["speaker", "gender"], validate="one_to_one")
    assert len(merged) == len(split) == len(speakers) == 88
    counts = pd.crosstab(split["split"], split["gender"])
    assert counts.loc[["train", "validation", "test"]].to_numpy().tolist() == [[34, 24], [6, 4], [12, 8]]
    assert split["speaker"].is_monotonic_increasing


# Importing


def test_an_imported_corpus_holds_what_the_files_hold(data_folder, source):
    corpus = import_corpus(source, progress=False)
    assert (corpus.name, corpus.synthetic) == ("people", False)
    assert corpus.folder == data_folder / "corpora" / "people"
    table = corpus.table
    assert list(table.columns) == COLUMNS and len(table) == 12 and len(corpus.skipped) == 0
    assert ids(table) == sorted(ids(table))
    for row in (0, 5, 11):
        expected = to_int16(read_audio(table["path"][row]))
        assert np.array_equal(corpus.waveforms.read(row), expected)
        assert table["duration"][row] == len(expected) / 16000 and table["start"][row] == 0
    again = open_corpus("people")
    pd.testing.assert_frame_equal(again.table, table)
    assert again.fingerprint == corpus.fingerprint and list_corpora() == ["people"]


def test_an_unchanged_source_is_opened_at_once(data_folder, source, decoded):
    first = import_corpus(source, progress=False)
    del decoded[:]
    assert import_corpus(source, progress=False).fingerprint == first.fingerprint
    assert find_corpus(source).fingerprint == find_corpus("people").fingerprint == first.fingerprint
    assert decoded == []


def test_a_changed_source_is_imported_again_and_said(data_folder, source, capsys):
    seen = {import_corpus(source, progress=False).fingerprint}
    write_audio(source / "anne1" / "clip 0.wav", np.random.default_rng(5).normal(0, 0.1, 16000))
    seen.add(import_corpus(source, progress=False).fingerprint)
    assert "its files changed since it was imported (12 then, 12 now)" in capsys.readouterr().out
    (source / "anne1" / "clip 0.wav").rename(source / "anne1" / "clip 9.wav")
    seen.add(import_corpus(source, progress=False).fingerprint)
    (source / "anne2").rename(source / "zoe")
    corpus = import_corpus(source, progress=False)
    seen.add(corpus.fingerprint)
    seen.add(import_corpus(source, seed=5, progress=False).fingerprint)
    assert len(seen) == 5, "a change of samples, of a name or of the splits left the fingerprint as it was"
    for row, path in enumerate(corpus.table["path"]):
        assert np.array_equal(corpus.waveforms.read(row), to_int16(read_audio(path)))


def test_a_moved_source_keeps_the_fingerprint(data_folder, source, tmp_path):
    before = import_corpus(source, progress=False).fingerprint
    source.rename(tmp_path / "elsewhere")
    after = import_corpus(tmp_path / "elsewhere", name="people", progress=False)
    assert after.fingerprint == before and "elsewhere" in after.table["path"][0]


def test_audio_inside_the_corpus_folder_moves_with_it(data_folder, tmp_path, monkeypatch):
    make_audio(data_folder / "corpora" / "mine" / "wav")
    corpus = import_corpus(data_folder / "corpora" / "mine" / "wav", synthetic=True, progress=False)
    assert corpus.name == "mine" and corpus.synthetic
    assert corpus.table["path"][0] == "wav/anne0/clip 0.wav"
    assert import_corpus(data_folder / "corpora" / "mine" / "wav", seed=1, progress=False).synthetic
    corpus = import_corpus(data_folder / "corpora" / "mine" / "wav", progress=False)
    assert corpus.synthetic
    data_folder.rename(tmp_path / "moved")
    monkeypatch.setenv("SPEAKERLIB_DATA", str(tmp_path / "moved"))
    moved = open_corpus("mine")
    assert (moved.folder / moved.table["path"][0]).is_file() and moved.fingerprint == corpus.fingerprint


def test_two_folders_of_one_name_do_not_replace_each_other(data_folder, source, tmp_path):
    before = import_corpus(source, progress=False).fingerprint
    other = make_audio(tmp_path / "other" / "people", num_speakers=5)
    with pytest.raises(ValueError, match="'people' was imported from .*another name"):
        import_corpus(other, progress=False)
    assert open_corpus("people").fingerprint == before
    assert len(import_corpus(other, name="people2", progress=False).table) == 15


def test_skipped_files_are_counted_and_listed(data_folder, source, capsys):
    (source / "anne1" / "clip 1.wav").write_text("not audio")
    write_audio(source / "anne1" / "clip 2.wav", np.zeros(16000))
    for number in range(3):
        (source / "anne2" / f"clip {number}.wav").write_bytes(b"")
    corpus = import_corpus(source, progress=False)
    said = capsys.readouterr().out
    assert "5 of 12 files were skipped (3 empty, 1 unreadable, 1 silent)" in said
    assert str(data_folder / "corpora" / "people" / "skipped.csv") in said
    assert "1 of 4 speakers have no usable file and are left out: anne2" in said
    assert sorted(corpus.table["speaker"].unique()) == ["anne0", "anne1", "anne3"]
    assert corpus.table["duration"].tolist() == [len(corpus.waveforms.read(row)) / 16000 for row in range(7)]
    listed = pd.read_csv(corpus.folder / "skipped.csv")
    assert listed["path"].tolist() == [str(source / "anne1" / f"clip {number}.wav") for number in (1, 2)] + [
        str(source / "anne2" / f"clip {number}.wav") for number in range(3)]
    assert listed["reason"].tolist()[1:] == ["silent", "empty", "empty", "empty"]
    pd.testing.assert_frame_equal(open_corpus("people").skipped, listed.astype("str"))


def test_a_corpus_of_bad_files_alone_is_refused(data_folder, source):
    for path in source.glob("*/*.wav"):
        path.write_text("not audio")
    with pytest.raises(ValueError, match=r"none of its 12 files can be used \(12 unreadable\), such as "):
        import_corpus(source, progress=False)
    assert len(pd.read_csv(data_folder / "corpora" / "people" / "skipped.csv")) == 12
    assert list_corpora() == []


def test_a_wrong_split_file_leaves_the_imported_corpus_as_it_was(data_folder, source, tmp_path):
    before = import_corpus(source, progress=False).fingerprint
    (tmp_path / "split.csv").write_text("speaker,split\nanne0,train\n")
    with pytest.raises(ValueError, match="says nothing of 3"):
        import_corpus(source, split_file=tmp_path / "split.csv", progress=False)
    assert open_corpus("people").fingerprint == before


def test_a_torn_corpus_says_so_when_opened_and_is_healed_by_importing(data_folder, source, capsys):
    before = import_corpus(source, progress=False).fingerprint
    shard = data_folder / "corpora" / "people" / "waveforms" / "shard-00000.int16"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(RuntimeError, match="is torn"):
        open_corpus("people")
    assert import_corpus(source, progress=False).fingerprint == before
    assert "is damaged and is imported again" in capsys.readouterr().out
    table = data_folder / "corpora" / "people" / "corpus.parquet"
    table.write_bytes(table.read_bytes()[:-2])
    with pytest.raises(RuntimeError, match="its table cannot be read .*Import it again"):
        open_corpus("people")
    assert import_corpus(source, progress=False).fingerprint == before


@pytest.mark.parametrize(("asked", "message"), [
    ({"seed": -1}, "seed=-1: expected a whole number of at least 0"),
    ({"split_file": "nowhere.csv"}, "there is no split file nowhere.csv"),
])
def test_a_wrong_split_is_refused_before_anything_is_decoded(data_folder, source, asked, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        import_corpus(source, progress=False, **asked)
    assert not data_folder.exists() or not list(data_folder.rglob("shard-*"))


def test_a_split_whose_test_speakers_are_absent_is_refused_before_anything_is_decoded(data_folder, source, tmp_path):
    people = sorted(scan(source)["speaker"].unique())
    lines = [f"{speaker},{'validation' if speaker == people[0] else 'train'}" for speaker in people]
    (tmp_path / "split.csv").write_text("\n".join(["speaker,split", *lines, "nobody,test", ""]))
    with pytest.raises(ValueError, match="leaves test without speakers: 1 of the"):
        import_corpus(source, progress=False, split_file=tmp_path / "split.csv")
    assert not data_folder.exists() or not list(data_folder.rglob("shard-*"))


def test_waveforms_that_are_not_the_tables_are_not_opened(data_folder, source, monkeypatch):
    import_corpus(source, progress=False)
    write_audio(source / "anne1" / "clip 0.wav", np.random.default_rng(5).normal(0, 0.1, 10080))
    monkeypatch.setattr(corpora, "assign_splits", lambda *arguments: 1 / 0)  # the import ends here
    with pytest.raises(ZeroDivisionError):
        import_corpus(source, progress=False)
    with pytest.raises(RuntimeError, match="are not its table's"):
        open_corpus("people")
    monkeypatch.undo()


def test_what_is_not_there_is_told_with_what_is(data_folder, source, tmp_path):
    with pytest.raises(FileNotFoundError, match="No corpus is imported yet.*speakerlib import"):
        open_corpus("nix")
    import_corpus(source, progress=False)
    with pytest.raises(FileNotFoundError, match="'nix' is not imported. The imported corpora are people"):
        find_corpus("nix")
    with pytest.raises(FileNotFoundError, match="speakerlib demo"):
        open_corpus("demo")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nix"):
        find_corpus(tmp_path / "nix")
    (data_folder / "corpora" / "people" / "corpus.json").unlink()
    with pytest.raises(FileNotFoundError, match="only partly imported"):
        open_corpus("people")
    with pytest.raises(ValueError, match="expected a name or a folder"):
        find_corpus(" ")
    with pytest.raises(ValueError, match="the corpus '../x'"):
        open_corpus("../x")


def test_the_demo_corpus_is_made_when_asked_for(data_folder, monkeypatch):
    made = SimpleNamespace(demo_corpus=lambda: "made")
    monkeypatch.setitem(sys.modules, "speakerlib.data.demo_corpus", made)
    assert find_corpus("demo") == "made"


def test_the_summary_counts_by_split(data_folder, tmp_path):
    for speaker, seconds in [("a", [3.0, 3.2]), ("b", [1.5]), ("c", [1.49, 0.7, 6.1])]:
        for number, length in enumerate(seconds):
            path = tmp_path / "people" / speaker / f"session{number % 2}" / f"{number}.wav"
            write_audio(path, np.random.default_rng(0).normal(0, 0.1, round(16000 * length)))
    (tmp_path / "split.csv").write_text("speaker,split\na,train\nb,validation\nc,test\n")
    counts = summary(import_corpus(tmp_path / "people", split_file=tmp_path / "split.csv", progress=False))
    assert counts.index.tolist() == ["train", "validation", "test", "total"]
    assert counts["speakers"].tolist() == [1, 1, 1, 3]
    assert counts["sessions"].tolist() == [2, 1, 2, 5]
    assert counts["utterances"].tolist() == [2, 1, 3, 6]
    assert counts["segments of 1.5 s"].tolist() == [4, 1, 4, 9]
    assert counts["segments of 3.0 s"].tolist() == [2, 0, 2, 4]
    assert counts.loc["total", "hours"] == pytest.approx(15.99 / 3600, abs=5e-4)


COUNTING = """
import sys
from speakerlib.data import waveform_shards
from speakerlib.data.corpora import import_corpus
count, original = [0], waveform_shards.decode
def decode(*job):
    count[0] += 1
    return original(*job)
waveform_shards.decode = decode
corpus = import_corpus(sys.argv[1], progress=False)
print("RESULT", corpus.fingerprint, count[0])
"""


def test_two_processes_that_import_at_once_do_the_work_once(data_folder, source):
    environment = {**os.environ, "SPEAKERLIB_DATA": str(data_folder)}
    processes = [subprocess.Popen([sys.executable, "-c", COUNTING, str(source)], cwd=PROJECT, env=environment,
                                  stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    results = [output.split("RESULT ")[1].split() for output in outputs]
    assert results[0][0] == results[1][0]
    assert sorted(int(count) for _, count in results) == [0, 12]


def test_real_speech_is_imported(data_folder, so762, tmp_path):
    (tmp_path / "so762" / "speech").mkdir(parents=True)
    for speaker in sorted((so762 / "speech").iterdir())[:8]:  # they meet all three splits
        (tmp_path / "so762" / "speech" / speaker.name).symlink_to(speaker)
    split = pd.read_csv(PROJECT / "data" / "splits" / "so762.csv", dtype="str").set_index("speaker")["split"]
    corpus = import_corpus(tmp_path / "so762", progress=False)
    assert len(corpus.table) == 160 and len(corpus.skipped) == 0
    assert (corpus.table["split"] == corpus.table["speaker"].map(split)).all()
    assert 2 < corpus.table["duration"].median() < 6

"""Trial lists in the forms that are published, matched to a corpus' rows; what is missing is said, not skipped."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data.splits import assign_splits
from speakerlib.data.trials import describe_trials, match_trials, read_trials

PROJECT = Path(__file__).resolve().parents[1]
VERI_TEST = PROJECT.parent / "shared" / "data" / "voxceleb" / "veri_test.txt"

characters = st.characters(codec="utf-8", categories=["L", "N"], include_characters="_-.+")
names = st.text(characters, min_size=1, max_size=8).filter(lambda name: name not in ("0", "1", "target", "nontarget"))
utterances = st.lists(names, min_size=1, max_size=4).map("/".join).filter(lambda name: name not in ("0", "1"))


def write(folder, text):
    (folder / "trials.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "trials.txt"


def rows(table):
    return list(table.itertuples(index=False, name=None))


def corpus(*ids, name="voices"):
    return SimpleNamespace(name=name, table=pd.DataFrame(ids, columns=["speaker", "session", "utterance"], dtype="str"))


def trials(*lines):
    table = pd.DataFrame([line.split() for line in lines], columns=["label", "enrolment", "test"], dtype="str")
    return table.astype({"label": "int8"})


# Reading


@pytest.fixture
def veri_test():
    if not VERI_TEST.is_file():
        pytest.skip(f"VoxCeleb's trial list is not at hand: {VERI_TEST} is absent")
    return VERI_TEST


def test_voxceleb1s_original_list_is_read_whole(veri_test):
    listed = read_trials(veri_test)
    assert describe_trials(listed) == {"trials": 37720, "targets": 18860, "non_targets": 18860, "utterances": 4715,
                                       "speakers": 40}
    assert listed["label"].dtype == "int8"
    assert rows(listed)[0] == (1, "id10270/x6uYqmx31kE/00001.wav", "id10270/8jEAjG6SegY/00008.wav")
    assert rows(listed)[-1] == (0, "id10309/0cYFdtyWVds/00005.wav", "id10296/Y-qKARMSO7k/00001.wav")
    same = listed["enrolment"].str[:7] == listed["test"].str[:7]
    assert (same == (listed["label"] == 1)).all()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), utterances, utterances), min_size=1, max_size=20),
       st.sampled_from(["\n", "\r\n"]), st.sampled_from([" ", "\t", "  "]), st.sampled_from(["", "\n", "\n\n \t\n"]),
       st.sampled_from(["", "\ufeff"]))
def test_what_is_written_is_read_back(tmp_path_factory, written, line_end, space, end, mark):
    text = line_end.join(space.join(map(str, line)) for line in written) + end
    listed = read_trials(write(tmp_path_factory.mktemp("list"), mark + text))
    assert rows(listed) == written
    assert describe_trials(listed)["targets"] == sum(label for label, *_ in written)


@pytest.mark.parametrize("text", ["1 a b\n0 a c\n", "a b 1\na c 0", "a b target\na c nontarget\n",
                                  "target a b\r\n\r\nnontarget a c\r\n"])
def test_the_label_may_be_a_word_and_stand_last(tmp_path, text):
    assert rows(read_trials(write(tmp_path, text))) == [(1, "a", "b"), (0, "a", "c")]


@pytest.mark.parametrize(("text", "message"), [
    ("", "holds no trial; expected lines of a label"),
    (" \r\n\n", "holds no trial"),
    ("1 a b\n\n0 a\n", "line 3: '0 a'; expected a label"),
    ("1 a b c\n", r"line 1: '1 a b c'; .*\(3 words\)"),
    ("1 a b\n0 a b\n1 a b c d e\n", "line 3: '1 a b c d e'"),
    ("1 a b\n2 a c\n", "line 2: '2 a c'; .*labels are 1, 0, target, nontarget"),
    ("a b 1\na c 0\na c\u00a0no\n", "line 3"),
    ("a b 1\na c 0\na c no\n", "line 3: 'a c no'"),
    ("a b c\n", "line 1: 'a b c'"),
    ("1 a 1\n0 b 0\n", "first and the last word of every line are labels, such as '1 a 1'"),
    ('1 "a b" c\n', "line 1"),
    (b"1 a b\n1 \xff b\n", "is not text in UTF-8"),
])
def test_what_is_no_trial_list_is_told_with_the_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"trials.txt.*{message}"):
        read_trials(write(tmp_path, text))


def test_a_list_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no trial list .*nix.txt; expected a text file"):
        read_trials(tmp_path / "nix.txt")


# Matching


def test_trials_find_their_rows_whatever_folders_and_suffixes():
    matched = match_trials(trials("1 id1/vA/00001.wav id1/vB/00001.wav", "0 wav/id2/vA/00001.flac id1/vB/00001",
                                  "0 /x/test/aac/id2/vA/00001.M4A ./id1/vA/00001.wav", "1 id3/vC/a.b id3/vC/a.b.wav"),
                           corpus(("id1", "vA", "00001"), ("id1", "vB", "00001"), ("id2", "vA", "00001"),
                                  ("id3", "vC", "a.b")))
    assert rows(matched) == [(0, 1, 1), (2, 1, 0), (2, 0, 0), (3, 3, 1)]
    assert matched.columns.tolist() == ["enrolment_row", "test_row", "label"]


def test_a_corpus_without_sessions_is_matched_by_speaker_and_utterance():
    voices = corpus(("0120", "1", "clip"), ("0135", "1", "clip"), ("0135", "1", "other"))
    matched = match_trials(trials("1 0135/clip.wav speech/0135/other.wav", "0 0120/clip 0135/1/clip"), voices)
    assert rows(matched) == [(1, 2, 1), (0, 1, 0)]


def test_missing_utterances_are_refused_with_counts_and_examples():
    voices = corpus(("a", "v", "1"), ("a", "v", "2"), ("b", "v", "1"))
    listed = trials("1 a/v/1 a/v/2", "0 a/v/1 b/v/1", "0 a/v/1 c/v/1.wav", "1 c/v/1.wav c/v/2.wav", "0 d/v/1 b/v/1")
    with pytest.raises(ValueError, match="corpus 'voices' lacks 3 of the 6 utterances of the trial list, and so 3 of "
                       "its 5 trials. Missing: c/v/1.wav, d/v/1, c/v/2.wav; there: a/v/1, for one. .*missing='drop'"):
        match_trials(listed, voices)


def test_dropping_says_what_is_left(capsys):
    voices = corpus(("a", "v", "1"), ("a", "v", "2"), ("b", "v", "1"))
    listed = trials("0 x/v/1 b/v/1", "1 a/v/1 a/v/2", "0 a/v/1 b/v/1", "1 a/v/2 a/v/1")
    assert rows(match_trials(listed, voices, missing="drop")) == [(0, 1, 1), (0, 2, 0), (1, 0, 1)]
    said = capsys.readouterr().out
    assert "lacks 1 of the 4 utterances" in said and "Going on with 3 trials: 2 targets, 1 non-targets" in said


@pytest.mark.parametrize("missing", ["drop", "refuse"])
def test_a_list_of_another_corpus_is_refused_even_when_dropping(missing):
    with pytest.raises(ValueError, match="The 1 trials that remain are not of both kinds"):
        match_trials(trials("1 a/v/1 a/v/1", "0 a/v/1 x/v/1"), corpus(("a", "v", "1")), missing)
    with pytest.raises(ValueError, match="lacks 2 of the 2.* The 0 trials that remain"):
        match_trials(trials("1 x y", "0 y x"), corpus(("a", "v", "1")), missing)
    with pytest.raises(ValueError, match="missing='skip': expected 'refuse' or 'drop'"):
        match_trials(trials("1 a/v/1 a/v/1"), corpus(("a", "v", "1")), missing="skip")


@pytest.mark.parametrize("missing", ["drop", "refuse"])
@pytest.mark.parametrize(("lines", "message"), [
    (["1 a/v/1 a/v/2", "1 a/v/2 a/v/1"], "the 2 trials of the list are targets alone, such as '1 a/v/1 a/v/2'; "
     "expected some non-targets"),
    (["0 a/v/1 b/v/1"], "the 1 trials of the list are non-targets alone, such as '0 a/v/1 b/v/1'; expected some"),
    (["1 a/v/1 a/v/2", "0 a/v/1 b/v/1", "1 a/v/2 b/v/1.wav"], "1 of the 3 trials contradict the speakers of corpus "
     "'voices', such as '1 a/v/2 b/v/1.wav': 1, but they are of 'a' and 'b'"),
    (["0 a/v/1 a/v/2", "1 a/v/1 b/v/1"], "2 of the 2 trials .*'0 a/v/1 a/v/2': 0, but both are of 'a'.*way round"),
])
def test_labels_that_cannot_be_scored_are_refused_with_a_line(lines, message, missing):
    with pytest.raises(ValueError, match=message):
        match_trials(trials(*lines), corpus(("a", "v", "1"), ("a", "v", "2"), ("b", "v", "1")), missing)


def test_what_is_left_after_dropping_is_checked_alike():
    voices = corpus(("a", "v", "1"), ("a", "v", "2"), ("b", "v", "1"))
    listed = trials("1 x/v/1 a/v/1", "1 a/v/1 a/v/2", "0 a/v/1 b/v/1", "0 a/v/2 a/v/1")
    with pytest.raises(ValueError, match="1 of the 4 trials contradict .*'0 a/v/2 a/v/1': 0, but both are of 'a'"):
        match_trials(listed, voices, missing="drop")


@settings(max_examples=50)
@given(st.sets(st.tuples(names, names, names), min_size=2, max_size=12), st.integers(0, 2**32), st.data())
def test_any_list_of_a_corpus_own_utterances_is_matched_in_order(ids, seed, data):
    ids = [("one", "left", "0"), ("two", "right", "0"), *sorted(ids)]
    pairs = np.vstack([[[0, 0], [0, 1]], np.random.default_rng(seed).integers(len(ids), size=(9, 2))])
    suffix = data.draw(st.sampled_from(["", ".wav", ".flac"]))
    above = data.draw(st.sampled_from(["", "wav/", "/data/vox1/"]))
    if not suffix and any(utterance.lower().endswith((".wav", ".aac")) for *_, utterance in ids):
        return
    lines = [" ".join([str(int(ids[one][0] == ids[two][0])), *(above + "/".join(ids[row]) + suffix
                                                               for row in (one, two))]) for one, two in pairs]
    matched = match_trials(trials(*lines), corpus(*ids))
    assert matched[["enrolment_row", "test_row"]].to_numpy().tolist() == pairs.tolist()


# VoxCeleb1's speakers


def test_the_committed_split_of_voxceleb1(veri_test):
    split = pd.read_csv(PROJECT / "data" / "splits" / "vox1.csv", dtype="str")
    assert split["speaker"].tolist() == [f"id{number}" for number in range(10001, 11252)]
    assert split["split"].value_counts().to_dict() == {"train": 1090, "validation": 121, "test": 40}
    listed = read_trials(veri_test)
    tested = pd.concat([listed["enrolment"], listed["test"]]).str.split("/").str[0]
    assert set(split["speaker"][split["split"] == "test"]) == set(tested)


def test_a_part_of_voxceleb1_is_split_or_told_why_not(capsys):
    split_file = PROJECT / "data" / "splits" / "vox1.csv"
    split = pd.read_csv(split_file, dtype="str").set_index("speaker")["split"]
    some = pd.DataFrame({"speaker": split.index[::7]})
    assert assign_splits(some, split_file=split_file).tolist() == split[::7].tolist()
    test_alone = pd.DataFrame({"speaker": split.index[split == "test"]})
    assert set(assign_splits(test_alone, split_file=split_file)) == {"test"}
    assert "All 40 speakers are test speakers by " in capsys.readouterr().out
    dev_alone = pd.DataFrame({"speaker": split.index[split != "test"]})
    with pytest.raises(ValueError, match="leaves test without speakers: 40 of the 1251 .*import under another name"):
        assign_splits(dev_alone, split_file=split_file)

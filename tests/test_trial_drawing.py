"""Clips and the lists drawn by a seed: whole, cut, joined and repeated clips; trials; tasks of identification."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data.clips import cut_clips, describe_clips, join_clips, take_clips, whole_clips
from speakerlib.data.drawn_trials import cut_tests, draw_trials, load_trials, save_trials, trial_clips
from speakerlib.data.identification_tasks import draw_identification


def corpus(num_speakers=5, num_utterances=6, num_sessions=1, name="voices"):
    rows = [(f"s{speaker}", f"v{utterance % num_sessions}", f"u, {utterance}")
            for speaker in range(num_speakers) for utterance in range(num_utterances)]
    return SimpleNamespace(name=name, table=pd.DataFrame(rows, columns=["speaker", "session", "utterance"]))


def frames_of(clips, number):
    """The (row, frame) pairs of one clip, in order."""
    mine = np.flatnonzero(clips.clip == number)
    return [(clips.row[piece], frame) for piece in mine
            for frame in range(clips.start[piece], clips.start[piece] + clips.length[piece])]


# Clips


@settings(max_examples=100)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), min_size=1, max_size=5),
       st.lists(st.integers(1, 40), min_size=6, max_size=6), st.integers(1, 100), st.integers(0, 2**32))
def test_a_joined_clip_has_its_length_and_repeats_only_what_is_too_short(utterances, lengths, length, seed):
    clips = join_clips(utterances, lengths, length, seed)
    assert len(clips) == len(utterances) and (clips.frames == length).all()
    assert (clips.start >= 0).all() and (clips.start + clips.length <= np.array(lengths)[clips.row]).all()
    for number, rows in enumerate(utterances):
        there = sum(lengths[row] for row in rows)
        pairs = frames_of(clips, number)
        assert clips.repeated[number] == (there < length) == (len(set(pairs)) < length)
        assert len(set(pairs)) == min(there, length)  # all that there is is heard before anything comes twice
        visited = list(dict.fromkeys(row for row, _ in pairs))
        assert visited == rows[:len(visited)] and clips.first_row[number] == rows[0]
        assert clips.num_utterances[number] == len(visited)
        if there < length:
            assert pairs[there:] == (pairs * (length // there + 1))[:length - there]
    again = join_clips(utterances, lengths, length, seed)
    assert again.digest() == clips.digest()


def test_a_cut_may_begin_anywhere_and_a_whole_clip_is_all_there_is():
    clips = cut_clips([0] * 2000, [12], 10, seed=1)
    assert np.bincount(clips.start).tolist() == pytest.approx([2000 / 3] * 3, rel=0.1)
    assert cut_clips([0, 0, 0, 0], [90], 10, 1).digest() != cut_clips([0, 0, 0, 0], [90], 10, 2).digest()
    whole = whole_clips([2, 0], [5, 6, 7])
    assert whole.frames.tolist() == [7, 5] and whole.row.tolist() == [2, 0] and not whole.repeated.any()


def test_clips_can_be_taken_in_any_order():
    clips = join_clips([[0, 1], [2], [1, 2, 0]], [3, 4, 5], 9, seed=0)
    taken = take_clips(clips, [2, 0, 2])
    assert [frames_of(taken, number) for number in range(3)] == [frames_of(clips, number) for number in (2, 0, 2)]
    assert len(take_clips(clips, [])) == 0


def test_what_clips_are_made_of_is_said():
    clips = join_clips([[0, 1], [2], [0]], [300, 300, 500], 500)
    assert describe_clips(clips, "enrolments") == (
        "3 enrolments of 5.00 s: 1 join several utterances of their speaker, 1 repeat what there is, which is too "
        "short.")
    assert describe_clips(whole_clips([0, 2], [300, 300, 500])) == "2 clips of 3.00 to 5.00 s: each from one utterance."


@pytest.mark.parametrize(("utterances", "length", "message"), [
    ([[0]], 0, "a clip of length=0: expected frames of 10 ms, at least 1"),
    ([[0]], 1.5, "length=1.5"),
    ([[0]], True, "length=True"),
    ([[0], []], 5, r"clip 1 has the utterances \[\]: expected one or more"),
    ([[0], [1]], 5, r"clip 1 has the utterances \[1\].*none without frames"),
])
def test_clips_that_cannot_be_are_refused(utterances, length, message):
    with pytest.raises(ValueError, match=message):
        join_clips(utterances, [10, 0], length)


# Trials


@settings(max_examples=40)
@given(st.integers(2, 6), st.integers(2, 7), st.integers(1, 60), st.integers(0, 2**32))
def test_trials_are_as_many_as_asked_of_both_kinds_and_none_comes_twice(speakers, utterances, per_speaker, seed):
    table = corpus(speakers, utterances).table
    table = table.set_axis(np.random.default_rng(seed).permutation(len(table)) + 7)  # one split of a corpus
    trials = draw_trials(table, per_speaker, seed=seed)
    speaker = table["speaker"]
    one, other = (speaker[trials[side]].to_numpy() for side in ("enrolment_row", "test_row"))
    assert ((one == other) == (trials["label"] == 1)).all()
    assert not trials.duplicated().any() and (trials["enrolment_row"] != trials["test_row"]).all()
    counts = trials.groupby([one, trials["label"]]).size().unstack()
    assert (counts[1] == min(per_speaker, utterances * (utterances - 1))).all()
    assert (counts[0] == min(per_speaker, utterances * utterances * (speakers - 1))).all()
    pd.testing.assert_frame_equal(draw_trials(table.sample(frac=1, random_state=1), per_speaker, seed=seed), trials)


def test_another_seed_is_another_list_and_every_pair_is_as_likely():
    table = corpus(4, 5).table
    lists = [draw_trials(table, 4, seed=seed) for seed in range(400)]
    assert not lists[0].equals(lists[1])
    drawn = pd.concat(lists)
    pairs = drawn.groupby(["label", "enrolment_row", "test_row"]).size()
    assert len(pairs[1]) == 4 * 20 and len(pairs[0]) == 4 * 75
    for label, expected in ((1, 400 * 4 / 20), (0, 400 * 4 / 75)):
        assert (np.abs(pairs[label] - expected) < 5 * np.sqrt(expected)).all()


def test_targets_can_be_of_two_sessions(capsys):
    voices = corpus(3, 6, num_sessions=2)
    trials = draw_trials(voices.table, 100, rule="session")
    session = voices.table["session"].to_numpy()
    target = trials["label"] == 1
    assert (session[trials["enrolment_row"]] != session[trials["test_row"]])[target].all()
    assert target.sum() == 3 * 18
    assert "3 of 3 speakers have fewer than 100 pairs that share no session" in capsys.readouterr().out
    with pytest.raises(ValueError, match="3 speakers, of whom 0 have two utterances that share no session"):
        draw_trials(corpus(3, 6).table, rule="session")


@pytest.mark.parametrize(("table", "settings", "message"), [
    (corpus(1, 9).table, {}, "1 speakers, of whom 1 have two utterances.*Use a larger split"),
    (corpus(0, 0).table, {}, "0 speakers, of whom 0"),
    (corpus(3, 1).table, {}, "3 speakers, of whom 0 have two"),
    (corpus().table, {"per_speaker": 0}, "per_speaker=0: expected a whole number"),
    (corpus().table, {"rule": "segment"}, "rule='segment': expected utterance or session"),
])
def test_lists_that_cannot_be_drawn_are_refused(table, settings, message):
    with pytest.raises(ValueError, match=message):
        draw_trials(table, **settings)


@pytest.mark.parametrize("cut", [False, True])
def test_a_list_is_saved_and_found_again_in_a_corpus_of_another_order(tmp_path, cut):
    voices = corpus()
    trials = draw_trials(voices.table, 5)
    if cut:
        trials = cut_tests(trials, np.full(30, 40), 30)
    digest = save_trials(trials, voices, tmp_path / "trials.csv")
    assert save_trials(trials, voices, tmp_path / "again.csv") == digest
    pd.testing.assert_frame_equal(load_trials(tmp_path / "trials.csv", voices, digest)[trials.columns], trials)
    turned = SimpleNamespace(name="turned", table=voices.table[::-1].reset_index(drop=True))
    found = load_trials(tmp_path / "trials.csv", turned)
    assert (29 - found["test_row"] == trials["test_row"]).all() and (29 - found["enrolment_row"]).equals(
        trials["enrolment_row"])
    assert save_trials(found, turned, tmp_path / "turned.csv") == digest
    assert save_trials(draw_trials(voices.table, 5, seed=1), voices, tmp_path / "other.csv") != digest


def test_a_list_of_other_utterances_or_another_digest_is_refused(tmp_path):
    path = tmp_path / "trials.csv"
    save_trials(draw_trials(corpus().table, 5), corpus(), path)
    with pytest.raises(ValueError, match=r"'few' lacks \d+ utterances of .*trials.csv, such as s3/v0/u, 0.*has s0/v0"):
        load_trials(path, corpus(3, name="few"))
    with pytest.raises(ValueError, match="has the digest .*, expected 00ff: it is another list"):
        load_trials(path, corpus(), "00ff")
    with pytest.raises(FileNotFoundError, match="no trial list .*nix.csv"):
        load_trials(tmp_path / "nix.csv", corpus())


@pytest.mark.parametrize(("text", "message"), [
    ("", "is not a trial list as save_trials writes it"),
    ("1 a b\n0 a c\n", "has the columns 1 a b; expected label, enrolment, test"),
    ("label,enrolment,test\n", "holds no trial"),
    ("label,enrolment,test\n1,a,b\n2,a,b\n", "trial 2: label is '2'; expected a label of 1 or 0"),
    ("label,enrolment,test,test_start,test_frames\n1,a,b,-1,100\n", "trial 1: test_start is '-1'"),
    ("label,enrolment,test,test_start,test_frames\n1,a,b,0,0\n", "trial 1: test_frames is '0'"),
    ("label,enrolment,test\n1,a,b,c\n1,a,b,c,d\n", "trials.csv"),
    (b"label,enrolment,test\n1,\xff,b\n", "is not a trial list"),
])
def test_what_is_no_saved_list_is_told(tmp_path, text, message):
    (tmp_path / "trials.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        load_trials(tmp_path / "trials.csv", corpus())


def test_the_clips_of_a_list_are_each_made_once():
    frames = np.array([50, 20, 30, 40, 25] * 6)
    whole = draw_trials(corpus().table, 5)
    trials = cut_tests(whole, frames, 25, seed=3)
    for each in (whole, trials):
        enrolments, tests, enrolment, test = trial_clips(each, frames)
        assert (enrolments.first_row[enrolment] == each["enrolment_row"]).all()
        assert (tests.first_row[test] == each["test_row"]).all() and (enrolments.frames == frames[enrolments.row]).all()
    assert (tests.frames == 25).all() and len(tests) == len(trials[["test_row", "test_start"]].drop_duplicates())
    assert (tests.repeated == (frames[tests.first_row] < 25)).all() and tests.repeated.any()
    assert (tests.start[np.searchsorted(tests.clip, test)] == trials["test_start"]).all()
    shorter = frames.copy()
    shorter[frames == 50] = 26
    with pytest.raises(ValueError, match="cut beyond the end of its utterance"):
        trial_clips(cut_tests(whole, frames, 25, seed=3), shorter)


# Identification


@settings(max_examples=40)
@given(st.integers(3, 5), st.integers(1, 2), st.integers(1, 3), st.integers(10, 200),
       st.sampled_from(["utterance", "session"]), st.integers(0, 2**32))
def test_no_query_shares_its_utterance_or_session_with_the_enrolment(way, shots, num_query, length, rule, seed):
    voices = corpus(5, 9, num_sessions=3)
    frames = np.random.default_rng(seed).integers(20, 60, 45)
    drawn = draw_identification(voices.table, frames, way, 30, shots, num_query, length, 15, rule, seed)
    clips, episodes = drawn.clips, drawn.episodes
    assert episodes.support.shape == (30, way, shots) and episodes.query.shape == (30, way, num_query)
    assert (clips.frames[:drawn.num_enrolments] == length).all() and (clips.frames[drawn.num_enrolments:] == 15).all()
    assert episodes.support.max() < drawn.num_enrolments <= episodes.query.min()
    rows = [set(clips.row[clips.clip == number]) for number in range(len(clips))]
    speaker, session = (voices.table[name].to_numpy() for name in ("speaker", "session"))
    for task, position in np.ndindex(30, way):
        name = episodes.speakers[task, position]
        enrolled = [rows[clip] for clip in episodes.support[task, position]]
        queried = [rows[clip] for clip in episodes.query[task, position]]
        heard, asked = set().union(*enrolled), set().union(*queried)
        assert {*speaker[list(heard | asked)]} == {name}
        assert len(heard) == sum(map(len, enrolled)) and len(asked) == num_query  # all of different utterances
        assert not heard & asked
        if rule == "session":
            assert not {*session[list(heard)]} & {*session[list(asked)]}
    assert all(len(set(task)) == way for task in episodes.speakers)
    again = draw_identification(voices.table.sample(frac=1, random_state=2), frames, way, 30, shots, num_query, length,
                                15, rule, seed)
    assert again.digest() == drawn.digest()


def test_tasks_of_another_seed_or_length_have_another_digest():
    table, frames = corpus().table, np.full(30, 200)
    digests = {draw_identification(table, frames, 3, 5, num_query=2, enroll_length=length, test_length=cut,
                                   seed=seed).digest() for length, cut, seed in
               ((300, 100, 0), (300, 100, 1), (400, 100, 0), (300, 90, 0))}
    assert len(digests) == 4


def test_enrolments_are_joined_while_queries_can_be_spared_and_then_repeated():
    table = corpus(3, 6).table
    drawn = draw_identification(table, np.full(18, 200), 3, 5, num_query=2, enroll_length=500)
    assert drawn.describe() == ("30 enrolments of 5.00 s: 30 join several utterances of their speaker. "
                                "36 queries of 1.00 s: each from one utterance.")
    spare = draw_identification(table, np.full(18, 200), 3, 5, num_query=5, enroll_length=500)
    assert "30 repeat what there is, which is too short. 36 queries" in spare.describe()
    assert "join" not in spare.describe()
    assert "36 repeat what there is" in draw_identification(table, np.full(18, 60), 3, 5).describe()


def test_speakers_with_too_few_utterances_are_left_out_and_then_refused():
    table = pd.concat([corpus(4, 6).table, corpus(1, 3).table.assign(speaker="few")], ignore_index=True)
    drawn = draw_identification(table, np.full(27, 100), 4, 40, num_query=5)
    assert set(drawn.episodes.speakers.ravel()) == {"s0", "s1", "s2", "s3"}
    with pytest.raises(ValueError, match=r"num_way=5 needs 5 speakers with 6 utterances, 5 of them of another utterance"
                                         r" than the enrolment; there are 4 \(of 5 speakers\). Use num_way<=4, or few"):
        draw_identification(table, np.full(27, 100), 5, 40, num_query=5)
    with pytest.raises(ValueError, match="another session than the enrolment; there are 0"):
        draw_identification(table, np.full(27, 100), 2, rule="session")
    with pytest.raises(ValueError, match="num_way=1: expected a whole number of at least 2"):
        draw_identification(table, np.full(27, 100), 1)
    with pytest.raises(ValueError, match="a clip of length=0"):
        draw_identification(table, np.full(27, 100), 2, test_length=0)

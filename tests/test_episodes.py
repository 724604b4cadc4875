"""Episodes: what an N-way K-shot task promises, for any corpus that hypothesis thinks of."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data.episodes import RULES, EpisodeSampler, default_rule

# a corpus: for each speaker, for each session, the number of segments of each utterance
corpora = st.lists(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), min_size=1, max_size=4), min_size=2, max_size=12
)


def table(speakers, first_id=0):
    rows, utterance = [], 0
    for speaker, sessions in enumerate(speakers):
        for session, utterances in enumerate(sessions):
            for segments in utterances:
                rows += [(f"id{speaker:05d}", f"{session}", utterance)] * segments
                utterance += 1
    rows = pd.DataFrame(rows, columns=["speaker", "session", "utterance"])
    return rows.set_index(rows.index + first_id)


def regular(num_speakers, num_sessions=3, num_utterances=4, num_segments=2):
    return table([[[num_segments] * num_utterances] * num_sessions] * num_speakers)


@settings(deadline=None, max_examples=150)
@given(corpora, st.integers(2, 5), st.integers(1, 3), st.integers(1, 4), st.sampled_from(RULES), st.integers(0, 99))
def test_every_task_is_well_formed(speakers, num_way, num_support, num_query, rule, seed):
    segments = table(speakers, first_id=7)
    try:
        sampler = EpisodeSampler(segments, num_way, num_support, num_query, rule, seed)
    except ValueError as error:
        assert f"num_way={num_way} needs {num_way} speakers" in str(error)
        return
    episodes = sampler.draw(step=seed, num_tasks=5)
    assert episodes.support.shape == (5, num_way, num_support)
    assert episodes.query.shape == (5, num_way, num_query)
    both = np.concatenate([episodes.support, episodes.query], axis=2)
    owner = segments["speaker"].to_dict()
    group = segments[rule].to_dict() if rule != "segment" else {key: key for key in segments.index}
    for task in range(5):
        assert len(set(episodes.speakers[task])) == num_way
        for way in range(num_way):
            assert len(set(both[task, way])) == num_support + num_query
            assert {owner[i] for i in both[task, way]} == {episodes.speakers[task, way]}
            assert not {group[i] for i in episodes.support[task, way]} & {group[i] for i in episodes.query[task, way]}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10), st.integers(1, 6), st.sampled_from(RULES))
def test_a_task_depends_on_seed_and_place_alone(seed, num_tasks, rule):
    sampler = EpisodeSampler(regular(9), 3, 2, 3, rule, seed)
    once = sampler.draw(0, 12 * num_tasks)
    again = EpisodeSampler(regular(9), 3, 2, 3, rule, seed)
    for step in (11, 0, 5):  # any order, any batch: the same list of tasks
        part = again.draw(step, num_tasks)
        place = slice(step * num_tasks, (step + 1) * num_tasks)
        np.testing.assert_array_equal(part.support, once.support[place])
        np.testing.assert_array_equal(part.query, once.query[place])
    assert EpisodeSampler(regular(9), 3, 2, 3, rule, seed + 1).draw(0, 12).digest() != once.digest()


@pytest.mark.parametrize(("rule", "digest"), [("segment", "e4f038f2b9c252a3"), ("utterance", "45c1f23395f0023e"),
                                              ("session", "47024629004b7bcb")])
def test_the_tasks_of_a_seed_are_those_of_the_records(rule, digest):
    segments = regular(12, num_sessions=4, num_utterances=3)
    assert EpisodeSampler(segments, 5, 2, 7, rule, seed=3).draw(6, 50).digest() == digest


def test_seeds_however_close_share_no_task():
    tasks = {}
    for seed in (0, 1, 2, 3, 64, 1000):
        episodes = EpisodeSampler(regular(12), 4, 2, 3, "session", seed).draw(0, 200)
        tasks[seed] = {part.tobytes() for part in np.concatenate([episodes.support, episodes.query], axis=2)}
    assert sum(map(len, tasks.values())) == len(set.union(*tasks.values())) == 1200


def test_speakers_and_segments_are_drawn_uniformly():
    sampler = EpisodeSampler(regular(10, num_sessions=1, num_utterances=8), 4, 2, 2, "segment")
    episodes = sampler.draw(0, 5000)
    _, speakers = np.unique(episodes.speakers, return_counts=True)
    assert abs(speakers / 2000 - 1).max() < 0.1  # 2,000 expected, standard deviation 35
    _, support = np.unique(episodes.support, return_counts=True)
    assert len(support) == 160 and abs(support / 250 - 1).max() < 0.3  # 250 expected, standard deviation 16


def test_segments_of_a_side_come_from_distinct_utterances_where_there_are_enough():
    segments = regular(5, num_sessions=1, num_utterances=20, num_segments=2)
    episodes = EpisodeSampler(segments, 5, 10, 10, "utterance").draw(0, 50)
    both = np.concatenate([episodes.support, episodes.query], axis=2)
    utterance = segments["utterance"].to_numpy()[both]
    assert all(len(set(row)) == 20 for row in utterance.reshape(-1, 20))


def test_speakers_that_cannot_fill_a_task_are_left_out():
    segments = table([[[4], [4]]] * 3 + [[[2], [1]]])
    episodes = EpisodeSampler(segments, 3, 3, 3, "session").draw(0, 40)
    assert set(episodes.speakers.ravel()) == {"id00000", "id00001", "id00002"}


def test_too_small_a_split_says_both_numbers():
    with pytest.raises(
        ValueError,
        match=r"num_way=10 needs 10 speakers with 5 support and 15 query segments \(20 in all\) "
        r"that share no utterance; corpus 'x', split 'test' has 6 \(of 6 speakers\). "
        "Use num_way<=6, or more speakers.$",
    ):
        EpisodeSampler(regular(6), 10, 5, 15, "utterance", name="corpus 'x', split 'test'")
    with pytest.raises(ValueError, match="has 0 .of 6 speakers.. Use fewer num_support"):
        EpisodeSampler(regular(6), 5, 5, 1500, "utterance")


@pytest.mark.parametrize(
    "way, shot, query, rule",
    [(1, 1, 1, "segment"), (5, 0, 1, "segment"), (5, 1, -1, "segment"), (5, 1.5, 1, "segment"), (5, 1, 1, "video")],
)
def test_impossible_tasks_are_refused(way, shot, query, rule):
    with pytest.raises(ValueError, match="expected"):
        EpisodeSampler(regular(9), way, shot, query, rule)


def test_default_rule_looks_at_sessions():
    assert default_rule(regular(4, num_sessions=3)) == "session"
    assert default_rule(table([[[2], [2]], [[2]]])) == "utterance"

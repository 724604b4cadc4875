"""Open-set trials: who is enrolled and who asks, scores by a loop, errors by hand, and all of it on a small corpus."""


import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from made_up_voices import Swelling, random_weights, swelling_weights, voice

from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.experiments import open_set_errors
from speakerlib.experiments.enrolment import accuracy_by_seconds
from speakerlib.experiments.open_set import OpenSetClips, at_most, draw_open_set, embed_open_set, score_open_set
from speakerlib.experiments.open_set_errors import answers, calibrate, error_tradeoff, ship
from speakerlib.experiments.open_set_errors import open_set_errors as errors
from speakerlib.experiments.voice_weights import keep_calibration, read_voice_weights


def made_up_clips(num_speakers=6, num_utterances=8, noise=0.5):
    """OpenSetClips of directions about each speaker's own."""
    random, count = np.random.default_rng(0), num_speakers * num_utterances
    codes = np.repeat(np.arange(num_speakers), num_utterances)
    centres = random.normal(size=(num_speakers, 12))
    embeddings = {(condition, seconds): F.normalize(torch.from_numpy(
        centres[codes] + noise * random.normal(size=(count, 12))).float(), dim=1)
        for condition in ("recorded", "changed I") for seconds in (None, 1, 3)}
    seconds_of = random.uniform(1.5, 5, count)
    return OpenSetClips(np.array([f"s{code}" for code in codes]), codes, np.arange(count) // 2, embeddings,
                        {seconds: seconds_of >= seconds for seconds in (1, 3)}, seconds_of)


def test_nobody_is_asked_about_with_what_enrolled_them():
    clips = made_up_clips()
    draw = draw_open_set(clips, 500, enrolments=(1, 3))
    assert 0.4 < (draw.truth < 0).mean() < 0.6 and set(draw.present.sum(axis=1)) == {1, 2, 3, 4, 5}
    for task in range(500):
        enrolled = draw.enrolled[task][draw.enrolled[task] >= 0]
        assert clips.groups[draw.query[task]] not in clips.groups[enrolled]
        speakers = [set(clips.codes[part[part >= 0]]) for part in draw.enrolled[task][draw.present[task]]]
        assert all(len(each) == 1 for each in speakers) and len(set.union(*speakers)) == len(speakers)
        asked = clips.codes[draw.query[task]]
        assert (asked not in set.union(*speakers)) if draw.truth[task] < 0 else speakers[draw.truth[task]] == {asked}


def test_draws_are_a_function_of_the_seed():
    clips = made_up_clips()
    one, same, other = (draw_open_set(clips, 50, seed=seed) for seed in (1, 1, 2))
    assert all((getattr(one, name) == getattr(same, name)).all() for name in vars(one))
    assert (one.query != other.query).any()


def test_conditions_are_one_or_mixed():
    clips = made_up_clips()
    assert set(draw_open_set(clips, 50).enrolled_condition.ravel()) == {0, 1}
    fixed = draw_open_set(clips, 50, condition="changed I", people=3)
    assert set(fixed.enrolled_condition.ravel()) == set(fixed.query_condition) == {1}
    with pytest.raises(ValueError, match="6 speakers are there.*at most 5"):
        draw_open_set(clips, 5, people=6)


def test_scores_are_cosines_with_the_mean_of_enrolled_clips():
    clips = made_up_clips()
    draw = draw_open_set(clips, 40)
    scores, names = score_open_set(clips, draw), ("recorded", "changed I")
    for task in range(40):
        query = clips.embeddings[names[draw.query_condition[task]], draw.seconds[task]][draw.query[task]].numpy()
        for place in np.flatnonzero(draw.present[task]):
            mean = np.mean([clips.embeddings[names[condition], None][row].numpy() for row, condition in
                            zip(draw.enrolled[task, place], draw.enrolled_condition[task, place]) if row >= 0], axis=0)
            assert scores[task, place] == pytest.approx(query @ mean / np.linalg.norm(mean), abs=1e-5)


def test_errors_and_the_tradeoff_are_counts():
    clips = made_up_clips(noise=0.8)
    calibration = {"slope": [9.0, 0, 0], "offset": [-5.0, 0, 0], "thresholds": {"0.05": [0.7, 0, 0]}}
    table = errors(clips, calibration, people=3, num_tasks=400).set_index("condition")
    assert list(table.index) == ["recorded", "changed I", "mixed"]
    draw = draw_open_set(clips, 400, 3, 3, 3, "recorded")
    scores = score_open_set(clips, draw)
    strangers, best = draw.truth < 0, scores.max(axis=1)
    row = table.loc["recorded"]
    assert row["false_acceptance"] == pytest.approx((best[strangers] >= 0.7).mean())
    assert row["rejected"] == pytest.approx((best[~strangers] < 0.7).mean())
    assert row["rejected"] + row["mistaken"] + row["correct"] == pytest.approx(1)
    assert row["false_acceptance_low"] <= row["false_acceptance"] <= row["false_acceptance_high"]
    curve = error_tradeoff(clips, people=3, num_tasks=400, points=50)
    one = curve[curve["condition"] == "recorded"]
    assert one["threshold"].is_monotonic_increasing and one["false_acceptance"].is_monotonic_decreasing
    assert one["rejected"].is_monotonic_increasing and len(one) == 50
    near = one.iloc[(one["threshold"] - 0.7).abs().argmin()]
    assert near["false_acceptance"] == pytest.approx((best[strangers] >= near["threshold"]).mean())
    assert near["missed"] == pytest.approx(near["rejected"] + near["mistaken"])
    confidence, correct = answers(clips, calibration, num_tasks=100)
    assert confidence.shape == correct.shape == (100,)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """12 made-up voices of 6 utterances each, imported: a third of them in each split."""
    folder = tmp_path_factory.mktemp("voices")
    for speaker in range(12):
        for take in range(6):
            path = folder / "speech" / f"s{speaker:02}" / f"{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, voice(speaker, 2.0, take))
    splits = pd.DataFrame({"speaker": [f"s{speaker:02}" for speaker in range(12)],
                           "split": ["train", "validation", "test"] * 4})
    splits.to_csv(folder / "splits.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAKERLIB_DATA", str(folder / "data"))
        yield import_corpus(folder / "speech", split_file=folder / "splits.csv", progress=False)


@pytest.mark.slow
def test_a_calibration_of_a_corpus_goes_into_the_file_and_holds_on_test_speakers(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(open_set_errors, "NUM_TASKS", 500)
    random_weights(tmp_path / "w.safetensors")
    weights = read_voice_weights(tmp_path / "w.safetensors")
    found = calibrate(weights.encoder, corpus, num_tasks=500, progress=False)
    assert found["speakers"] == 4 and found["split"] == "validation" and set(found["thresholds"]) == {
        "0.01", "0.02", "0.05", "0.1"}
    keep_calibration(tmp_path / "w.safetensors", found)
    assert read_voice_weights(tmp_path / "w.safetensors").calibration == found
    random_weights(tmp_path / "run.safetensors", corpus=corpus.name)
    assert ship(tmp_path / "run.safetensors", tmp_path / "shipped.safetensors", num_tasks=500, progress=False) == found
    shipped = read_voice_weights(tmp_path / "shipped.safetensors")
    assert shipped.calibration == found and shipped.digest == weights.digest

    clips = embed_open_set(Swelling().eval(), corpus, split="test", query_seconds=(1,), progress=False)
    assert set(clips.speakers) == {"s02", "s05", "s08", "s11"}
    assert set(clips.embeddings) == {(condition, seconds) for condition in ("recorded", "changed I", "changed II")
                                     for seconds in (None, 1)}
    table = errors(clips, swelling_weights().calibration, seconds=1, num_tasks=300).set_index("condition")
    assert table.loc["recorded", "correct"] > 0.9 and table.loc["recorded", "false_acceptance"] < 0.1
    with pytest.raises(ValueError, match="'nobody', has 0 speakers"):
        embed_open_set(Swelling(), corpus, split="nobody", progress=False)


def test_at_most_so_many_utterances_of_each_speaker_are_taken_in_their_order():
    speakers = np.repeat(["a", "b", "c"], [2, 9, 5])
    places = at_most(speakers, 4, seed=1)
    assert pd.Series(speakers[places]).value_counts().to_dict() == {"a": 2, "b": 4, "c": 4}
    assert (np.diff(places) > 0).all() and places.tolist() == at_most(speakers, 4, seed=1).tolist()
    assert any(places.tolist() != at_most(speakers, 4, seed=seed).tolist() for seed in range(2, 5))
    assert at_most(speakers, None).tolist() == list(range(16))


@pytest.mark.slow
def test_accuracy_by_seconds_has_a_row_a_cell(corpus):
    table = accuracy_by_seconds(Swelling().eval(), corpus, enrolment_seconds=(1, 3), query_seconds=(0.5, 1), num_way=3,
                                num_query=2, num_tasks=40, progress=False)
    assert len(table) == 3 * 2 * 2 and table["accuracy"].between(0, 1).all()
    assert (table.loc[table["condition"] == "recorded", "accuracy"] > 0.9).all()
    assert (table.groupby(["enrolment_seconds", "query_seconds"])["episodes"].nunique() == 1).all()
    again = accuracy_by_seconds(Swelling().eval(), corpus, enrolment_seconds=(3,), query_seconds=(1,), num_way=3,
                                num_query=2, num_tasks=40, conditions={"recorded": ("recorded", "I")}, progress=False)
    cell = table[(table["condition"] == "recorded") & (table["enrolment_seconds"] == 3) & (table["query_seconds"] == 1)]
    assert cell["episodes"].item() == again["episodes"].item()
    assert cell["accuracy"].item() == again["accuracy"].item()

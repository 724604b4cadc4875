"""Ideas beside their controls: paired on the same tasks, over speakers and seeds, from run records alone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import PRETRAINING, PROTONET, SPEAKERS, autoencoder, protonet

from speakerlib.experiments import comparison, ideas
from speakerlib.experiments.comparison import compare, interval_over_speakers_and_seeds
from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.records import read_results, read_runs

SCRATCH, FROZEN = {"init": "scratch"}, {"frozen_blocks": 3}


def tried(**changed):
    """comparisons of what is in the data folder."""
    return comparison.comparisons(read_results(PROTONET), read_runs(PRETRAINING))


def line_of(lines, **where):
    for name, value in where.items():
        lines = lines[lines[name] == value]
    (line,) = lines.to_dict("records")
    return line


def test_the_difference_is_of_the_same_seeds_and_each_speaker_counts_once(data_folder):
    for seed in (0, 1, 2):
        protonet(seed=seed)
        protonet(seed=seed, init=autoencoder(seed=seed), gain=0.02 * seed, frozen_blocks=3)
    protonet(seed=3, init=autoencoder(seed=3), gain=0.9, frozen_blocks=3)  # no control of this seed: not compared
    results = read_results(PROTONET)
    lines = compare(results, FROZEN, SCRATCH)
    assert len(lines) == 2 * 3 and set(lines["num_way"]) == {5}
    assert lines["difference"].to_numpy() == pytest.approx(0.02) and set(lines["seeds"]) == {3}
    assert np.allclose(lines["method"] - lines["control"], lines["difference"])
    assert set(lines["speakers"]) == {len(SPEAKERS)}
    backwards = compare(results, SCRATCH, FROZEN)
    assert np.allclose(backwards["difference"], -lines["difference"])
    by_hand = [np.mean(list(row["by_speaker"].values())) for row in results.to_dict("records")
               if (row["condition"], row["num_way"], row["num_support"], row["init"]) == ("changed", 5, 1, "scratch")]
    assert line_of(lines, condition="changed", num_support=1)["control"] == pytest.approx(np.mean(by_hand))


def test_the_interval_holds_what_seeds_add_to_speakers(data_folder):
    """A gain that differs among seeds only: over speakers alone the interval would have no width."""
    for seed, gain in enumerate((0.0, 0.03, 0.06)):
        protonet(seed=seed)
        protonet(seed=seed, init=autoencoder(seed=seed), gain=gain)
    line = compare(read_results(PROTONET), {"init": [autoencoder(seed=seed) for seed in range(3)]}, SCRATCH).iloc[0]
    assert line["low"] < 0.01 and line["high"] > 0.05 and line["difference"] == pytest.approx(0.03)


def test_other_tasks_other_speakers_and_doubled_runs_are_refused(data_folder):
    protonet()
    protonet(init=autoencoder(), episodes="others")
    results = read_results(PROTONET)
    with pytest.raises(ValueError, match="seed 0: runs .* met other tasks .*others-0-5-1 and tasks-0-5-1"):
        compare(results, {"init": autoencoder()}, SCRATCH)
    protonet(learning_rate=0.01)
    with pytest.raises(ValueError, match="both fill recorded, 5-way 1-shot.* of seed 0"):
        compare(read_results(PROTONET), SCRATCH, {"init": autoencoder()})


def test_nothing_to_compare_says_what_is_there(data_folder):
    protonet(seed=0)
    protonet(seed=1, frozen_blocks=3, init="x")
    protonet(seed=2, by_speaker=False, layer_decay=0.5, init="x")
    results = read_results(PROTONET)
    with pytest.raises(ValueError, match="the method has seeds 1, the control 0"):
        compare(results, FROZEN, SCRATCH)
    with pytest.raises(ValueError, match="no cell of a common seed with accuracies by speaker"):
        compare(results, {"layer_decay": 0.5}, {"layer_decay": 0.5})
    with pytest.raises(ValueError, match="method: results have no column 'frozen'"):
        compare(results, {"frozen": 3}, SCRATCH)
    with pytest.raises(ValueError, match="control: no row of the results has"):
        compare(results, FROZEN, {"init": "nothing"})


@given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 2**16), st.floats(-0.5, 0.5))
def test_the_bootstrap_moves_with_its_values_and_holds_their_mean(seeds, speakers, draw, shift):
    values = np.random.default_rng(draw).standard_normal((seeds, speakers))
    low, high = interval_over_speakers_and_seeds(values, draws=500)
    assert low <= values.mean() + 0.2 and high >= values.mean() - 0.2 and low <= high
    assert interval_over_speakers_and_seeds(values + shift, draws=500) == pytest.approx((low + shift, high + shift))


def test_the_bootstrap_has_the_width_that_theory_gives():
    """Independent values of one seed: the standard error of a mean; and a seed without some speakers is no hole."""
    values = np.random.default_rng(0).standard_normal((1, 400))
    low, high = interval_over_speakers_and_seeds(values)
    assert (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.1)
    holes = np.vstack([values, values])
    holes[0, :100] = np.nan
    assert np.all(np.isfinite(interval_over_speakers_and_seeds(holes)))


def test_a_control_shares_all_but_the_idea(data_folder):
    for labelled, accuracy in ((10, 0.5), (20, 0.6)):
        protonet(labelled_speakers=labelled, accuracy=accuracy)
        protonet(labelled_speakers=labelled, accuracy=accuracy, gain=0.05, init=autoencoder())
    protonet(labelled_speakers=10, augment="II", accuracy=0.8)
    protonet(labelled_speakers=10, augment="II", accuracy=0.8, gain=-0.1, init=autoencoder())
    protonet(labelled_speakers=20, num_train_iterations=400, init=autoencoder())  # no control that trained as long
    protonet(labelled_speakers=20, norm_statistics="unlabelled", accuracy=0.6, gain=0.01)  # an idea without pretraining
    lines, waiting = tried()
    changed = {"condition": "changed", "num_support": 1}
    plain = {"norm_statistics": "batch", **changed}
    for labelled in (10, 20):
        line = line_of(lines, labelled_speakers=labelled, augment="none", **plain)
        assert line["difference"] == pytest.approx(0.05) and not line["seen"]
    assert line_of(lines, augment="II", **plain)["difference"] == pytest.approx(-0.1)
    assert line_of(lines, pretrained=False, **changed)["difference"] == pytest.approx(0.01)
    assert len(waiting) == 1 and waiting["num_train_iterations"].item() == 400
    assert "20 labelled speakers, seeds 0" in comparison.what_is_missing(lines, waiting, "demo")


def test_channels_met_before_the_test_are_marked_as_no_evidence(data_folder):
    for seed in (0, 1, 2):
        for augment in ("I", "II"):
            protonet(seed=seed, augment=augment)
            protonet(seed=seed, augment=augment, init=autoencoder(seed=seed), gain=0.1)
            protonet(seed=seed, init=autoencoder(seed=seed, augment=augment), gain=0.1)
        protonet(seed=seed)
    lines, _ = tried()
    seen = lines[lines["seen"].astype(bool)]
    assert set(seen["condition"]) == {"changed"} and len(seen) == 2 * 3
    assert all("I" in pair for pair in zip(seen["augment"], seen["start_augment"]))
    ((_, table),) = comparison.help_tables(lines)
    assert table.loc["denoising channels I", "changed 1-shot"].endswith("★ †")
    assert table.loc["denoising channels I", "recorded 1-shot"].endswith("★")
    assert table.loc["denoising channels II", "changed 1-shot"].endswith("★")


def test_an_idea_is_also_held_against_a_longer_training_from_scratch(data_folder):
    for seed in (0, 1, 2):
        protonet(seed=seed)
        protonet(seed=seed, init=autoencoder(seed=seed), gain=0.05)
        protonet(seed=seed, num_train_iterations=900, test_interval=45, gain=0.04)
        protonet(seed=seed, num_train_iterations=900, test_interval=45, augment="II", gain=0.4)  # not all else is equal
        protonet(seed=seed, num_train_iterations=100, gain=0.3)  # not longer
        protonet(seed=seed, num_train_iterations=900, frozen_blocks=2, gain=0.3)  # an idea itself
    results, pretraining = read_results(PROTONET), read_runs(PRETRAINING)
    lines = comparison.against_longer(results, pretraining)
    assert set(lines["control_steps"]) == {900} and set(lines["num_train_iterations"]) == {200}
    assert lines["difference"].to_numpy() == pytest.approx(0.01) and len(lines) == 2 * 3
    ((caption, table),) = comparison.help_tables(lines)
    assert "Against 900 steps from scratch" in caption and list(table.index) == ["from scratch: accuracy",
                                                                                 "masked autoencoder"]
    assert tried()[0].query("num_train_iterations == 200")["difference"].to_numpy() == pytest.approx(0.05)


def test_two_seeds_reach_no_goal(data_folder):
    for seed in (0, 1):
        protonet(seed=seed)
        protonet(seed=seed, init=autoencoder(seed=seed), gain=0.2)
    ((_, table),) = comparison.help_tables(tried()[0])
    assert table.loc["masked autoencoder", "changed 1-shot"] == "+20.0 (+20.0 to +20.0)"


@pytest.mark.slow
def test_the_interval_of_three_seeds_holds_the_truth_about_as_often_as_its_docstring_says():
    """Simulated: 20 speakers; the deviations of speakers, seeds and the rest."""
    for speakers, seeds, rest, least in ((0.05, 0.02, 0.03, 0.87), (0.05, 0.0, 0.03, 0.90), (0.03, 0.03, 0.03, 0.80)):
        draw, hits = np.random.default_rng(0), 0
        for _ in range(400):
            values = (speakers * draw.standard_normal((1, 20)) + seeds * draw.standard_normal((3, 1))
                      + rest * draw.standard_normal((3, 20)))
            low, high = interval_over_speakers_and_seeds(values, draws=500)
            hits += low <= 0 <= high
        assert least < hits / 400 < 0.98


def test_the_table_has_a_readable_line_for_each_idea_under_its_control(data_folder):
    for seed in (0, 1, 2):
        for labelled in (0, 10):
            protonet(seed=seed, labelled_speakers=labelled)
            protonet(seed=seed, labelled_speakers=labelled, encoder="conv6", init=autoencoder(seed=seed), spread=0.3)
        more = {"seed": seed, "labelled_speakers": 10}
        denoising = autoencoder(seed=seed, target="mean_normalised", augment="II")
        protonet(**more, init=denoising, frozen_blocks=2, layer_decay=0.5, gain=0.05)
        protonet(**more, init=autoencoder(seed=seed, mask="patches", mask_ratio=0.6), gain=-0.05)
    lines, waiting = tried()
    (few, table), (every, _) = comparison.help_tables(lines)
    assert "with 10 training speakers labelled" in few and "with all training speakers labelled" in every
    assert waiting.empty and "has its control" in comparison.what_is_missing(lines, waiting, "demo")
    assert list(table.columns) == ["seeds", "recorded 1-shot", "recorded 5-shot", "changed 1-shot", "changed 5-shot"]
    denoising = "mean-normalised target, denoising channels II, first 2 blocks frozen, "
    denoising += "lower blocks slowed (×\N{NO-BREAK SPACE}0.5)"
    assert set(table.index) == {"from scratch: accuracy", "boxes 75 %", "patches 60 %", "boxes 75 %, " + denoising}
    assert table.index[0] == "from scratch: accuracy" and set(table["seeds"]) == {3}
    assert table.loc["boxes 75 %, " + denoising, "changed 1-shot"] == "+5.0 (+5.0 to +5.0) ★"
    assert table.loc["patches 60 %", "recorded 5-shot"] == "-5.0 (-5.0 to -5.0)"
    assert "★" not in table.loc["boxes 75 %", "changed 1-shot"]


def test_without_runs_of_ideas_the_sentence_says_how_to_make_them(data_folder):
    protonet()
    lines, waiting = tried()
    assert lines.empty and waiting.empty and comparison.help_tables(lines) == []
    assert "speakerlib sweep" in comparison.what_is_missing(lines, waiting, "demo")


def test_records_of_before_accuracies_by_speaker_are_left_out(data_folder):
    protonet(by_speaker=False)
    protonet(by_speaker=False, init=autoencoder())
    assert all(table.empty for table in tried())


def test_where_a_seed_was_tried_from_several_autoencoders_its_own_counts(data_folder):
    for seed in (0, 1):
        protonet(seed=seed)
        for source in (0, 1):
            protonet(seed=seed, init=autoencoder(seed=source), gain=0.05 if source == seed else 0.5)
    lines, _ = tried()
    assert lines["difference"].to_numpy() == pytest.approx(0.05) and set(lines["seeds"]) == {2}


def test_a_run_whose_autoencoder_is_gone_keeps_what_its_record_says(data_folder):
    run = protonet(init="gone")
    facts = {"run": "gone", "mask": "boxes", "mask_ratio": 0.75}
    run.write(init_weights=facts)
    rows = ideas.with_starts(read_results(PROTONET))
    assert set(rows["start_mask"]) == {"boxes"} and set(rows["start_target"]) == {"clip"} and rows["pretrained"].all()
    assert len(ideas.plain(read_results(PROTONET))) == 18
    run.write(init_weights={**facts, "augment": "II"})
    assert ideas.plain(read_results(PROTONET)).empty and ideas.plain(pd.DataFrame()).empty


def test_every_parameter_is_part_of_the_control_or_of_the_idea():
    """A parameter that came later and is in neither list would let runs be compared that differ in it."""
    pretraining = set(ideas.START) | {"front_end", "segment_seconds", "test_interval", "print_interval"}
    assert set(notebook_parameters(PRETRAINING)) == pretraining
    shared = {name.removeprefix("trained_") for name in ideas.BUDGET} - {"corpus_fingerprint", "synthetic"}
    own = {name for name in ideas.TREATMENT if not name.startswith("start_")} - {"pretrained"}
    assert set(notebook_parameters(PROTONET)) == shared | own | {"init", "seed", "print_interval", "num_processes"}
    assert {**notebook_parameters(PROTONET), **ideas.PLAIN} == notebook_parameters(PROTONET)
    assert {**notebook_parameters(PRETRAINING), **ideas.PLAIN_START} == notebook_parameters(PRETRAINING)

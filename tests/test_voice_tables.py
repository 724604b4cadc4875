"""Tables and pictures of chapter 10, from made-up results: what each step brought, what each training reaches."""

import numpy as np
import pandas as pd
import pytest

from speakerlib.experiments import result_tables, voice_ablation, voice_table, voice_tasks
from speakerlib.experiments.voice_table import seen_conditions
from speakerlib.views import voice as views
from speakerlib.views.results import table_figures

# What each step brought

BESIDE = (voice_ablation.LONGER, voice_ablation.SEVERAL, voice_ablation.TOGETHER, voice_ablation.MASKS)


def made_up_results(skip=(), seeds=(0, 1, 2), episodes="abc"):
    """Each step brings two points for speaker a and four for b, beside the steps too; the longest training six more."""
    rows, parameters = [], {}
    steps = {**voice_ablation.STEPS, voice_ablation.MASKS: {"spec_augment": True},
             voice_ablation.LONGER: {"num_train_iterations": 400, "spec_augment": False},
             voice_ablation.SEVERAL: {"asked": voice_tasks.WARPED},
             voice_ablation.TOGETHER: {"asked": voice_tasks.TRANSDUCTIVE}}
    for place, (step, changed) in enumerate(steps.items()):
        parameters = {"num_train_iterations": 100, "asked": voice_tasks.ONCE, **parameters, **changed}
        more = 0.06 if parameters["num_train_iterations"] == 400 else 0
        rows += [{**dict.fromkeys(voice_ablation.BUDGET, 1), **parameters, "seed": seed, "heard": "changed I",
                  "task": "5-way", "episodes": episodes if place < 5 else "abc",
                  "by_speaker": {"a": 0.5 + 0.02 * place + 0.01 * seed, "b": 0.5 + 0.04 * place + 0.01 * seed + more}}
                 for seed in seeds if step not in skip]
    return pd.DataFrame(rows)


def test_each_step_is_paired_with_the_one_before_it():
    lines = voice_ablation.ablation_lines(made_up_results())
    assert list(lines["step"]) == [*voice_ablation.STEPS, *BESIDE]
    assert list(lines["steps_trained"]) == [100] * len(voice_ablation.STEPS) + [400, 400, 400, 100]
    assert np.isnan(lines["difference"].iloc[0]) and set(lines["seeds"]) == {3} and set(lines["speakers"]) == {2}
    assert lines["accuracy"].iloc[0] == pytest.approx(0.51)
    each = dict(zip(lines["step"], lines["difference"]))
    assert [each.pop(voice_ablation.LONGER)] == pytest.approx([2 * 0.03 + 0.03])  # to the last step, not to the masks
    assert list(each.values())[1:] == pytest.approx([0.03] * (len(each) - 1))
    assert lines["difference_low"].iloc[1] == pytest.approx(0.02)
    table = voice_ablation.ablation_table(lines, "5-way")
    assert table.loc["+ mean removed", "changed I"] == "54.0; +3.0 (+2.0 to +4.0)"
    (axis,) = views.plot_ablation(lines, "5-way").axes
    told = [tick.get_text().replace("\n", " ") for tick in axis.get_xticklabels()]
    assert told[:-2] == list(lines["step"])[:-2] and told[-2:] == [
        f"{voice_ablation.TOGETHER} (400 steps)", f"{voice_ablation.MASKS} (100 steps)"]
    (recipe,) = [line for line in axis.get_lines() if line.get_linestyle() == "-" and line.get_marker() == "^"]
    assert len(recipe.get_xdata()) == len(told) - 2  # what was only tried is joined to nothing


def test_steps_that_were_not_run_are_left_out_and_other_tasks_are_refused():
    lines = voice_ablation.ablation_lines(made_up_results(skip=("+ speeds", *BESIDE)))
    assert "+ speeds" not in set(lines["step"]) and lines["difference"].iloc[3] == pytest.approx(0.06)
    few = made_up_results(skip=[*list(voice_ablation.STEPS)[1:], *BESIDE])
    assert voice_ablation.ablation_lines(few).empty
    with pytest.raises(ValueError, match=r"\+ pairs, changed I, 5-way: the step before met other tasks"):
        voice_ablation.ablation_lines(made_up_results(episodes="other"))


def test_there_is_no_table_where_nothing_was_run(data_folder):
    assert voice_ablation.read_ablation("voices").empty


# Pictures


def made_up_rows(ways=5):
    return [{"heard": heard, "task": task, "asked": way, "num_way": ways, "accuracy": value - less,
             "low": value - less - 0.02, "high": value - less + 0.03}
            for heard, value in (("recorded", 0.96), ("changed I", 0.8), ("changed II", 0.7))
            for task in ("5-way 1-shot, 3 s", "5-way 5-shot, 3 s")
            for way, less in ((voice_tasks.ONCE, 0.1), (voice_tasks.WARPED, 0))]


def test_a_family_that_was_heard_in_training_is_marked_in_table_and_picture():
    assert seen_conditions("none") == [] and seen_conditions("both") == ["changed I", "changed II"]
    assert seen_conditions("I") == ["changed I"] and seen_conditions("II") == ["changed II"]
    table = views.voice_table(made_up_rows(), "II")
    assert list(table) == ["recorded", "changed I", "changed II †"]
    assert table.loc[("5-way 1-shot, 3 s", voice_tasks.WARPED), "changed I"] == "80.0 (78.0 to 83.0)"
    assert views.voice_table(made_up_rows(3), "none").index[0][0] == "5-way 1-shot, 3 s (of 3 speakers only)"
    (axis,) = views.plot_voice_tasks(made_up_rows(), "II").axes
    assert axis.get_legend_handles_labels()[1] == ["recorded", "changed I", "changed II, heard in training"]
    heights = [container[0].get_ydata().tolist() for container in axis.containers]
    assert heights == [[96, 96], [80, 80], [70, 70]]


def test_the_picture_of_training_has_a_line_a_condition_and_marks_what_is_kept():
    history = pd.DataFrame({"step": [10, 20], "training_loss": [9, 6.0], "global_loss": [5, 4.0], "pair_loss": [4, 2.0],
                            "training_accuracy": [0.1, 0.2], "validation_accuracy": [0.7, 0.6],
                            "validation_accuracy_recorded": [0.9, 0.8], "validation_accuracy_changed_II": [0.5, 0.4]})
    loss, accuracy = views.plot_voice_training(history, "title").axes
    assert loss.get_legend_handles_labels()[1] == ["sum", "global", "pair"]
    assert accuracy.get_legend_handles_labels()[1] == [
        "training, its own voices", "validation, recorded", "validation, changed II", "kept: mean 70.0 % at step 10"]
    alone = history.drop(columns="pair_loss").iloc[:1]
    assert len(views.plot_voice_training(alone).axes[0].lines) == 1
    assert views.plot_voice_training(history.loc[:0, ["step", "training_loss"]])  # the first report of a live curve


# What each training reaches


def made_up_trainings(augments=("both", "II", "I"), seeds=(0, 1, 2)):
    kept = {name: 1 for name in ("num_copies", "width", "batch_size", "learning_rate", "corpus_fingerprint")}
    return pd.DataFrame([
        {**kept, "corpus": "voices", "front_end": "compact", "speed_perturbation": True, "spec_augment": False,
         "pooling": "attentive", "loss_type": "am_softmax", "use_pairs": True, "test_tasks": 50, "augment": augment,
         "num_train_iterations": steps, "seed": seed, "run": f"{augment}{seed}{steps}", "heard": heard, "task": task,
         "wall_seconds": 60.0, "commit": "abc", "synthetic": True,
         "asked": way, "by_speaker": {"a": more + steps / 1000, "b": more + 0.2 + steps / 1000}}
        for way, more in ((voice_tasks.ONCE, 0.3), (voice_tasks.WARPED, 0.5))
        for augment in augments for seed in seeds for steps in (100, 200)
        for heard in voice_tasks.CONDITIONS for task in voice_tasks.TASKS])


def test_of_each_training_the_longest_is_told_with_what_is_no_evidence():
    ((recipe, lines, rows),) = voice_table.voice_grids(made_up_trainings())
    assert set(rows["num_train_iterations"]) == {200} and set(lines["seeds"]) == {3}
    assert lines["accuracy"].to_numpy() == pytest.approx(0.8) and (lines["low"] < lines["high"]).all()
    table = voice_table.voice_table(lines, reference=True)
    assert list(table.index[:6]) == [
        "both families: recorded", "both families: changed I †", "both families: changed II †",
        "family II alone: recorded", "family II alone: changed I", "family II alone: changed II †"]
    assert table.index.is_unique
    assert (table["5-way 1-shot, 3 s"].str[:4] == "80.0").sum() == 9 and table.iloc[-1, -1] == "not run"
    assert voice_table.voice_caption(recipe, rows).startswith(
        "The voice, not the microphone: voices (synthetic speech), trained 200 steps of 1 clips")
    assert ", an encoder 2 times as wide, trained" in voice_table.voice_caption({**recipe, "width": 2.0}, rows)
    assert voice_table.voice_grids(made_up_trainings(("II", "none"))) == [] == voice_table.voice_grids(pd.DataFrame())
    axes = views.plot_trainings(lines).axes
    assert [axis.get_title(loc="left") or axis.get_title() for axis in axes] == list(voice_tasks.TASKS)
    shades = [line.get_markerfacecolor() for line in axes[0].get_lines() if line.get_marker() in "os^D" and
              len(line.get_xdata()) == 1]
    assert sum(shade == "white" for shade in shades) == 4  # both: two, each family: its own


def test_the_tables_of_chapter_10_are_found_by_name(data_folder, monkeypatch):
    (absent,) = result_tables.result_tables("voice", "voices")
    assert "speakerlib sweep voice --corpus voices" in absent.missing and absent.table.empty
    (absent,) = result_tables.result_tables("voice_steps")
    assert "speakerlib sweep voice_ablation --corpus demo" in absent.missing
    monkeypatch.setattr(result_tables, "read_results", lambda notebook, corpus=None: made_up_trainings(("both", "I")))
    (found,) = result_tables.result_tables("voice", "voices")
    assert found.missing.startswith("Missing: trained through family II alone. Fill them: speakerlib sweep voice")
    assert set(table_figures(found)) == {""} and "80.0" in found.markdown
    trained = pd.concat([made_up_trainings(), made_up_trainings(("both",)).assign(width=2.0)])
    monkeypatch.setattr(result_tables, "read_results", lambda notebook, corpus=None: trained)
    narrow, wide = result_tables.result_tables("voice", "voices")
    assert "2 times as wide" in wide.caption and "pretrained" in narrow.markdown and "pretrained" not in wide.markdown
    assert set(table_figures(wide)) == {"_2"}  # a picture of its own beside that of the first

"""Work B's claim from records: exact differences, nothing apart by chance, nothing compared that differs elsewhere."""

import pandas as pd
import pytest
from made_up_runs import judged

from speakerlib.experiments.objective_table import (
    difference_table,
    error_panels,
    objective_grids,
    paired_lines,
    value_table,
)
from speakerlib.experiments.records import read_runs
from speakerlib.experiments.result_tables import result_tables, write_tables
from speakerlib.views.results import table_figures

SOFTMAX = {"loss_type": "softmax"}
PLAIN = {"loss_type": "prototypical", "use_global_classification": False}
BOTH = {"loss_type": "prototypical", "use_global_classification": True}


def lines():
    ((_, found, _),) = objective_grids(read_runs())
    return found


def test_values_are_means_over_seeds_and_the_best_is_starred(data_folder):
    for seed, more in enumerate((0.0, 0.03, 0.06)):
        judged(accuracy=0.7 + more, eer=0.2 - more, trained_seed=seed, **SOFTMAX)
        judged(accuracy=0.6 + more, eer=0.1 - more, trained_seed=seed, **BOTH)
    judged(accuracy=0.05, eer=0.5)
    table = value_table(lines())
    assert list(table.columns) == ["seeds", "accuracy, 1 s", "accuracy, 2 s", "EER, 1 s", "EER, 2 s"]
    assert [name for name in table.index if name.startswith("recorded")] == [
        "recorded: softmax", "recorded: prototypical + global", "recorded: untrained"]
    assert table.loc["recorded: softmax", "accuracy, 1 s"].startswith("75.0 (")  # 70 + 3 + 100 / 5000
    assert table.loc["recorded: softmax", "accuracy, 1 s"].endswith("★")
    assert table.loc["recorded: prototypical + global", "EER, 2 s"].startswith("7.0 (")
    assert table.loc["recorded: prototypical + global", "EER, 2 s"].endswith("★")
    assert table.loc["changed: untrained", "seeds"] == "1"


def test_a_difference_is_that_of_the_means_and_is_judged_by_what_is_wanted(data_folder):
    for seed in range(3):
        judged(accuracy=0.7, eer=0.2, trained_seed=seed, **SOFTMAX)
        judged(accuracy=0.75, eer=0.18, trained_seed=seed, **BOTH)
    table = difference_table(lines())
    line = table.loc["changed: prototypical + global less softmax"]
    assert line["accuracy, 1 s"] == "+5.0 (+5.0 to +5.0) better" and line["EER, 2 s"] == "-2.0 (-2.0 to -2.0) better"
    back = paired_lines(lines(), "softmax", "prototypical + global")
    assert set(back["better"]) == {False} and set(back["seeds"]) == {3}
    assert len(back) == 2 * (4 + 3)  # conditions x lengths, those of whole utterances too


def test_each_pair_is_told_once_and_an_untrained_encoder_is_no_control(data_folder):
    for objective in (SOFTMAX, PLAIN, BOTH, {}):
        judged(**objective)
    assert [name.partition(": ")[2] for name in difference_table(lines()).index[:3]] == [
        "prototypical + global less softmax", "prototypical + global less prototypical", "prototypical less softmax"]


def test_what_differs_by_chance_is_not_told_apart(data_folder):
    for seed in range(3):
        judged(trained_seed=seed, spread=0.1, **SOFTMAX)
        judged(trained_seed=seed, spread=0.1, **BOTH)
    found = paired_lines(lines(), "prototypical + global", "softmax")
    assert set(found["better"]) == {None}
    assert (found["low"] < 0).all() and (found["high"] > 0).all() and (found["difference"].abs() < 1e-12).all()


def test_only_common_seeds_are_paired(data_folder):
    for seed in (0, 1, 2):
        judged(accuracy=0.7 + 0.1 * seed, trained_seed=seed, **SOFTMAX)
    judged(accuracy=0.7, trained_seed=1, **BOTH)
    judged(accuracy=0.9, trained_seed=5, **PLAIN)
    found = paired_lines(lines(), "prototypical + global", "softmax").query("task == 'identification'")
    assert set(found["seeds"]) == {1} and found["difference"].round(9).eq(-0.1).all()
    assert paired_lines(lines(), "prototypical", "softmax").empty and paired_lines(lines(), "nothing", "softmax").empty
    assert list(difference_table(lines()).index) == [
        f"{condition}: prototypical + global less softmax" for condition in ("recorded", "changed")]


def test_other_recipes_are_other_tables_and_other_trials_are_refused(data_folder):
    judged(**SOFTMAX)
    judged(training={"augment": "II"}, **SOFTMAX)
    assert len(objective_grids(read_runs())) == 2
    judged(trial_list="bbbb", **BOTH)
    with pytest.raises(ValueError, match="list"):
        objective_grids(read_runs())


def test_errors_by_length_are_what_is_left_of_accuracies(data_folder):
    judged(accuracy=0.7, spread=0.1, **SOFTMAX)
    panels = error_panels(lines(), "identification")
    assert list(panels) == ["recorded", "changed"] and list(panels["recorded"]["softmax"]) == [0.5, 1, 2, 3]
    error, low, high = panels["recorded"]["softmax"][1]
    assert error == pytest.approx(0.28) and low < error < high
    assert list(error_panels(lines(), "verification")["changed"]["softmax"]) == [1, 2, None]


def test_the_table_has_its_pictures_and_says_what_is_missing(data_folder):
    judged(**SOFTMAX)
    (table,) = result_tables("objectives", "demo")
    assert "Missing: prototypical, prototypical + global" in table.missing
    assert "speakerlib sweep short_utterances --corpus demo" in table.missing
    figures = table_figures(table)
    assert [name.split("_")[1] for name in figures] == ["identification", "verification"]
    for figure in figures.values():
        assert [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes] == ["recorded", "changed"]
        assert "untrained" not in figure.axes[0].get_legend_handles_labels()[1]


def test_the_numbers_are_written_without_what_they_were_made_of(data_folder, tmp_path):
    judged(**SOFTMAX)
    write_tables(result_tables("objectives", "demo"), tmp_path)
    numbers = pd.read_csv(tmp_path / "objectives_1.csv")
    assert len(numbers) == 2 * (4 + 3) and not {"shares", "pairs"} & set(numbers)


def test_without_runs_the_table_says_how_to_have_them(data_folder):
    (table,) = result_tables("objectives", "so762")
    assert "speakerlib sweep short_utterances --corpus so762" in table.missing

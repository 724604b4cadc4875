"""`speakerlib table`: every table of both works from run records, what is missing, and that nothing is mixed."""

import re

import numpy as np
import pandas as pd
import pytest
from made_up_runs import autoencoder, judged, protonet
from scipy.stats import t as student

from speakerlib.cli import main
from speakerlib.experiments import error_tables, nine_cell_table, tables
from speakerlib.experiments.latex import escape, latex
from speakerlib.experiments.parameters import parse_value
from speakerlib.experiments.records import read_results, read_runs
from speakerlib.experiments.result_tables import TABLES, list_tables, one_table, result_tables, sweep_command
from speakerlib.views.results import table_figures

PROTONET = "05_protonet_training"
CELLS = [(way, shot) for shot in (1, 5, 10) for way in (3, 5, 10)]


def networks(cells, seeds=(0, 1, 2), **changed):
    for seed in seeds:
        for way, shot in cells:
            protonet(num_way=way, num_support=shot, seed=seed, **changed)


SOFTMAX = {"loss_type": "softmax"}
GLOBAL = {"loss_type": "prototypical", "use_global_classification": True}


def test_nine_networks_of_three_seeds_are_one_table(data_folder):
    networks(CELLS)
    (found,) = result_tables("nine_cells")
    assert found.missing == "" and "not run" not in found.table.to_string()
    rows = read_results(PROTONET).query("num_way == trained_num_way == 5 and num_support == trained_num_support == 1")
    values = rows.loc[rows["condition"] == "changed", "accuracy"]
    half = student.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert found.table.loc["5-way 1-shot", "changed"] == f"{100 * values.mean():.1f} ± {100 * half:.1f}"
    assert found.table.loc["3-way 10-shot", "published (VoxCeleb1)"] == "96.5 ± 0.1 ★"
    for condition in ("recorded", "changed"):
        column = found.table[condition]
        best = column.str.split(" ").str[0].astype(float).idxmax()
        assert [cell for cell in column.index if "★" in column[cell]] == [best]
    assert "over seeds" in found.caption and "27 runs, " in found.caption and " hours, commit " in found.caption
    assert "seeds 0 1 2" in found.caption


def test_the_network_of_one_cell_is_another_table_and_its_runs_are_counted_once(data_folder):
    networks(CELLS, seeds=(0,))
    (cells,), (one,) = result_tables("nine_cells"), result_tables("one_network")
    assert "9 runs" in cells.caption and "1 run, " in one.caption
    assert cells.caption.startswith("One network a cell") and one.caption.startswith("One network, trained 5-way")
    assert "interval over tasks (one seed)" in one.caption
    assert cells.table.loc["5-way 5-shot"].equals(one.table.loc["5-way 5-shot"].rename("5-way 5-shot"))


def test_a_missing_cell_is_named_and_so_is_the_command_that_fills_it(data_folder):
    networks([cell for cell in CELLS if cell != (10, 1)], num_train_iterations=300, num_query=5)
    protonet(num_way=10, num_support=1, seed=1, num_train_iterations=300, num_query=5)
    protonet(num_way=10, num_support=1, seed=2, num_train_iterations=300, num_query=5)
    found = one_table("nine_cells")
    assert found.table.loc["10-way 1-shot", "recorded"].endswith("(2 seeds)")
    assert "seeds where there are several" not in found.caption
    assert "Missing, or of fewer seeds: 10-way 1-shot." in found.missing
    given = dict(re.findall(r"-p (\w+) (\S+)", found.missing.splitlines()[0]))
    assert given == {"num_train_iterations": "300", "num_query": "5"}
    assert "speakerlib sweep protonet_table --corpus demo" in found.missing
    one = {name: parse_value(value) for name, value in re.findall(r"-p (\w+) (\S+)", found.missing.splitlines()[1])}
    assert one == {"corpus": "demo", "num_way": 10, "num_support": 1, "num_query": 5, "num_train_iterations": 300,
                   "seed": 0}


def test_one_seed_among_several_says_so(data_folder):
    networks(CELLS[:2])
    networks(CELLS[2:3], seeds=(0,))
    found = one_table("nine_cells")
    assert found.table.loc["10-way 1-shot", "recorded"].endswith("(1 seed)")
    assert found.table.loc["3-way 5-shot", "recorded"] == "not run" and "3-way 5-shot" in found.missing
    assert "over seeds where there are several, else over tasks" in found.caption


@pytest.mark.parametrize("changed", [{"protocol": "as_published"}, {"front_end": "boccio", "segment_seconds": 3.0},
                                     {"segment_seconds": 2.0}, {"num_train_iterations": 50}, {"batch_size": 4}])
def test_what_cannot_be_compared_is_in_tables_of_its_own(data_folder, changed):
    protonet(accuracy=0.6)
    protonet(accuracy=0.4, **changed)
    assert len(result_tables("one_network")) == 2
    with pytest.raises(ValueError, match="cannot be mixed"):
        one_table("one_network")
    name, value = next(iter(changed.items()))
    found = one_table("one_network", **{name: value})
    assert found.table.loc["5-way 5-shot", "recorded"].startswith(("48", "47", "46", "43", "44", "45"))
    with pytest.raises(ValueError, match=f"{name}: .*-p {name} "):
        tables.require_one(read_results(PROTONET), [name])


def test_two_versions_of_a_cell_are_not_averaged_and_commits_are_told(data_folder):
    first = protonet(accuracy=0.3)
    first.write(commit="1" * 12, finished="2024-01-01 00:00:00", parameters={
        name: value for name, value in first.record["parameters"].items() if name != "augment"})
    second = protonet(accuracy=0.6, print_interval=7)  # the same recipe, in another folder
    second.write(commit="2" * 12, finished="2025-01-01 00:00:00")
    found = one_table("one_network")
    again = one_table("one_network", commit="2" * 12)
    assert found.table.equals(again.table) and "1 run" in found.caption and "commit 222222222222" in found.caption
    assert "111111111111" not in found.caption
    protonet(accuracy=0.6, seed=1).write(commit="3" * 12)
    assert "of 2 commits: 222222222222 (1), 333333333333 (1)" in one_table("one_network").caption


def test_starts_of_several_seeds_are_one_table_and_never_that_from_scratch(data_folder):
    for seed in (0, 1):
        protonet(seed=seed)
        protonet(seed=seed, init=autoencoder(seed=seed), gain=0.1)
    grids = nine_cell_table.nine_cell_grids(read_results(PROTONET), read_runs("04_mae_pretraining"))
    starts = {recipe["init"]: recipe["seeds"] for _, recipe, _, _ in grids}
    assert starts == {"scratch": [0, 1], "2 autoencoders (boxes 75 %; 600 steps of 16 clips)": [0, 1]}


def test_without_runs_every_table_says_what_to_run(data_folder):
    for name in TABLES:
        (found,) = result_tables(name, "people")
        assert "speakerlib " in found.missing and "people" in found.missing, name
        assert table_figures(found) == {}
        assert "published" in found.table.to_string() or name in ("pretraining", "objectives", "voice", "voice_steps")
    assert list_tables()["runs"].str.contains("none yet").all()


def test_masks_count_the_autoencoders_too(data_folder):
    for mask in ("strips", "boxes"):
        protonet(init=autoencoder(mask=mask, mask_ratio=0.75))
    protonet()
    found = one_table("masks")
    assert "; 5 runs, " in found.caption and "not run" in found.table.to_string() and "mae_table" in found.missing


def test_verification_stands_beside_the_published(data_folder):
    for seed in (0, 1, 2):
        judged(eer=0.10 + 0.01 * seed, trained_seed=seed, **SOFTMAX)
        judged(eer=0.08, trained_seed=seed, **GLOBAL)
    judged()
    found = one_table("verification")
    table = found.table
    assert table.loc["published: Kye et al. 2020, trained on VoxCeleb2 (37,720 trials of VoxCeleb1)",
                     "recorded, whole"] == "2.08"
    assert table.iloc[0]["recorded, 1 s"] == "not transcribed"
    half = 100 * student.ppf(0.975, 2) * 0.01 / np.sqrt(3)
    assert table.loc["softmax, cosine", "recorded, whole"] == f"11.0 ({11 - half:.1f} to {11 + half:.1f})"
    assert table.loc["prototypical + global, s-norm", "changed, 1 s"] == "28.0 (28.0 to 28.0) ★"
    assert table.loc["untrained, cosine", "recorded, 2 s"] == "10.0 (8.0 to 12.0) (1 seed)"
    assert (table.loc["prototypical, cosine"] == "not run").all() and "Missing: prototypical." in found.missing
    assert found.missing.endswith("speakerlib sweep short_utterances --corpus demo -p num_train_iterations 60 "
                                  "-p test_interval 20 -p trials_per_speaker 20 -p test_tasks 200")
    assert "800 trials" in found.caption and "7 runs" in found.caption and "synthetic speech" in found.caption


def test_identification_stars_the_highest(data_folder):
    judged(accuracy=0.7, **SOFTMAX)
    judged(accuracy=0.8, **GLOBAL)
    table = one_table("identification").table
    assert table.loc["prototypical + global, cosine", "recorded, 1 s"] == "82.0 (79.0 to 85.0) ★"
    assert table.loc["softmax, cosine", "recorded, 1 s"] == "72.0 (69.0 to 75.0)"
    assert (table.iloc[0][["recorded, 1 s", "recorded, 3 s"]] == "not transcribed").all()


def test_other_trainings_are_other_tables_and_other_trials_are_refused(data_folder):
    judged(**SOFTMAX)
    judged(training={"num_train_iterations": 600}, **GLOBAL)
    assert len(result_tables("verification")) == 2
    judged(run_seed=1, **SOFTMAX)
    assert len(result_tables("verification")) == 3
    judged(trial_list="bbbb", **GLOBAL)
    with pytest.raises(ValueError, match="would mix runs that cannot be compared"):
        result_tables("verification")


def test_pictures_show_what_the_tables_do(data_folder):
    networks(CELLS[:8], seeds=(0,))
    judged(**SOFTMAX)
    judged(**GLOBAL)
    (figure,) = table_figures(one_table("nine_cells")).values()
    shown = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert len(shown) == 27 and shown.count("not run") == 2 and "91.7\n± 0.2" in shown
    (figure,) = table_figures(one_table("verification")).values()
    assert [axis.get_title() + axis.get_title(loc="left") for axis in figure.axes] == ["recorded", "changed"]
    legend = {text.get_text() for text in figure.axes[-1].get_legend().get_texts()}
    assert legend == {"softmax", "prototypical + global"}


@pytest.mark.slow
def test_latex_is_escaped_and_well_formed(data_folder):
    networks(CELLS, seeds=(0,))
    judged(**GLOBAL)
    for name in TABLES:
        for number, table in enumerate(result_tables(name), 1):
            text = table.latex(number)
            body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
            assert not re.search(r"(?<!\\)[#_]|[±★†]", body.replace(r"\label", "")), name
            assert re.findall(r"\\begin\{(\w+)\}", body) == re.findall(r"\\end\{(\w+)\}", body)[::-1]
            plain = re.sub(r"\\[{}]", "", body)
            assert plain.count("{") == plain.count("}")
            columns = len(re.search(r"\\begin\{tabular\}\{(l?r*)\}", body).group(1))
            rows = body.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
            rows = [line for line in rows.splitlines() if line.endswith(r"\\")]
            assert len(rows) == 1 + len(table.table)
            assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}


def test_latex_of_awkward_text():
    assert escape("50 % of a_b & {c} #1 ~ ^ \\ $") == (
        r"50 \% of a\_b \& \{c\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{} \$")
    assert escape("-3.5 (-4.0 to +1.2) ★") == r"$-$3.5 ($-$4.0 to $+$1.2) $\star$"
    assert escape("num-way 1.5-2") == "num-way 1.5-2"
    assert "\\label{tab:a-b-1}" in latex("x", pd.DataFrame({"value": ["1"]}, index=["a"]), "a_b-1")


@pytest.mark.slow
def test_the_command_prints_and_writes(data_folder, tmp_path, capsys):
    networks(CELLS, seeds=(0,))
    assert main(["table"]) == 0
    assert "nine_cells" in (listed := capsys.readouterr().out) and "demo: 9" in listed
    assert main(["table", "nine_cells", "--markdown"]) == 0
    assert "| 5-way 5-shot | 91.7 ± 0.2 |" in capsys.readouterr().out
    assert main(["table", "nine_cells", "--latex", "-p", "protocol", "corrected"]) == 0
    assert capsys.readouterr().out.startswith("% In the preamble")
    assert main(["table", "nine_cells", "--output", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "nine_cells.md", "nine_cells.tex", "nine_cells_1.csv", "nine_cells_1.png", "nine_cells_1.pdf"}


@pytest.mark.parametrize("arguments, told", [
    (["nine_cell"], "did you mean 'nine_cells'"),
    (["one_network", "-p", "front_ends", "x"], "did you mean 'front_end'"),
    (["one_network", "-p", "protocol", "x"], "There are: corrected"), (["--latex"], "which table")])
def test_the_command_refuses_with_what_there_is(data_folder, capsys, arguments, told):
    protonet()
    assert main(["table", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_the_commands_that_fill_tables_name_steps_and_parameters_that_exist(data_folder):
    assert sweep_command("protonet_table", "a_cell", "my corpus", {"learning_rate": 0.001, "num_query": 15}) == (
        "speakerlib sweep protonet_table --corpus 'my corpus' -p num_query 15")
    assert sweep_command("short_utterances", "train", "demo", {"augment": "I", "width": 1.0}) == (
        "speakerlib sweep short_utterances --corpus demo -p width 1.0")


def test_errors_over_seeds_stay_between_0_and_1(data_folder):
    for seed, eer in enumerate((0.0, 0.3, 0.6)):
        judged(eer=eer, trained_seed=seed, **SOFTMAX)
    ((_, cells, _),) = error_tables.error_grids(read_runs(), "verification")
    assert cells["low"].min() >= 0 and cells["high"].max() <= 1

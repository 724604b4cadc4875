"""Sweep files: every run is known and checked before the first one starts."""

from itertools import product
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speakerlib.experiments import sweep_files
from speakerlib.experiments.sweep_files import read_sweep, sweep_path
from speakerlib.experiments.workbook import place_of

AUTOENCODER, PROTONET = "04_mae_pretraining", "05_protonet_training"


@pytest.fixture(autouse=True)
def corpora(data_folder, monkeypatch):
    """Corpora that need no files."""
    monkeypatch.setattr(sweep_files, "find_corpus", find)


def find(name):
    return SimpleNamespace(name=name, fingerprint="aaaa")


@pytest.fixture
def read(tmp_path):
    """Reads a sweep of these steps, or of a text."""
    def function(steps, **options):
        content = {"corpus": "people", "steps": steps}
        text = steps if isinstance(steps, str) else yaml.safe_dump(content, sort_keys=False)
        (tmp_path / "some.yaml").write_text(text)
        return read_sweep(tmp_path / "some.yaml", **options)
    return function


def pretrain(**grid):
    return {"notebook": AUTOENCODER, "grid": grid}


def test_a_grid_is_every_combination_and_a_run_is_where_the_notebook_would_put_it(read):
    grid = {"num_way": [3, 5], "seed": [0, 1]}
    sweep = read({"train": {"notebook": PROTONET, "with": {"num_query": 5}, "grid": grid}})
    assert [run.name for run in sweep.runs] == [f"train num_way={way} seed={seed}" for way in (3, 5) for seed in (0, 1)]
    assert len({run.folder for run in sweep.runs}) == 4 and all(run.needs is None for run in sweep.runs)
    _, parameters, folder = place_of(PROTONET, {"corpus": "people", "num_query": 5, "num_way": 3, "seed": 1}, find)
    assert sweep.runs[1].folder == folder and sweep.runs[1].parameters == parameters


def test_cases_are_crossed_with_the_grid_and_start_from_the_run_of_the_same_seed(read):
    sweep = read({
        "masked": pretrain(seed=[0, 1]),
        "transfer": {"notebook": PROTONET, "grid": {"num_support": [1, 5], "seed": [0, 1]},
                     "list": [{"name": "scratch"}, {"name": "masked", "init": "masked"},
                              {"name": "slow", "init": "masked", "learning_rate": 1e-4}]}})
    assert len(sweep.runs) == 2 + 4 * 3
    seeds = {run.folder: run.parameters["seed"] for run in sweep.runs}
    for run in sweep.runs[2:]:
        if run.case == "scratch":
            assert run.parameters["init"] == "scratch" and run.needs is None
        else:
            assert run.parameters["init"] == run.needs.name and seeds[run.needs] == run.parameters["seed"]
    assert {run.parameters["learning_rate"] for run in sweep.runs if run.case == "slow"} == {1e-4}


def test_what_only_the_earlier_step_varies_is_crossed(read):
    sweep = read({"masked": pretrain(mask=["strips", "boxes"], mask_ratio=[0.55, 0.75], seed=[0, 1]),
                  "transfer": {"notebook": PROTONET, "init": "masked", "grid": {"seed": [1]}}})
    names = [run.name for run in sweep.runs if run.step == "transfer"]
    assert names == [f"transfer mask={mask} mask_ratio={ratio} seed=1" for mask in ("strips", "boxes")
                     for ratio in (0.55, 0.75)]


def test_some_runs_of_a_step_can_be_chosen(read):
    cases = [{"name": "a", "mask": "strips"}, {"name": "b", "mask": "boxes"}, {"name": "c", "mask": "patches"}]
    steps = {"masked": {"notebook": AUTOENCODER, "list": cases}}
    one = read({**steps, "transfer": {"notebook": PROTONET, "init": {"step": "masked", "name": "b"}}}).runs[-1]
    assert one.needs.name in one.parameters["init"] and one.varied["mask"] == "boxes"
    two = read({**steps, "transfer": {"notebook": PROTONET, "init": {"step": "masked", "mask": ["strips", "boxes"]}}})
    assert [run.varied["mask"] for run in two.runs[3:]] == ["strips", "boxes"]
    assert [run.name for run in two.runs[3:]] == ["transfer from a", "transfer from b"]


def test_a_named_case_need_not_agree_on_what_both_steps_vary(read):
    sweep = read({"masked": {"notebook": AUTOENCODER, "list": [{"name": "a", "learning_rate": 0.005}],
                             "grid": {"seed": [0, 1]}},
                  "transfer": {"notebook": PROTONET, "init": {"step": "masked", "name": "a"}, "grid": {"seed": [1]},
                               "list": [{"name": "b", "learning_rate": 0.001}]}})
    assert [run.needs for run in sweep.runs[2:]] == [sweep.runs[1].folder]


def test_a_name_says_what_the_case_does_not(read):
    cases = [{"name": "wide", "num_way": 10}, {"name": "deep", "num_support": 5}, {"name": "deep", "num_support": 10}]
    runs = read({"t": {"notebook": PROTONET, "list": cases, "grid": {"seed": [3]}}}).runs
    assert runs[0].name == "t wide seed=3"
    assert [run.name for run in runs[1:]] == [f"t deep seed=3 num_way=5 num_support={shots}" for shots in (5, 10)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds=st.sets(st.integers(0, 5), min_size=1), more=st.sets(st.integers(0, 5)),
       ratios=st.sets(st.sampled_from([0.55, 0.65, 0.75]), min_size=1), shots=st.sets(st.integers(1, 9), min_size=1))
def test_every_run_has_exactly_the_weights_that_agree_with_it(read, seeds, more, ratios, shots):
    earlier, later = sorted(seeds | more), sorted(seeds)
    sweep = read({"masked": pretrain(seed=earlier, mask_ratio=sorted(ratios)),
                  "transfer": {"notebook": PROTONET, "init": "masked",
                               "grid": {"seed": later, "num_support": sorted(shots)}}})
    there = {run.folder: run for run in sweep.runs if run.step == "masked"}
    found = {(run.parameters["seed"], run.parameters["num_support"], there[run.needs].parameters["mask_ratio"])
             for run in sweep.runs if run.step == "transfer"}
    assert found == set(product(later, shots, ratios)) and len(sweep.runs) == len(found) + len(there)
    assert all(there[run.needs].parameters["seed"] == run.parameters["seed"] for run in sweep.runs if run.needs)
    assert len({run.name for run in sweep.runs}) == len({run.folder for run in sweep.runs}) == len(sweep.runs)


def test_numbers_are_what_the_notebook_would_read(read):
    text = f"corpus: people\nsteps: {{t: {{notebook: {PROTONET}, with: {{learning_rate: 1e-3, segment_seconds: 3}}}}}}"
    parameters = read(text).runs[0].parameters
    assert parameters["learning_rate"] == 1e-3
    assert parameters["segment_seconds"] == 3.0 and isinstance(parameters["segment_seconds"], float)


def test_a_run_that_two_steps_name_is_there_once(read):
    step = {"notebook": PROTONET, "grid": {"num_way": [3, 5]}}
    assert len(read({"one": step, "two": {**step, "grid": {"num_way": [5, 10]}}}).runs) == 3


@pytest.mark.parametrize(("steps", "said"), [
    ({"t": {"notebook": PROTONET, "grid": {"num_wey": [3]}}}, "step 't'.*'num_wey'.*did you mean 'num_way'"),
    ({"t": {"notebook": PROTONET, "grid": {"num_way": [3, 1]}}}, "step 't': num_way=1: expected a whole number"),
    ({"t": {"notebook": PROTONET, "list": [{"num_way": "three"}]}}, "step 't': num_way='three'"),
    ({"t": {"notebook": PROTONET, "with": {"num_way": 3}, "grid": {"num_way": [5]}}}, "step 't'.*'num_way'"),
    ({"t": {"notebook": PROTONET, "list": [{"num_way": 3}], "grid": {"num_way": [5]}}}, "step 't'.*'num_way'"),
    ({"t": {"notebook": PROTONET, "grid": {"num_way": 5}}}, "step 't'.*num_way=5: expected a list"),
    ({"t": {"notebook": PROTONET, "grid": {"num_way": [5, 5]}}}, "num_way=.*twice"),
    ({"t": {"notebook": PROTONET, "grids": {}}}, "step 't'.*'grids'; did you mean 'grid'"),
    ({"t": {"with": {}}}, "step 't'.*lacks 'notebook'"),
    ({"t": {"notebook": PROTONET, "init": "t"}}, "step 't'.*init='t'.*earlier step"),
    ({"t": {"notebook": PROTONET, "init": "later"}, "later": pretrain(seed=[0])}, "init='later'.*earlier step"),
    ({"m": pretrain(seed=[0]), "t": {"notebook": PROTONET, "init": "m", "with": {"seed": 4}}},
     "no run of step 'm'.*seed=4"),
    ({"masked": pretrain(seed=[0]), "t": {"notebook": PROTONET, "init": "maskd"}}, "'maskd'.*did you mean 'masked'"),
    ({"m": {"notebook": AUTOENCODER, "with": {"segment_seconds": 2.0}}, "t": {"notebook": PROTONET, "init": "m"}},
     "segment_seconds=1.5, but step 'm'.*2.0"),
    ({"scratch": pretrain(seed=[0])}, "a step cannot be called so"),
])
def test_a_mistake_is_named_with_its_step_and_value(read, steps, said):
    with pytest.raises(ValueError, match=said):
        read(steps)


def test_a_notebook_that_is_not_there_is_named_with_the_nearest(read):
    with pytest.raises(FileNotFoundError, match="step 't'.*did you mean '05_protonet_training'"):
        read({"t": {"notebook": "05_protonet_trainng"}})


@pytest.mark.parametrize(("text", "said"), [
    ("steps: [", "not a YAML file"), ("- 1", "expected a mapping"), ("title: x", "lacks 'steps'"),
    ("steps: 3", "steps=3"), ("stepps: {}", "did you mean 'steps'"),
    (f"steps: {{t: {{notebook: {PROTONET}, grid: {{seed: [1], seed: [2]}}}}}}", "'seed' stands twice"),
    ("steps: !!python/object/apply:os.getcwd []", "not a YAML file"),
])
def test_a_file_that_is_no_sweep_says_what_is_wrong(read, text, said):
    with pytest.raises(ValueError, match=said):
        read(text)


def test_a_trial_has_its_own_values_and_its_own_name(read):
    steps = {"masked": pretrain(seed=[0]), "t": {"notebook": PROTONET, "init": "masked", "with": {"num_query": 5}}}
    sweep = read(steps, corpus="others", overrides={"num_train_iterations": 2, "num_query": 3})
    assert {run.parameters["num_train_iterations"] for run in sweep.runs} == {2}
    assert sweep.runs[1].parameters["num_query"] == 3 and {run.parameters["corpus"] for run in sweep.runs} == {"others"}
    assert sweep.name == "some_others_num_query-3_num_train_iterations-2" and read(steps).name == "some"
    with pytest.raises(ValueError, match="no step has a parameter 'num_train_itertions'"):
        read(steps, overrides={"num_train_itertions": 2})


@pytest.mark.parametrize("name", ["mae_table", "mae_table_full_size"])
def test_a_mask_table_has_ten_cells_and_a_control_for_each_seed(name):
    sweep = read_sweep(name)
    seeds = {run.parameters["seed"] for run in sweep.runs}
    cells = [(run.varied["mask"], run.varied["mask_ratio"], run.parameters["seed"]) for run in sweep.runs if run.needs]
    assert sorted(cells) == sorted(product(("strips", "boxes"), (0.55, 0.65, 0.75, 0.85, 0.95), seeds))
    assert len(sweep.runs) == 21 * len(seeds) and sweep.name == name


def test_every_sweep_of_the_workbook_can_be_read():
    found = sorted(sweep_path("quick").parent.glob("*.yaml"))
    assert len(found) >= 3
    for path in found:
        assert read_sweep(path).runs


def test_a_sweep_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(FileNotFoundError, match="did you mean 'mae_table'"):
        sweep_path("mae_tabel")

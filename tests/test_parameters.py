"""Parameters: refused before anything runs, with the nearest valid name and what was expected."""

from types import SimpleNamespace

import pytest

from speakerlib.data.files import project_folder
from speakerlib.experiments.parameters import (
    PARAMETERS,
    check_parameters,
    notebook_parameters,
    notebook_path,
    parse_value,
    read_parameters,
)
from speakerlib.experiments.workbook import place_of

NOTEBOOKS = sorted(path.stem for path in (project_folder() / "notebooks").glob("*.ipynb"))
PROTONET = "05_protonet_training"


def test_every_notebook_speaks_the_one_vocabulary():
    assert len(NOTEBOOKS) == 11
    for notebook in NOTEBOOKS:
        defaults = notebook_parameters(notebook)
        assert defaults and set(defaults) <= set(PARAMETERS)
        assert check_parameters(defaults, defaults, notebook) == defaults


def test_the_parameters_of_the_published_command_line_keep_their_names():
    published = {
        "num_way",
        "num_support",
        "num_query",
        "learning_rate",
        "batch_size",
        "num_train_iterations",
        "test_interval",
        "print_interval",
    }
    assert published <= set(notebook_parameters(PROTONET))


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("num_ways", 5, "no parameter 'num_ways'; did you mean 'num_way'"),
        ("num_way", 0, "num_way=0: expected a whole number of at least 2"),
        ("num_support", -1, "num_support=-1: expected a whole number of at least 1"),
        ("num_way", "ten", "num_way='ten': expected a whole number"),
        ("num_way", 2.5, "num_way=2.5: expected a whole number"),
        ("num_support", True, "num_support=True: expected a whole number"),
        ("learning_rate", 0, "learning_rate=0: expected a number greater than 0"),
        ("learning_rate", float("nan"), "learning_rate=nan: expected a number"),
        ("protocol", "as-published", "expected one of 'corrected', 'as_published'"),
        ("corpus", " ", "expected some text"),
    ],
)
def test_a_wrong_parameter_says_what_was_expected(name, value, message):
    with pytest.raises(ValueError, match=message):
        check_parameters({name: value}, notebook_parameters(PROTONET), PROTONET)


def test_the_first_cell_sees_an_unknown_name_and_a_second_execution_does_not_mind_other_variables():
    parameters = notebook_parameters(PROTONET)
    with pytest.raises(ValueError, match="no parameter 'num_wav'; did you mean 'num_way'"):
        read_parameters(PROTONET, {**parameters, "num_wav": 5, "In": [], "_i": "", "read_parameters": read_parameters})
    settings = read_parameters(PROTONET, {**parameters, "num_way": 3})
    assert settings.num_way == 3
    again = read_parameters(PROTONET, {**parameters, "num_way": 4, "accuracy": 0.5, "settings": settings})
    assert again.num_way == 4
    with pytest.raises(ValueError, match="corpus=<object"):  # a later cell took the name for something else
        read_parameters(PROTONET, {**parameters, "corpus": object(), "settings": settings})
    with pytest.raises(ValueError, match="num_way=1"):
        read_parameters(PROTONET, {**parameters, "num_way": 1, "settings": settings})


def test_an_unknown_notebook_names_the_nearest():
    with pytest.raises(FileNotFoundError, match="did you mean '05_protonet_training'"):
        notebook_path("05_protonet")
    with pytest.raises(FileNotFoundError):
        notebook_path("../notebooks/05_protonet_training")


def test_values_as_typed():
    assert [parse_value(text) for text in ("10", "1e-3", "True", "demo", "3.")] == [10, 1e-3, True, "demo", 3.0]


def test_a_file_is_found_from_where_the_user_stands(tmp_path, monkeypatch, data_folder):
    (tmp_path / "list.txt").write_text("1 a b\n")
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    corpus = SimpleNamespace(name="people", fingerprint="aaaa")
    find = {"people": corpus}.get
    notebook = "07_verification_and_identification"
    _, parameters, _ = place_of(notebook, {"corpus": "people", "trials": "list.txt"}, find)
    assert parameters["trials"] == str(tmp_path / "list.txt")
    _, parameters, _ = place_of("05_protonet_training", {"corpus": "people", "init": "scratch"}, find)
    assert parameters["init"] == "scratch"

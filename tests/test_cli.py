"""The console command: what reaches the functions behind it, and how errors and interruptions read."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from speakerlib.cli import build_parser, main


def corpus(skipped=(), synthetic=False):
    table = pd.DataFrame({"speaker": ["a", "a", "b"], "session": ["1", "1", "1"], "duration": [1800.0] * 3})
    return SimpleNamespace(name="people", folder=Path("/data/people"), table=table, synthetic=synthetic,
                           skipped=pd.DataFrame(skipped, columns=["path", "reason"]))


def raises(error):
    def function(*args, **kwargs):
        raise error
    return function


def test_help_is_fast_because_nothing_heavy_is_imported():
    code = ("import sys; from speakerlib.cli import main\n"
            "try: main(['--help'])\n"
            "finally: print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "examples:" in done.stdout


def test_every_command_has_help(capsys):
    (commands,) = [action.choices for action in build_parser()._actions if hasattr(action.choices, "items")]
    assert set(commands) == {"doctor", "demo", "import", "corpora", "manifest", "download", "scrape", "archives",
                             "trials", "workbook", "book", "run", "train", "sweep", "table", "identify", "publish"}
    for command in commands:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert f"usage: speakerlib {command}" in capsys.readouterr().out


def test_python_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "speakerlib"], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "usage: speakerlib" in done.stdout


def test_run_hands_over_typed_parameters(pretend, capsys):
    calls = []

    def run_notebook(*args, **kwargs):
        calls.append((args, kwargs))
        return "data/runs/x", True

    pretend("speakerlib.experiments.workbook", run_notebook=run_notebook)
    assert main(["run", "05_protonet_training", "-p", "num_way", "3", "-p", "learning_rate", "1e-3",
                 "-p", "corpus", "so762", "--force"]) == 0
    parameters = {"num_way": 3, "learning_rate": 0.001, "corpus": "so762"}
    assert calls == [(("05_protonet_training", parameters), {"force": True})]
    assert "data/runs/x" in capsys.readouterr().out


def test_a_parameter_given_twice_is_refused(pretend, capsys):
    pretend("speakerlib.experiments.workbook", run_notebook=raises(AssertionError("it ran")))
    assert main(["run", "x", "-p", "num_way", "3", "-p", "num_way", "5"]) == 2
    assert "num_way" in capsys.readouterr().err


def test_workbook_takes_a_folder_of_the_users_home(pretend, monkeypatch):
    calls = []
    monkeypatch.setenv("HOME", "/home/someone")
    pretend("speakerlib.experiments.workbook", run_workbook=lambda *args, **kwargs: calls.append((args, kwargs)))
    main(["workbook", "--corpus", "~/speech"])
    main(["workbook"])
    assert calls == [(("/home/someone/speech",), {"force": False}), (("demo",), {"force": False})]


def test_import_shows_the_summary_and_counts_what_it_left_out(pretend, capsys):
    calls = []
    skipped = [("a/1.wav", "truncated: 1.2 of 3.4 s"), ("a/2.wav", "truncated: 0.9 of 2.0 s"), ("b/1.wav", "silent")]

    def import_corpus(*args, **kwargs):
        calls.append((args, kwargs))
        return corpus(skipped)

    pretend("speakerlib.data.corpora", import_corpus=import_corpus,
            summary=lambda corpus: pd.DataFrame({"speakers": [2]}, index=["total"]))
    assert main(["import", "/speech", "--pattern", "{speaker}/{take}.wav", "--seed", "7"]) == 0
    assert calls == [(("/speech",), {"name": None, "pattern": "{speaker}/{take}.wav", "split_file": None, "seed": 7,
                                    "manifest": None, "partial": False})]
    said = capsys.readouterr().out
    assert "speakers" in said and "3 files were left out" in said
    assert "2 x truncated, such as a/1.wav (truncated: 1.2 of 3.4 s)" in said and "1 x silent" in said


def test_demo_without_options_takes_the_demo_corpus_that_is_there(pretend, capsys):
    calls = []

    def demo_corpus(**kwargs):
        calls.append(kwargs)
        return corpus(synthetic=True)

    pretend("speakerlib.data.demo_corpus", demo_corpus=demo_corpus)
    pretend("speakerlib.data.corpora", summary=lambda corpus: corpus.table)
    assert main(["demo"]) == 0
    assert main(["demo", "--speakers", "6", "--seed", "3"]) == 0
    assert calls == [{"num_speakers": None, "seed": None}, {"num_speakers": 6, "seed": 3}]
    assert "synthetic speech" in capsys.readouterr().out


def test_corpora_says_what_is_there_and_goes_on_after_a_broken_one(pretend, capsys):
    def open_corpus(name):
        if name == "torn":
            raise RuntimeError("shard-00003 is torn")
        return corpus(synthetic=True)

    pretend("speakerlib.data.corpora", list_corpora=lambda: ["torn", "people"], open_corpus=open_corpus)
    assert main(["corpora"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "shard-00003" in said[0]
    assert said[1] == "people: 2 speakers, 2 sessions, 3 utterances, 1.5 hours, synthetic"


def test_no_corpus_yet_says_how_to_get_one(pretend, capsys):
    pretend("speakerlib.data.corpora", list_corpora=list, open_corpus=None)
    assert main(["corpora"]) == 0
    assert "speakerlib demo" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ValueError("num_way=10 needs 10 speakers"), FileNotFoundError("no corpus 'x'"),
                                   OSError("no space"), RuntimeError("a torn shard")])
def test_an_expected_error_is_one_message(pretend, capsys, error):
    pretend("speakerlib.experiments.workbook", run_workbook=raises(error))
    assert main(["workbook"]) == 2
    assert capsys.readouterr().err == f"speakerlib: {error}\n"


def test_a_traceback_is_shown_when_asked_for(pretend, monkeypatch):
    pretend("speakerlib.experiments.workbook", run_workbook=raises(ValueError("seen")))
    for arguments in (["workbook", "--traceback"], ["--traceback", "workbook"]):
        with pytest.raises(ValueError, match="seen"):
            main(arguments)
    monkeypatch.setenv("SPEAKERLIB_TRACEBACK", "1")
    with pytest.raises(ValueError, match="seen"):
        main(["workbook"])


def test_a_mistake_of_ours_keeps_its_traceback(pretend):
    pretend("speakerlib.experiments.workbook", run_workbook=raises(KeyError("bug")))
    with pytest.raises(KeyError):
        main(["workbook"])


@pytest.mark.parametrize(("said", "shown"), [("stopped at step 50", "stopped at step 50"), ("", "goes on")])
def test_an_interruption_ends_with_a_sentence(pretend, capsys, said, shown):
    pretend("speakerlib.experiments.workbook", run_workbook=raises(KeyboardInterrupt(*filter(None, [said]))))
    assert main(["workbook"]) == 130
    assert shown in capsys.readouterr().err


def test_a_missing_library_points_to_the_doctor(pretend, capsys):
    pretend("speakerlib.experiments.workbook", run_workbook=raises(OSError("libc10_cuda.so: cannot open")))
    assert main(["workbook"]) == 2
    assert "speakerlib doctor" in capsys.readouterr().err

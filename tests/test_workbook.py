"""All chapters on real speech, as `make run CORPUS=...` runs them."""

import pytest
from clean_outputs import unclean
from quick_parameters import QUICK, QUICK_JUDGEMENT, QUICK_TRAINING

from speakerlib.experiments.workbook import STEPS, place_of, run_workbook

pytestmark = pytest.mark.slow


def test_the_workbook_runs_on_real_speech_and_then_finds_it_done(so762, data_folder, monkeypatch, capsys):
    shorter = {"04_mae_pretraining": QUICK_TRAINING, "05_protonet_training": QUICK,
               "06_short_utterance_training": QUICK, "07_verification_and_identification": QUICK_JUDGEMENT,
               "09_who_is_speaking": {"test_tasks": 20, "test_clips": 4},
               "10_voice_training": {"augment": "none", **QUICK}}
    quick = tuple((name, {**parameters, **shorter.get(name, {})}) for name, parameters in STEPS)
    monkeypatch.setattr("speakerlib.experiments.workbook.STEPS", quick)
    run_workbook(str(so762))
    first = capsys.readouterr().out
    assert "5-way 5-shot, recorded:" in first and "real speech" in first
    run_workbook("so762")
    assert capsys.readouterr().out.count("done already") == len(STEPS)
    folders = [place_of(name, {"corpus": "so762", **parameters})[2] for name, parameters in quick]
    assert {folder.parent.name for folder in folders} == {name for name, _ in STEPS}
    assert [found for folder in folders for found in unclean(folder / "executed.ipynb")] == []

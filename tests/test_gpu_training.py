"""The benchmark of training on a GPU, on a computer without one: what it draws, trains and needs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parent / "benchmarks"
ABSENT = ("pandas", "pyarrow", "tqdm", "accelerate", "soundfile", "librosa", "scipy")  # on many a GPU machine


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_training

    return gpu_training


def test_speakers_of_a_task_and_clips_of_a_speaker_are_different_and_its_own(script):
    work = script.TINY["a"]
    first = torch.tensor([0, 3, 9, 14, 20])  # the first speaker has too few clips for 2 + 2
    tasks = script.draw(work, first, 5).flatten(0, 1).numpy()
    owner = np.searchsorted(first.numpy(), tasks, side="right") - 1
    assert (owner == owner[:, :, :1]).all() and owner.min() == 1
    assert all(len(set(speakers)) == work.num_way for speakers in owner[:, :, 0])
    assert all(len(set(clips)) == 4 for task in tasks for clips in task)
    assert set(tasks.ravel()) == set(range(3, 20))
    assert torch.equal(script.draw(work, first, 5), script.draw(work, first, 5))
    assert not torch.equal(script.draw(work, first, 5), script.draw(work, first, 6))


def test_a_step_s_loss_is_that_of_chapter_05(script):
    work = script.TINY["a"]
    frames = torch.randint(0, 256, (20, work.mels, work.frames), dtype=torch.uint8)
    step = script.Step("a", work, frames, "eager")
    ids = torch.randint(0, 20, step.ids.shape)
    support, query = ids[:, :, :work.num_support], ids[:, :, work.num_support:]
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = step.encoder(frames[torch.cat([support.flatten(), query.flatten()])].unsqueeze(1).float()).float()
    expected = script.prototypical_loss(embeddings[:support.numel()].view(*support.shape, -1),
                                        embeddings[support.numel():].view(*query.shape, -1))[0]
    torch.testing.assert_close(script._take(step, ids), expected.item(), rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_it_trains_with_torch_and_numpy_alone(tmp_path):
    frames = np.zeros((40, 64, 64), np.uint8)
    speakers = np.repeat(np.arange(10), 4)
    frames[np.arange(40), speakers] = 250  # each speaker has a mel of its own
    np.save(tmp_path / "frames.npy", frames)
    np.save(tmp_path / "speakers.npy", speakers)
    start = f"import sys, runpy; sys.modules.update(dict.fromkeys({ABSENT})); sys.argv[0] = 'gpu_training.py'; " \
            f"runpy.run_path({str(FOLDER / 'gpu_training.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", start, "--quick", "--steps", "40", "--modes", "eager",
                           "--frames", str(tmp_path / "frames.npy"), "--speakers", str(tmp_path / "speakers.npy"),
                           "--output", str(tmp_path / "rows.json")],
                          cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["work"], row["steps"]) for row in rows] == [("a", 40), ("b", 8)]
    assert rows[0]["loss"] < 0.5 * rows[0]["first_losses"][0]
    assert all(row["flops"] > 0 and row["bytes_per_second"] > 0 for row in rows)


def test_speakers_out_of_order_are_refused(script, tmp_path):
    np.save(tmp_path / "frames.npy", np.zeros((4, 64, 64), np.uint8))
    np.save(tmp_path / "speakers.npy", np.array([0, 1, 0, 1]))
    with pytest.raises(SystemExit, match="ascend"):
        script.main(["--quick", "--work", "a", "--frames", str(tmp_path / "frames.npy"),
                     "--speakers", str(tmp_path / "speakers.npy")])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, and would be measured")
def test_without_a_gpu_nothing_is_measured_and_that_is_said(script, capsys):
    assert script.main([]) == []
    assert "Not run on a GPU" in capsys.readouterr().out

"""What is copied into figures/: every record, the pictures of a few runs, none over another's."""

import pandas as pd
import pytest
from made_up_runs import autoencoder, judged, protonet

from speakerlib.data.files import read_json
from speakerlib.experiments import publication
from speakerlib.experiments.records import Run


@pytest.fixture
def published(data_folder, tmp_path, monkeypatch):
    """publish("demo") into a folder of the test's own."""
    monkeypatch.setattr(publication, "project_folder", lambda: tmp_path)
    return lambda: publication.publish("demo")


def drawn(run, text):
    (run.figures / "training.png").write_text(text)
    return run


def test_pictures_are_of_the_plain_runs_and_never_of_another_under_their_name(published, data_folder):
    default = Run.read(data_folder / "runs" / "04_mae_pretraining" / autoencoder())
    drawn(default, "default")
    for changed in ({"mask": "strips"}, {"seed": 1}, {"target": "mean_normalised"}, {"augment": "II"}):
        drawn(Run.read(data_folder / "runs" / "04_mae_pretraining" / autoencoder(**changed)), "another")
    drawn(protonet(num_train_iterations=100), "short")
    drawn(protonet(num_train_iterations=400), "long")
    drawn(protonet(init=default.folder.name), "pretrained")
    drawn(protonet(protocol="as_published"), "as published")
    for changed in ({"seed": 1}, {"labelled_speakers": 10}, {"augment": "I"}, {"num_way": 3},
                    {"init": autoencoder(mask="strips")}, {"init": default.folder.name, "frozen_blocks": 2}):
        drawn(protonet(**changed), "another")
    folder = published()
    assert {path.name: path.read_text() for path in folder.glob("*.png")} == {
        "04_training.png": "default",
        "05_compact_1.5s_corrected_training.png": "long",
        "05_compact_1.5s_corrected_pretrained_training.png": "pretrained",
        "05_compact_1.5s_as_published_training.png": "as published",
    }
    assert len(list((folder / "records").glob("*.json"))) == 15


def test_records_keep_their_numbers_and_curves_that_no_picture_shows_are_left_out(published):
    run = protonet(curve=True)
    protonet(curve=True, labelled_speakers=10)
    autoencoder()
    autoencoder(target="patch_normalised")
    records = published() / "records"
    assert sorted(path.name.split("_so")[0][:2] for path in records.glob("*.csv")) == ["04", "05"]
    (path,) = [path for path in records.glob("05*.json") if path.stem.endswith(run.folder.name)]
    kept, made = read_json(path), run.record
    assert kept["parameters"] == made["parameters"] and len(kept["result"]) == len(made["result"])
    for ours, theirs in zip(kept["result"], made["result"]):
        assert ours["accuracy"] == pytest.approx(theirs["accuracy"], rel=1e-5)
        assert ours.get("by_speaker", {}) == pytest.approx(theirs.get("by_speaker", {}), rel=1e-5)
        assert ours["episodes"] == theirs["episodes"]
    curve, whole = pd.read_csv(path.with_suffix(".csv")), pd.read_csv(run.folder / "metrics.csv")
    assert curve.to_numpy() == pytest.approx(whole.to_numpy(), rel=1e-5)
    assert path.stat().st_size < 0.75 * (run.folder / "run.json").stat().st_size


def test_what_was_there_before_goes_and_tables_come_along(published):
    run = protonet()
    (run.folder / "tables.md").write_text("tables")
    (run.folder / "pretraining.md").write_text("help")
    folder = published()
    (folder / "old.png").write_text("old")
    assert published() == folder and not (folder / "old.png").exists()
    assert (folder / "tables.md").read_text() == "tables" and (folder / "pretraining.md").read_text() == "help"


def test_of_chapter_07_pictures_stand_alone_and_details_are_of_the_scoring_that_is_compared(published, data_folder):
    judged(loss_type="prototypical")
    (path,) = data_folder.glob("runs/07*/*/run.json")
    run = Run.read(path.parent)
    for name in ("det.png", "objectives_verification.png", "objectives_identification.png"):
        (run.figures / name).write_text(name)
    folder = published()
    assert [picture.name for picture in folder.glob("*.png")] == ["07_det.png"]
    (record,) = (folder / "records").glob("07*.json")
    kept = read_json(record)["result"]
    assert [row["scoring"] for row in kept if "by_speaker" in row] == ["cosine"] * 14
    for ours, theirs in zip(kept, run.record["result"], strict=True):
        assert set(theirs) - set(ours) == (set() if theirs["scoring"] == "cosine" else {"by_speaker"})
        assert ours.get("eer") == pytest.approx(theirs.get("eer"))


def test_of_chapter_10_the_encoder_that_ships_is_pictured():
    run = {"notebook": "10_voice_training", "front_end": "compact", "augment": "both", "width": 1.0, "seed": 0,
           "batch_size": 96, "num_train_iterations": 3000, "finished": "1", "run": "ships"}
    others = ({"augment": "II"}, {"width": 2.0}, {"seed": 1}, {"num_train_iterations": 600}, {"front_end": "log_mel"})
    runs = [run, *({**run, "finished": "2", "run": "another", **other} for other in others)]
    assert publication.shown(pd.DataFrame(runs))["10"]["run"] == "ships"


def test_no_run_says_which_command_makes_one(published):
    with pytest.raises(FileNotFoundError, match="make run CORPUS=demo"):
        published()

"""Run records of chapters 04 to 07 that were never run, for the tests of tables and pictures."""

from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pandas as pd

from speakerlib.experiments.parameters import notebook_parameters
from speakerlib.experiments.records import start_run

PRETRAINING, PROTONET = "04_mae_pretraining", "05_protonet_training"
SHORT, VERIFICATION = "06_short_utterance_training", "07_verification_and_identification"
SPEAKERS = [f"speaker{number:02d}" for number in range(20)]


def corpus(name="demo", fingerprint="aaaa"):
    splits = ["train", "validation", "test"]
    table = pd.DataFrame({"speaker": splits, "split": splits, "duration": [600.0] * 3})
    return SimpleNamespace(name=name, fingerprint=fingerprint, synthetic=True, table=table, skipped=pd.DataFrame())


def settings(notebook, **changed):
    return SimpleNamespace(**{**notebook_parameters(notebook), **changed})


def autoencoder(curve=True, **changed):
    """A complete run of chapter 04; returns its id."""
    run = start_run(PRETRAINING, settings(PRETRAINING, **changed), corpus())
    steps, parameters = np.arange(50, 650, 50), run.record["parameters"]
    if curve:
        error = 4 + 6 * parameters["mask_ratio"] + 8 * np.exp(-steps / 120) + 0.1 * parameters["seed"]
        pd.DataFrame({"step": steps, "training_error": error, "validation_error": error}).to_csv(
            run.folder / "metrics.csv", index=False)
    run.finish([{"split": "test", "error": 5.0}])
    return run.folder.name


def protonet(accuracy=0.6, gain=0.0, spread=0.0, episodes="tasks", by_speaker=True, curve=False, family="I", **changed):
    """A complete run of chapter 05; each speaker has an accuracy of its own, moved by `gain` and a little more."""
    run = start_run(PROTONET, settings(PROTONET, **changed), corpus())
    rows, seed = [], run.record["parameters"]["seed"]
    own = np.random.default_rng(crc32(run.folder.name.encode()))
    for condition, loss in (("recorded", 0.0), ("changed", 0.2)):
        for shot in (1, 5, 10):
            for way in (3, 5, 10):
                draw = np.random.default_rng((seed, shot, way))
                mean = accuracy - loss + 0.02 * shot - 0.01 * way
                noise = 0.1 * draw.standard_normal(len(SPEAKERS)) + spread * own.standard_normal(len(SPEAKERS))
                each = dict(zip(SPEAKERS, (mean + gain + noise).tolist()))
                overall = float(np.mean(list(each.values())))
                rows.append({
                    "condition": condition, "channel_family": None if condition == "recorded" else family,
                    "num_way": way, "num_support": shot, "episode_rule": "session", "accuracy": overall,
                    "interval": 0.005, "low": overall - 0.03, "high": overall + 0.03, "tasks": 1000, "speakers": 20,
                    "reason": None, "episodes": f"{episodes}-{seed}-{way}-{shot}",
                    **({"by_speaker": each} if by_speaker and way == 5 else {})})
    if curve:
        steps = np.arange(20, 220, 20)
        pd.DataFrame({"step": steps, "validation_accuracy": accuracy - 0.3 * np.exp(-steps / 60)}).to_csv(
            run.folder / "metrics.csv", index=False)
    run.finish(rows)
    return run


def judged(eer=0.1, accuracy=0.8, trained_seed=0, trial_list="aaaa", run_seed=0, training=None, spread=0.0,
           **objective):
    """A complete run of chapter 07; its encoder is of chapter 06, with this objective, or untrained.

    spread: how much its accuracies and errors by speaker differ from those of other runs, by chance.
    """
    name = "-".join(map(str, (*objective.values(), *(training or {}).values(), trained_seed, trial_list)))
    run = start_run(VERIFICATION, settings(VERIFICATION, init=name or "untrained", seed=run_seed), corpus())
    facts = {"kind": "untrained", "run": "untrained", "encoder": "resnet34", "width": 0.25, "seed": 0}
    if objective:
        parameters = {**notebook_parameters(SHORT), **objective, **(training or {}), "seed": trained_seed}
        facts = {"kind": SHORT, "run": name, "parameters": parameters, **parameters}
    run.write(speaker_encoder=facts)
    rows, own = [], np.random.default_rng(crc32(run.folder.name.encode()))

    def each_speaker(share):
        values = share + spread * own.standard_normal(len(SPEAKERS))
        return dict(zip(SPEAKERS, (values - values.mean() + share).tolist()))

    for condition, more in (("recorded", 0.0), ("changed", 0.15)):
        shared = {"condition": condition, "channel_family": None if condition == "recorded" else "I"}
        for scoring in ("cosine", "centred", "s-norm"):
            for length in (None, 200, 100):
                error = eer + more + (0.05 if length == 100 else 0)
                rows.append({"task": "verification", **shared, "scoring": scoring, "test_length": length,
                             "enroll_length": None, "trial_list": f"{trial_list}{length}", "eer": error,
                             "eer_low": error - 0.02, "eer_high": error + 0.02, "targets": 400, "non_targets": 400,
                             "by_speaker": each_speaker(1 - error)})
            for length in (50, 100, 200, 300):
                share = accuracy - more + length / 5000
                rows.append({"task": "identification", **shared, "scoring": scoring, "test_length": length,
                             "enroll_length": 500, "num_way": 20, "num_support": 1, "num_query": 5, "accuracy": share,
                             "interval": 0.01, "low": share - 0.03, "high": share + 0.03, "tasks": 200,
                             "episodes": f"{trial_list}{length}", "by_speaker": each_speaker(share)})
    run.finish(rows)

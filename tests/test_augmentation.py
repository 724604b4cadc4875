"""Training on changed speech: which copy a clip is read from depends on the key alone, and all copies are used."""

import numpy as np
import pytest
import torch

from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.data.features import prepare_features
from speakerlib.experiments import augmentation
from speakerlib.experiments.augmentation import AUGMENTS, NONE, TrainingFeatures


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(corpus, {front end: features as recorded}) of noise of twelve speakers, with two copies in place of eight."""
    patch, folder, draw = pytest.MonkeyPatch(), tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    patch.setenv("SPEAKERLIB_DATA", str(folder / "data"))
    patch.setattr(augmentation, "COPIES", 2)
    for speaker in range(12):
        write_audio(folder / "audio" / f"s{speaker}" / "1.wav", 0.1 * draw.standard_normal(16000).astype(np.float32))
    corpus = import_corpus(folder / "audio", name="noise", progress=False)
    yield corpus, {name: prepare_features(corpus, name, 1.0, progress=False) for name in ("compact", "boccio")}
    patch.undo()


def test_without_augmentation_clips_are_as_recorded(prepared):
    corpus, stores = prepared
    for recorded in stores.values():
        ids = np.arange(len(recorded))[::-1]
        found = TrainingFeatures(recorded, corpus, NONE).read(ids, (0, 5))
        assert torch.equal(found.float(), recorded.read(ids))
    assert found.dtype == torch.uint8


@pytest.mark.parametrize("front_end", ["compact", "boccio"])
@pytest.mark.parametrize("family", [name for name in AUGMENTS if name != NONE])
def test_each_clip_comes_from_one_of_the_copies_by_the_key_alone(prepared, family, front_end):
    corpus, recorded = prepared[0], prepared[1][front_end]
    features, ids = TrainingFeatures(recorded, corpus, family), np.arange(len(recorded))
    copies = [recorded, *(prepare_features(corpus, front_end, 1.0, "changed", seed, family) for seed in (1, 2))]
    possible = torch.stack([copy.read(ids) for copy in copies])
    seen = set()
    for step in range(20):
        frames = features.read(ids, (3, step))
        assert frames.dtype == (torch.uint8 if front_end == "boccio" else torch.float32)
        same = (possible == frames).flatten(2).all(dim=2)  # (copies, clips)
        assert (same.sum(dim=0) == 1).all()
        seen |= {(int(copy), int(clip)) for copy, clip in same.nonzero()}
        assert torch.equal(frames, TrainingFeatures(recorded, corpus, family).read(ids, (3, step)))
    assert len(seen) == len(copies) * len(ids)  # every copy of every clip, sooner or later

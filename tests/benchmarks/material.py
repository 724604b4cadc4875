"""What the benchmarks of training and evaluation work on: the demo corpus' frames at full size, and a tiny likeness."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from speakerlib.data.corpora import import_corpus
from speakerlib.data.demo_corpus import make_demo_corpus
from speakerlib.data.features import prepare_features

FULL = {"num_speakers": 40, "num_sessions": 4, "num_utterances": 7}  # 28 clips of 3 s each: 10 shots, 15 queries
TINY = {"num_speakers": 10, "num_sessions": 2, "num_utterances": 6}


@contextmanager
def open_frames(quick=False):
    """The (corpus, FeatureStore) of synthetic speech in a data folder that is removed afterwards; all is split test.

    256 x 301 frames of one byte, a clip of 3 s each; quick: few speakers, and frames of 64 x 151.
    """
    before = os.environ.get("SPEAKERLIB_DATA")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPEAKERLIB_DATA"] = folder
        try:
            made = make_demo_corpus(Path(folder) / "corpora" / "demo", **(TINY if quick else FULL), progress=False)
            split = Path(folder) / "split.csv"
            speakers = sorted(path.name for path in (made / "wav").iterdir())
            split.write_text("speaker,split\n" + "".join(f"{name},test\n" for name in speakers), encoding="utf-8")
            corpus = import_corpus(made / "wav", name="demo", split_file=split, progress=False, synthetic=True)
            size = ("compact", 1.5) if quick else ("boccio", 3.0)
            yield corpus, prepare_features(corpus, *size, progress=False)
        finally:
            os.environ.pop("SPEAKERLIB_DATA")
            if before is not None:
                os.environ["SPEAKERLIB_DATA"] = before

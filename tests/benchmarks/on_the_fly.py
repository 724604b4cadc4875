"""Waveforms to compact features with channels I and II drawn anew for each clip, beside the training step they feed.

    python tests/benchmarks/on_the_fly.py

The step is chapter 05's default: 2 tasks of 5-way, 5 shots, 10 queries, clips of 1.5 s, at the machine's precision.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from side_by_side import alternate, faster, options, table, write
from speech import make_speech

from speakerlib.data import channels, front_ends
from speakerlib.data.babble import BabblePool
from speakerlib.data.corpora import import_corpus
from speakerlib.data.features import prepare_features
from speakerlib.experiments.training import machine_precision
from speakerlib.models.encoders import ConvEncoder
from speakerlib.models.objectives import prototypical_loss

COMPACT, SECONDS = front_ends.FRONT_ENDS["compact"], 1.5
TASKS, NUM_WAY, NUM_SUPPORT, NUM_QUERY = 2, 5, 5, 10
FAMILIES = ("I", "II")


def main(arguments=None):
    """Writes the section, and returns the times."""
    quick = options(__doc__, arguments).quick
    count = TASKS * NUM_WAY * (2 if quick else NUM_SUPPORT + NUM_QUERY)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPEAKERLIB_DATA"] = str(Path(folder) / "data")
        what = make_speech(Path(folder), 8 if quick else 100, [".wav"])
        with redirect_stdout(StringIO()):
            corpus = import_corpus(Path(folder) / "wav", "speech", "{speaker}/{utterance}.wav", progress=False)
        times = alternate(sides(corpus, count), *((1, 0) if quick else (15, 2)))
    share = {name: 1 / faster(times, name, "training step")[0] for name in times}
    verdicts = {family: "" if share[_made(family)] <= 0.5 else "; **missed**" for family in FAMILIES}
    write("Channels on the fly", (
        f"`on_the_fly.py`, {what}; a step of {count} clips of {SECONDS} s, front end compact, encoder conv6, "
        f"{machine_precision()}. Each clip's channel is drawn anew and its features computed from the waveform store: "
        f"**{share[_made('I')]:.0%} of a step's time** for family I (target: less than half{verdicts['I']}), "
        f"**{share[_made('II')]:.0%}** for family II, rooms and real codecs{verdicts['II']}. With the next batch made "
        f"in a thread behind the step, both on the same cores, a step takes {share[_hidden('I')]:.2f} and "
        f"{share[_hidden('II')]:.2f} times as long as one on a batch in memory. {REMAINS} Training therefore reads "
        f"from copies of the corpus made beforehand (see TrainingFeatures), which is the second line: "
        f"{share['as recorded, from the shards']:.1%} of a step."),
        table(times, "training step", count, "clips"), quick)
    return times


REMAINS = """Of family II's time, a clip of which takes 11 ms of a core, 44% is spent in the real codecs' own encoders
and decoders, more than half a step by themselves, and 19% in Fourier transforms; its clips already go side by side."""


def _made(family):
    return f"through family {family}, from waveforms"


def _hidden(family):
    return f"step, family {family} behind it"


def sides(corpus, count):
    """{name: function of no arguments}."""
    store = prepare_features(corpus, COMPACT, SECONDS, progress=False)
    pool, random = BabblePool(corpus), np.random.default_rng(0)
    rows, starts = store.segments["utterance"].to_numpy(), store.segments["start"].to_numpy()
    samples = int(store.segments["length"].iloc[0])
    train = np.flatnonzero(store.segments["split"] == "train")
    drawn = iter(range(1 << 62))

    def ids():
        return random.choice(train, size=count)

    def from_waveforms(family=None):
        chosen = ids()
        clips = np.stack([corpus.waveforms.read(rows[row], starts[row], samples) for row in chosen])
        clips = torch.from_numpy(clips).to(torch.float32) / 32768
        if family:
            seeds = [next(drawn) for _ in chosen]
            babble = pool.mix(rows[chosen], seeds, samples) if family == "II" else None
            clips = channels.apply_channels(clips, seeds, family, babble)
        return front_ends.normalise(COMPACT, front_ends.compute(COMPACT, clips)).unsqueeze(1)

    apart = from_waveforms()[:0], store.read(np.arange(8))  # and the same features, computed on the fly
    clips = np.stack([corpus.waveforms.read(rows[row], starts[row], samples) for row in range(8)])
    again = front_ends.compute(COMPACT, torch.from_numpy(clips).to(torch.float32) / 32768)
    assert torch.allclose(front_ends.normalise(COMPACT, again).unsqueeze(1), apart[1], atol=0.02)

    batch = store.read(ids())
    step = training_step(batch.shape)
    thread = ThreadPoolExecutor(1)

    def behind(family):
        making = thread.submit(from_waveforms, family)
        step(batch)
        making.result()

    return {"training step": lambda: step(batch),
            "as recorded, from the shards": lambda: store.read(ids()),
            "as recorded, from waveforms": from_waveforms,
            **{_made(family): lambda family=family: from_waveforms(family) for family in FAMILIES},
            **{_hidden(family): lambda family=family: behind(family) for family in FAMILIES}}


def training_step(shape):
    """step(frames) of chapter 05's network and loss, as training() runs it."""
    torch.manual_seed(0)
    model = ConvEncoder(*shape[2:]).to(memory_format=torch.channels_last).train()
    optimizer, bf16 = torch.optim.Adam(model.parameters(), lr=1e-3), machine_precision() == "bf16"

    def step(frames):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            embeddings = model(frames)
        embeddings = embeddings.float().reshape(TASKS, NUM_WAY, -1, embeddings.shape[-1])
        few = max(1, embeddings.shape[2] // 3)
        loss, _, _ = prototypical_loss(embeddings[:, :, :few], embeddings[:, :, few:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()

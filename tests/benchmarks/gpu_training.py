"""Training on one GPU: frames resident there in one byte, gathered there, bf16, one CUDA graph a step.

    python tests/benchmarks/gpu_training.py                    on synthetic frames, as many as VoxCeleb1 has
    python tests/benchmarks/gpu_training.py --frames frames.npy --speakers speakers.npy
    python tests/benchmarks/gpu_training.py --quick            tiny sizes, on any computer: shows that it runs

It needs torch and numpy alone, and the folder speakerlib/models beside it. Prepared arrays: frames, uint8 (clips, mels,
frames); speakers, (clips,), integers that ascend. Three ways of stepping are timed: eager, graph (the eager step,
captured) and compiled (torch.compile, captured). The first step's loss must be the same; the next ones are reported.
Work A's tasks go through the network together, as in chapter 05; work B's support and its queries, here cut to one
length of 150 frames (a graph has one shape), after each other, as in chapter 06.
Reached bytes and operations a second are set against those of a copy and of a matrix product, measured first.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project need not be installed here
from speakerlib.models.encoders import ConvEncoder  # noqa: E402
from speakerlib.models.objectives import prototypical_loss  # noqa: E402
from speakerlib.models.resnet import ResNetEncoder  # noqa: E402
from speakerlib.models.short_utterance_objectives import ShortUtteranceObjective  # noqa: E402

MODES = ("eager", "graph", "compiled")
SPEAKERS, CLIPS = 1211, 290  # training speakers of VoxCeleb1, and clips of 3 s of each: 27 GB of bytes
DRAWN_AT_ONCE = 100  # steps
TOLERANCE = 2e-2  # between ways of stepping, of the first loss: they round bf16 at other places
TITLE = "Training on one GPU"
TARGET = "work A's 5,000 steps in under 60 s on one H200, then under 30 s"


class Work(NamedTuple):
    """What is trained: a step is `tasks` tasks of num_way speakers, num_support + num_query clips each."""

    tasks: int
    num_way: int
    num_support: int
    num_query: int
    mels: int
    frames: int  # of a clip, and of a support
    query_frames: int
    steps: int


WORKS = {"a": Work(4, 5, 5, 15, 256, 301, 301, 5000), "b": Work(1, 100, 1, 2, 40, 200, 150, 1000)}
TINY = {"a": Work(2, 3, 2, 2, 64, 64, 64, 6), "b": Work(1, 4, 1, 2, 16, 32, 24, 6)}


def main(arguments=None):
    """Prints a report in Markdown, and returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=(*WORKS, "both"), default="both")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=None)
    parser.add_argument("--steps", type=int, help="of work A (5,000 by default); of work B a fifth")
    parser.add_argument("--frames", type=Path, help="prepared frames of work A, .npy")
    parser.add_argument("--speakers", type=Path, help="the speaker of each, .npy")
    parser.add_argument("--output", type=Path, help="write the rows as JSON, too")
    parser.add_argument("--write", action="store_true", help="put the report into figures/benchmarks.md, too (this "
                        "needs the project's other packages)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script runs, measures nothing")
    chosen = parser.parse_args(arguments)
    cuda = torch.cuda.is_available()
    if not cuda and not chosen.quick:
        tell(f"Not run on a GPU: none was at hand. Target: {TARGET}. `python tests/benchmarks/gpu_training.py --write` "
             "measures it on a computer that has one; its drawing, gathering and stepping are tested on a CPU, its "
             "graphs are not.", chosen.write)
        return []
    device = torch.device("cuda" if cuda else "cpu")
    ceiling = ceilings(device, 256 if chosen.quick else 8192)
    rows = []
    for name in WORKS if chosen.work == "both" else chosen.work:
        work = (TINY if chosen.quick else WORKS)[name]
        if chosen.steps:
            work = work._replace(steps=max(2, chosen.steps // (1 if name == "a" else 5)))
        frames, first = resident_frames(work, device, chosen, name)
        rows += measure(name, work, frames, first, chosen.modes or (MODES if cuda else ("eager",)), ceiling)
        del frames
    tell(report(rows, ceiling, device), chosen.write and not chosen.quick)
    if chosen.output:
        chosen.output.write_text(json.dumps({"ceiling": ceiling, "rows": rows}, indent=1), encoding="utf-8")
    return rows


def resident_frames(work, device, chosen, name):
    """(clips, mels, frames) bytes on the device, and the place of each speaker's first clip, and of the end."""
    if chosen.frames and name == "a":
        speakers = np.load(chosen.speakers)
        if (np.diff(speakers) < 0).any():
            raise SystemExit(f"{chosen.speakers}: expected speakers that ascend, so that each has its clips together.")
        first = np.r_[0, np.flatnonzero(np.diff(speakers)) + 1, len(speakers)]
        stored = np.load(chosen.frames, mmap_mode="r")
        if stored.dtype != np.uint8 or stored.shape != (len(speakers), work.mels, work.frames):
            raise SystemExit(f"{chosen.frames} holds {stored.dtype} {stored.shape}; expected uint8 "
                             f"{(len(speakers), work.mels, work.frames)}.")
        frames = torch.empty(stored.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(stored), 4096):
            frames[start:start + 4096] = torch.from_numpy(stored[start:start + 4096])
        return frames, torch.from_numpy(first).to(device)
    speakers, clips = (10, 6) if chosen.quick else (SPEAKERS, CLIPS)
    random = torch.Generator(device).manual_seed(0)
    frames = torch.empty(speakers * clips, work.mels, work.frames, dtype=torch.uint8, device=device)
    for speaker in range(speakers):  # a voice: the level of each mel, and noise about it
        voice = torch.randint(64, 192, (1, work.mels, 1), generator=random, device=device)
        noise = torch.randint(-60, 61, (clips, work.mels, work.frames), generator=random, device=device)
        frames[speaker * clips:(speaker + 1) * clips] = (voice + noise).to(torch.uint8)
    return frames, torch.arange(0, len(frames) + 1, clips, device=device)


def draw(work, first, number):
    """Different clips of different speakers for DRAWN_AT_ONCE steps: (steps, tasks, way, support + query)."""
    random = torch.Generator(first.device).manual_seed(number)
    tasks, each = DRAWN_AT_ONCE * work.tasks, work.num_support + work.num_query
    counts = first.diff()
    able = (counts >= each).nonzero().flatten()
    chance = torch.rand(tasks, len(able), generator=random, device=first.device)
    speakers = able[chance.topk(work.num_way).indices].flatten()
    chance = torch.rand(len(speakers), int(counts.max()), generator=random, device=first.device)
    chance.masked_fill_(torch.arange(chance.shape[1], device=first.device) >= counts[speakers, None], -1)
    clips = first[speakers, None] + chance.topk(each).indices
    return clips.view(DRAWN_AT_ONCE, work.tasks, work.num_way, each)


class Step:
    """One training step from clip numbers to updated weights; `ids` and `loss` keep their places in memory."""

    def __init__(self, name, work, frames, mode):
        torch.manual_seed(0)
        self.work, self.frames, device = work, frames, frames.device
        self.ids = torch.zeros(work.tasks, work.num_way, work.num_support + work.num_query, dtype=torch.long,
                               device=device)
        if name == "a":
            self.encoder, self.objective = ConvEncoder(work.mels, work.frames), None
        else:
            self.encoder = ResNetEncoder("resnet34", work.mels, 1 / 4 if device.type == "cpu" else 1.0)
            self.objective = ShortUtteranceObjective("prototypical", 2000, self.encoder.dim).to(device)
            self.labels = torch.arange(work.num_way, device=device)
        self.encoder.to(device, memory_format=torch.channels_last).train()
        parameters = [*self.encoder.parameters(), *(self.objective.parameters() if self.objective else ())]
        self.optimizer = torch.optim.Adam(parameters, lr=torch.tensor(1e-3, device=device), fused=True,
                                          capturable=device.type == "cuda")
        self.run = self.eager
        self.loss_of = torch.compile(self._loss, dynamic=False) if mode == "compiled" else self._loss
        self.loss = torch.zeros((), device=device)

    def capture(self):
        """Replaces run() by a CUDA graph of it; a few steps are taken on the way."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.eager()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.eager()
        self.run = self.graph.replay

    def eager(self):
        loss = self.loss_of()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.copy_(loss.detach())

    def _loss(self):
        work, count = self.work, self.work.num_support
        with torch.autocast(self.frames.device.type, torch.bfloat16):
            if work.query_frames == work.frames:
                support, query = self._embed(self.ids, work.frames).tensor_split((count,), dim=2)
            else:
                support = self._embed(self.ids[:, :, :count], work.frames)
                query = self._embed(self.ids[:, :, count:], work.query_frames)
        if self.objective is None:
            return prototypical_loss(support, query)[0]
        return self.objective(support[0], query[0], self.labels).loss

    def _embed(self, ids, length):
        clips = self.frames[ids.flatten()][:, None, :, :length].to(torch.bfloat16)
        return self.encoder(clips).float().view(*ids.shape, -1)


def measure(name, work, frames, first, modes, ceiling):
    """Rows of one work: a dict a mode."""
    drawn, cuda = draw(work, first, 0), frames.is_cuda
    count, losses, rows = min(5, work.steps), {}, []
    operations, traffic = cost(Step(name, work, frames, "eager"), drawn[0])
    for mode in modes:
        step = Step(name, work, frames, mode)
        losses[mode] = [_take(step, drawn[number]) for number in range(count)]
        torch.testing.assert_close(losses[mode][0], losses[modes[0]][0], rtol=TOLERANCE, atol=TOLERANCE)
        if cuda and mode != "eager":
            step.capture()
        _wait(cuda)
        started, gathered = time.perf_counter(), drawn
        for number in range(work.steps):
            if number % DRAWN_AT_ONCE == 0:
                gathered = draw(work, first, 1 + number // DRAWN_AT_ONCE)
            step.ids.copy_(gathered[number % DRAWN_AT_ONCE])
            step.run()
        _wait(cuda)
        seconds = time.perf_counter() - started
        rows.append({"work": name, "mode": mode, "steps": work.steps, "seconds": seconds,
                     "steps_per_second": work.steps / seconds, "first_losses": losses[mode], "loss": float(step.loss),
                     "flops": operations * work.steps / seconds, "bytes_per_second": traffic * work.steps / seconds,
                     "share_of_flops": operations * work.steps / seconds / ceiling["flops"],
                     "share_of_bytes": traffic * work.steps / seconds / ceiling["bytes_per_second"],
                     "peak_gigabytes": torch.cuda.max_memory_allocated() / 1e9 if cuda else None})
        del step
    return rows


def cost(step, ids):
    """(operations of products, bytes) of one step: a layer reads its input and writes its output in forward, and reads
    its input and the output's gradient and writes the input's in backward."""
    from torch.utils.flop_counter import FlopCounterMode

    total, hooks = [0], []

    def count(module, inputs, output):
        total[0] += 3 * inputs[0].numel() * inputs[0].element_size() + 2 * output.numel() * output.element_size()

    for module in step.encoder.modules():
        if not list(module.children()):
            hooks.append(module.register_forward_hook(count))
    step.ids.copy_(ids)
    with FlopCounterMode(display=False) as counter:
        step.eager()
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops(), total[0]


def ceilings(device, size):
    """Bytes a second of a copy, and operations a second of a product of bf16 matrices, on this device."""
    matrix = torch.randn(size, size, device=device).to(torch.bfloat16)
    source = torch.empty(16 * size * size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    flops = 2 * size**3 / _fastest(lambda: matrix @ matrix, device)
    return {"flops": flops, "bytes_per_second": 2 * source.numel() / _fastest(lambda: target.copy_(source), device)}


def report(rows, ceiling, device):
    """The rows as Markdown."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU, tiny sizes: the times mean nothing"
    lines = [f"{name}, torch {torch.__version__}. Target: {TARGET}. A copy moves "
             f"{ceiling['bytes_per_second'] / 1e12:.3g} TB/s, a product of bf16 matrices computes "
             f"{ceiling['flops'] / 1e12:.3g} TFLOP/s. Bytes are those that layers move if none are joined.", "",
             "| work | step | steps | seconds | steps/s | TFLOP/s | of the product's | TB/s | of the copy's |",
             "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [f"| {row['work'].upper()} | {row['mode']} | {row['steps']:,} | {row['seconds']:.2f} | "
              f"{row['steps_per_second']:.1f} | {row['flops'] / 1e12:.3g} | {row['share_of_flops']:.0%} | "
              f"{row['bytes_per_second'] / 1e12:.3g} | {row['share_of_bytes']:.0%} |" for row in rows]
    return "\n".join(lines)


def tell(text, writing):
    """Prints the section, or writes it beside the other benchmarks' (and prints it)."""
    if not writing:
        print(f"## {TITLE}\n\n{text}")
        return
    from side_by_side import write

    write(TITLE, text)


def _take(step, ids):
    step.ids.copy_(ids)
    step.run()
    return float(step.loss)


def _fastest(function, device, repeats=10):
    seconds = []
    for _ in range(repeats):
        _wait(device.type == "cuda")
        started = time.perf_counter()
        function()
        _wait(device.type == "cuda")
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _wait(cuda):
    if cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

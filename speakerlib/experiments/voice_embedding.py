"""Embeddings of waveforms by an encoder of voices: of clips of any length, and of a window that slides over a file."""

import numpy as np
import torch
import torch.nn.functional as F

from speakerlib.data.front_ends import compute, normalise, num_frames
from speakerlib.experiments.scoring import side_by_side

LONGEST = 30 * 16000  # samples embedded at once: what is longer is cut into equal pieces, and their mean is taken
BATCH_FRAMES = 2_500  # of the network: more leaves the cache
BLOCK_FRAMES = 2_000  # of features computed at once from a long file
MARGIN = 4  # frames on both sides of a block, so that it is as if computed from the whole file


def embed_waveforms(encoder, front, waveforms):
    """float32 (clips, dim) of unit length, of waveforms (samples,) at 16 kHz of any lengths.

    Clips of as many frames are embedded together, so that no clip is padded: each is embedded as if it were alone.
    """
    pieces, owner = [], []
    for number, waveform in enumerate(waveforms):
        parts = np.array_split(waveform, -(-len(waveform) // LONGEST))
        pieces += parts
        owner += [number] * len(parts)
    features = _features(front, pieces)
    embedded = _embed(encoder, features)
    mean = torch.zeros(len(waveforms), embedded.shape[1]).index_add_(0, torch.tensor(owner), embedded)
    return F.normalize(mean, dim=1).numpy()


def embed_windows(encoder, front, waveform, window, hop):
    """(starts, embeddings): windows of a waveform at 16 kHz, float32 (windows, dim) of unit length.

    window, hop: frames. A window begins at each hop, the last one ends with the file; a file that is shorter than one
    is one window. starts: (windows,) frames. Features are computed once, in blocks, and the windows cut from them.
    """
    frames = long_features(front, waveform)  # (frames, mels)
    window = min(window, len(frames))
    last = len(frames) - window
    starts = np.append(np.arange(0, last, hop), last)
    size = max(1, BATCH_FRAMES // window)
    cut = frames.unfold(0, window, 1)  # (places, mels, window), a view
    parts = side_by_side(lambda first: _through(encoder, normalise(front, cut[starts[first:first + size]])),
                         range(0, len(starts), size))
    return starts, torch.cat(parts).numpy()


def long_features(front, waveform):
    """Features of a long waveform as `compute` makes them, float16 (frames, mels), in blocks of equal length."""
    total, hop = num_frames(front, len(waveform)), front.hop_length
    if total <= BLOCK_FRAMES + 2 * MARGIN:
        return compute(front, torch.from_numpy(waveform)[None])[0].T
    firsts = np.arange(0, total, BLOCK_FRAMES)
    length = (BLOCK_FRAMES + 2 * MARGIN) * hop
    padded = np.pad(waveform, (MARGIN * hop, length))
    blocks = []
    for group in np.array_split(firsts, -(-len(firsts) // 32)):
        made = compute(front, torch.from_numpy(np.stack([padded[first * hop:first * hop + length] for first in group])))
        blocks.append(made[:, :, MARGIN:MARGIN + BLOCK_FRAMES].transpose(1, 2).flatten(0, 1))
    return torch.cat(blocks)[:total]


def _features(front, pieces):
    """What the network sees of each piece, (mels, frames); those of equal length are computed together."""
    lengths = np.array([len(piece) for piece in pieces])
    features = [None] * len(pieces)
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        made = normalise(front, compute(front, torch.from_numpy(np.stack([pieces[number] for number in same]))))
        for number, values in zip(same, made):
            features[number] = values
    return features


def _embed(encoder, features):
    """(pieces, dim) of unit length; those of as many frames together."""
    frames = np.array([values.shape[1] for values in features])
    batches = []
    for length in np.unique(frames):
        same = np.flatnonzero(frames == length)
        batches += np.array_split(same, min(len(same), -(-len(same) * length // BATCH_FRAMES)))
    parts = side_by_side(lambda batch: _through(encoder, torch.stack([features[number] for number in batch])), batches)
    embedded = torch.empty(len(features), encoder.dim)
    embedded[np.concatenate(batches)] = torch.cat(parts)
    return embedded


def _through(encoder, frames):
    """(batch, mels, frames) -> (batch, dim) of unit length, float32."""
    with torch.inference_mode():
        values = encoder(frames.unsqueeze(1).contiguous(memory_format=torch.channels_last)).float()
    if not torch.isfinite(values).all():
        raise ValueError("an embedding is not finite. Did the training of these weights diverge?")
    return F.normalize(values, dim=1).clone()

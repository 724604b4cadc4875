"""From a spectrogram back to sound: undoes what can be undone of a front end, so that a filled hole can be heard."""

import torch

ITERATIONS = 32
PEAK = 0.3  # of sound from a front end that does not keep the level


def to_waveform(frames, front_end, means=None, iterations=ITERATIONS):
    """float32 (samples,) at the front end's rate, of normalised features (mels, frames).

    Undone exactly: the mean of each mel, given back in `means` (mels,), and the logarithm. Lost, and only guessed: how
    a mel's power was spread over its bins (evenly, here); the phases (Griffin and Lim 1984, begun from the same phases
    each time); and, of bytes, the level and what lay below their range. ValueError for what are not (mels, frames).
    """
    from torchaudio.functional import griffinlim

    mels = torch.as_tensor(frames, dtype=torch.float32)
    if mels.ndim != 2 or len(mels) != front_end.num_mels:
        raise ValueError(f"frames have shape {tuple(mels.shape)}; expected ({front_end.num_mels}, frames), as front "
                         f"end {front_end.name!r} makes them.")
    if means is not None:
        mels = mels + torch.as_tensor(means, dtype=torch.float32)[:, None]
    magnitude = _to_bins(_to_power(mels.flip(0) if front_end.flip else mels, front_end), front_end).sqrt()
    window = {"hann": torch.hann_window, "hamming": torch.hamming_window}[front_end.window](front_end.win_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        waveform = griffinlim(magnitude, window, front_end.n_fft, front_end.hop_length, front_end.win_length, power=1.0,
                              n_iter=iterations, momentum=0.99, length=(mels.shape[1] - 1) * front_end.hop_length,
                              rand_init=True)
    return waveform if front_end.scaling == "log" else waveform * (PEAK / waveform.abs().max().clamp(min=1e-8))


def _to_power(mels, front_end):
    """Undoes the scaling; of bytes, 255 is the loudest and 0 lies `floor` dB below it."""
    if front_end.scaling == "log":
        return (mels.exp() - front_end.floor).clamp(min=0)
    return 10 ** ((mels.clamp(0, 255) / 255 - 1) * front_end.floor / 10)


def _to_bins(power, front_end):
    """(bins, frames) from mels, lowest first: each bin the mean of the mels it lies in, spread over their width."""
    from torchaudio.functional import melscale_fbanks

    filters = melscale_fbanks(front_end.n_fft // 2 + 1, front_end.f_min, front_end.f_max, front_end.num_mels,
                              front_end.sample_rate, norm=front_end.mel_norm, mel_scale=front_end.mel_scale)
    density = power / filters.sum(dim=0).clamp(min=1e-8)[:, None]
    return (filters / filters.sum(dim=1, keepdim=True).clamp(min=1e-8)) @ density

"""From a spectrogram back to sound: undoes what can be undone of a front end, so that a filled hole can be heard."""

import torch

ITERATIONS = 32


def to_waveform(frames, front_end, means, iterations=ITERATIONS):
    """float32 (samples,) at the front end's rate, of normalised log features (mels, frames).

    Undone exactly: the mean of each mel, given back in `means` (mels,), the logarithm and its floor. Lost, and only
    guessed: how a mel's power was spread over its bins (evenly, here) and the phases (Griffin and Lim 1984, begun from
    the same phases each time). ValueError for a front end whose features are not logarithms.
    """
    from torchaudio.functional import griffinlim

    if front_end.scaling != "log":
        raise ValueError(f"front end {front_end.name!r} stores {front_end.scaling} features, without the level of "
                         "the clip; only log features can be turned back to sound. Use front_end='compact'.")
    frames, means = torch.as_tensor(frames, dtype=torch.float32), torch.as_tensor(means, dtype=torch.float32)
    mels = frames + means[:, None]
    mels = mels.flip(0) if front_end.flip else mels
    power = (mels.exp() - front_end.floor).clamp(min=0)
    magnitude = _to_bins(power, front_end).sqrt()
    window = {"hann": torch.hann_window, "hamming": torch.hamming_window}[front_end.window](front_end.win_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return griffinlim(magnitude, window, front_end.n_fft, front_end.hop_length, front_end.win_length, power=1.0,
                          n_iter=iterations, momentum=0.99, length=(frames.shape[1] - 1) * front_end.hop_length,
                          rand_init=True)


def _to_bins(power, front_end):
    """(bins, frames) from mels, lowest first: each bin the mean of the mels it lies in, spread over their width."""
    from torchaudio.functional import melscale_fbanks

    filters = melscale_fbanks(front_end.n_fft // 2 + 1, front_end.f_min, front_end.f_max, front_end.num_mels,
                              front_end.sample_rate, norm=front_end.mel_norm, mel_scale=front_end.mel_scale)
    density = power / filters.sum(dim=0).clamp(min=1e-8)[:, None]
    return (filters / filters.sum(dim=1, keepdim=True).clamp(min=1e-8)) @ density

"""Front ends: as librosa computes them, clip by clip, whatever the batch."""

import dataclasses
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data import front_ends
from speakerlib.data.front_ends import FRONT_ENDS, compute, front_end, identifier, normalise, num_frames

BOCCIO, COMPACT = FRONT_ENDS["boccio"], FRONT_ENDS["compact"]


def clips(num_samples, seed=0):
    """float32 (4, num_samples), unlike each other: hiss, speech-like, nearly silent, a burst in silence."""
    random = np.random.default_rng(seed)
    time = np.arange(num_samples) / 16000
    hiss = random.standard_normal((4, num_samples))
    voiced = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 30))
    voiced *= 1 + np.sin(2 * np.pi * 3 * time)
    burst = np.where((time > 0.4) & (time < 0.5), hiss[3], 0.0)
    rows = [0.2 * hiss[0], 0.1 * voiced + 0.002 * hiss[1], 3e-5 * hiss[2], 0.3 * burst]
    return np.stack(rows).astype(np.float32)


def boccio_by_librosa(clip):
    mels = librosa.feature.melspectrogram(y=clip, sr=16000, n_fft=2048, hop_length=160, n_mels=256)
    decibels = librosa.power_to_db(mels, ref=np.max)
    scaled = (decibels - decibels.min()) / (decibels.max() - decibels.min()) * 255
    return np.flip(scaled.astype(np.uint8), axis=0)


def assert_like_librosa(waveforms):
    """At most one level of 255 apart, on at most one pixel of a thousand."""
    found = compute(BOCCIO, torch.from_numpy(waveforms)).numpy()
    expected = np.stack([boccio_by_librosa(clip) for clip in waveforms])
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_boccio_is_librosa_on_unlike_clips():
    assert_like_librosa(clips(48000))


def test_boccio_is_librosa_on_real_speech(so762):
    import soundfile

    waveforms = []
    for path in sorted(so762.glob("speech/*/*"))[::200]:
        samples, _ = soundfile.read(path, dtype="float32")
        waveforms.append(np.resize(samples, 48000))
    assert_like_librosa(np.stack(waveforms))


def test_compact_is_librosa_in_double_precision():
    waveforms = clips(24000)
    power = np.abs(librosa.stft(waveforms.astype(np.float64), n_fft=512, win_length=400, hop_length=160,
                                window="hann", pad_mode="constant")) ** 2
    filters = librosa.filters.mel(sr=16000, n_fft=512, n_mels=64, fmin=20, fmax=7600, norm=None, dtype=float)
    expected = np.log(filters @ power + 1e-6)
    found = compute(COMPACT, torch.from_numpy(waveforms)).numpy()
    assert found.dtype == np.float16
    # Half a step of a float16 up to 16 is 0.004; the rest is single precision.
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=0, atol=0.005)


@pytest.mark.parametrize("record, seconds, shape, dtype", [
    (BOCCIO, 3.0, (256, 301), torch.uint8), (COMPACT, 1.5, (64, 151), torch.float16)])
def test_sizes_of_the_design(record, seconds, shape, dtype):
    features = compute(record, torch.from_numpy(clips(round(seconds * 16000))))
    assert features.shape == (4, *shape)
    assert features.dtype == dtype
    assert features.transpose(1, 2).is_contiguous()  # stored frames first


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_clip_does_not_depend_on_its_batch(name):
    waveforms = torch.from_numpy(np.concatenate([clips(16000, seed) for seed in range(4)]))
    together = compute(FRONT_ENDS[name], waveforms).float()
    alone = torch.cat([compute(FRONT_ENDS[name], clip[None]) for clip in waveforms]).float()
    step = 1.0 if name == "boccio" else 2 ** -7
    assert (together - alone).abs().max() <= step
    assert ((together - alone) != 0).float().mean() < 1e-3


@settings(max_examples=30, deadline=None)
@given(num_samples=st.integers(1600, 9000), name=st.sampled_from(sorted(FRONT_ENDS)))
def test_num_frames_is_what_compute_gives(num_samples, name):
    record = FRONT_ENDS[name]
    features = compute(record, torch.zeros(1, num_samples))
    assert features.shape == (1, record.num_mels, num_frames(record, num_samples))


def test_boccio_reaches_the_network_as_0_to_255_and_loud_is_high():
    seen = normalise(BOCCIO, compute(BOCCIO, torch.from_numpy(clips(48000))))
    assert seen.dtype == torch.float32
    assert seen.amin(dim=(1, 2)).tolist() == [0.0] * 4
    assert seen.amax(dim=(1, 2)).tolist() == [255.0] * 4


def test_compact_has_no_mean_over_time_and_so_no_level():
    waveforms = torch.from_numpy(clips(24000)[:1])
    loud, quiet = (normalise(COMPACT, compute(COMPACT, level * waveforms)) for level in (1.0, 0.25))
    assert loud.mean(dim=-1).abs().max() < 1e-5
    assert (loud - quiet).abs().max() < 0.02


def test_normalise_leaves_the_stored_features_as_they_are():
    stored = compute(COMPACT, torch.from_numpy(clips(16000))).float()
    copy = stored.clone()
    normalise(COMPACT, stored)
    assert torch.equal(stored, copy)


@pytest.mark.parametrize("name, low_row, high_row", [("boccio", range(200, 256), range(0, 56)),
                                                     ("compact", range(0, 14), range(50, 64))])
def test_boccio_has_its_highest_mel_in_row_0_and_compact_its_lowest(name, low_row, high_row):
    time = torch.arange(16000) / 16000
    tones = 0.5 * torch.sin(2 * torch.pi * torch.tensor([[300.0], [7000.0]]) * time)
    loudest = compute(FRONT_ENDS[name], tones).float().mean(dim=2).argmax(dim=1).tolist()
    assert loudest[0] in low_row
    assert loudest[1] in high_row


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize("level", [0.0, 1e-30])
def test_silence_is_finite_and_flat(name, level):
    seen = normalise(FRONT_ENDS[name], compute(FRONT_ENDS[name], torch.full((2, 16000), level)))
    quietest = 0.0 if name != "log_mel" else np.log(np.float32(1e-6)).astype(np.float16)  # the floor, not removed
    assert torch.equal(seen, torch.full_like(seen, float(quietest)))


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match="'compct'.*Did you mean 'compact'"):
        front_end("compct")
    with pytest.raises(ValueError, match=r"expected one of \['boccio', 'compact', 'log_mel'\]"):
        front_end(None)
    assert front_end("boccio") is front_end(BOCCIO) is BOCCIO


@pytest.mark.parametrize("waveforms", [torch.zeros(16000), torch.zeros(2, 16000, dtype=torch.int16)])
def test_other_shapes_and_dtypes_are_refused(waveforms):
    with pytest.raises(ValueError, match=r"expected torch.float32 of shape \(batch, samples\)"):
        compute(COMPACT, waveforms)


def test_the_identifier_changes_with_every_field():
    other = {"str": "another", "int": 1234, "float": 12.5, "bool": None, "NoneType": "slaney"}
    for record in FRONT_ENDS.values():
        changed = []
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            new = not value if isinstance(value, bool) else other[type(value).__name__]
            changed.append(identifier(dataclasses.replace(record, **{field.name: new})))
        assert len({identifier(record), *changed}) == 1 + len(changed)


def test_a_front_end_with_changed_settings_computes():
    """What the sliders of a notebook do."""
    record = dataclasses.replace(COMPACT, num_mels=40, n_fft=1024, win_length=800, hop_length=80,
                                 window="hamming", mel_scale="htk", pad_mode="reflect", flip=True)
    features = compute(record, torch.from_numpy(clips(8000)))
    assert features.shape == (4, 40, 101)
    assert torch.isfinite(features.float()).all()


def test_the_working_memory_does_not_grow_with_the_batch(monkeypatch):
    largest = []
    mel_power = front_ends._mel_power

    def counted(front_end, waveforms):
        largest.append(len(waveforms))
        return mel_power(front_end, waveforms)

    monkeypatch.setattr(front_ends, "_mel_power", counted)
    compute(BOCCIO, torch.zeros(64, 48000))
    assert sum(largest) == 64
    assert max(largest) * 301 * (2048 * 4 + 1025 * 8) <= front_ends.CHUNK_BYTES


def test_the_number_of_threads_changes_no_byte_and_is_left_as_it_is():
    waveforms = torch.from_numpy(np.concatenate([clips(48000, seed) for seed in range(3)]))
    before, computed = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            computed.append(compute(BOCCIO, waveforms))
            with ThreadPoolExecutor(1) as new_thread:
                assert torch.get_num_threads() == new_thread.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(computed[0], computed[1]) and torch.equal(computed[0], computed[2])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_computes_with_threads_of_its_own():
    waveforms = torch.from_numpy(clips(48000, 0).repeat(6, axis=0))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        known = compute(BOCCIO, waveforms)
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(daemon=True, target=lambda: answers.put(
            crc32(compute(BOCCIO, waveforms).numpy().tobytes())))
        child.start()
        child.join(60)
        assert child.exitcode == 0 and answers.get() == crc32(known.numpy().tobytes())
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_is_raised_and_the_next_clips_are_computed(monkeypatch):
    waveforms, mel_power = torch.zeros(8, 48000), front_ends._mel_power

    def fails(front_end, waveforms):
        raise MemoryError("no room")

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(front_ends, "_mel_power", fails)
        with pytest.raises(MemoryError, match="no room"):
            compute(BOCCIO, waveforms)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(front_ends, "_mel_power", mel_power)
        assert not compute(BOCCIO, waveforms).any()
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:At least one mel")
@pytest.mark.parametrize("record", [
    BOCCIO, COMPACT,
    dataclasses.replace(COMPACT, num_mels=45, n_fft=500, win_length=401, window="hamming", pad_mode="reflect"),
    dataclasses.replace(COMPACT, num_mels=256, mel_scale="htk")])  # bands of mels too narrow to hold a bin
def test_mels_in_bands_are_the_filters_product_with_the_whole_power(record):
    waveforms = torch.from_numpy(clips(24000))
    window = {"hann": torch.hann_window, "hamming": torch.hamming_window}[record.window](record.win_length)
    spectrum = torch.stft(waveforms, record.n_fft, record.hop_length, record.win_length, window, center=True,
                          pad_mode=record.pad_mode, return_complex=True)
    expected = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) @ front_ends._filters(record)
    found = front_ends._mel_power(record, waveforms)
    assert found.shape == expected.shape
    for clip, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(clip, wanted, rtol=1e-5, atol=1e-12 * float(wanted.max()))

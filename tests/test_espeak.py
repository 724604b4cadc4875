"""espeak-ng's voices: the same request, the same samples; bad requests and a missing library are named."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from speakerlib.data import espeak
from speakerlib.data.espeak import espeak_version, synthesise, synthesise_all

pytest.importorskip("espeakng_loader", reason="espeak-ng is not installed (the extra 'demo')")
TEXT = "The river carried seven small boats past the old mill."


def request(**changes):
    usual = {"text": TEXT, "voice": "gmw/en-US", "variant": "f2", "rate": 170, "pitch": 50, "pitch_range": 50}
    return usual | changes


def fundamental(samples, rate=22050):
    """Median over the loud frames of the strongest autocorrelation peak between 60 and 500 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(float), 1024)[::512]
    frames = frames[np.sqrt(np.mean(frames ** 2, axis=1)) > 1000]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, rate // 500:rate // 60]
    return rate / (rate // 500 + np.median(np.argmax(correlation, axis=1)))


def test_speaks_for_as_long_as_the_rate_says():
    samples, rate = synthesise(TEXT)
    assert samples.dtype == np.int16 and rate == 22050
    assert 2 < len(samples) / rate < 5 and 2000 < np.abs(samples.astype(int)).max() < 32767
    fast, _ = synthesise(TEXT, rate=300)
    assert len(fast) < 0.75 * len(samples)


@pytest.mark.parametrize("variant", ["m3", "f2"])
def test_pitch_is_on_the_stated_scale(variant):
    requests = [request(variant=variant, pitch=pitch, pitch_range=30) for pitch in (0, 50, 99)]
    low, middle, high = synthesise_all(requests)
    assert fundamental(low) == pytest.approx(0.67 * fundamental(middle), rel=0.05)
    assert fundamental(high) == pytest.approx(1.7 * fundamental(middle), rel=0.05)


def test_a_list_is_spoken_the_same_every_time_whatever_was_spoken_before_or_beside_it():
    requests = [request(variant=variant) for variant in ("m3", "f2", "klatt3", "steph")]
    alone = synthesise_all(requests)
    synthesise(TEXT, variant="whisper")
    with ThreadPoolExecutor(4) as pool:
        for beside in pool.map(synthesise_all, [requests] * 4):
            assert all(np.array_equal(a, b) for a, b in zip(alone, beside, strict=True))


@pytest.mark.parametrize(("changes", "message"), [
    ({"voice": "gmw/en-XX"}, "gmw/en-US"), ({"variant": "nobody"}, "nobody.*Alex"),
    ({"rate": 20}, "80 to 450"), ({"pitch": 100}, "pitch is 100"), ({"pitch_range": -1}, "pitch_range is -1"),
    ({"text": " "}, "one word")])
def test_refuses_what_espeak_would_change_in_silence(changes, message):
    with pytest.raises(ValueError, match=message):
        synthesise_all([request(**changes)])


def test_reads_its_data_from_a_very_long_path(tmp_path, monkeypatch):
    library, data = espeak._installation()
    deep = Path(tmp_path, *["a folder with a long name"] * 8)
    deep.mkdir(parents=True)
    (deep / data.name).symlink_to(data)
    samples, _ = synthesise(TEXT)
    monkeypatch.setattr(espeak, "_installation", lambda: (library, deep / data.name))
    assert np.array_equal(synthesise(TEXT)[0], samples)


def test_a_missing_or_broken_library_says_what_to_install(tmp_path, monkeypatch):
    library, data = espeak._installation()
    assert espeak_version()[0].isdigit()
    broken = tmp_path / library.name
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(espeak, "_installation", lambda: (broken, data))
    with pytest.raises(RuntimeError, match="(?s)failed.*pip install --force-reinstall espeakng-loader"):
        synthesise(TEXT)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install espeakng-loader"):
        espeak_version()

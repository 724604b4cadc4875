"""Utterances are cut where they are, out of any container, and nothing is cut out of what is damaged."""

import errno
import hashlib
import os
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speakerlib.data.audio import AudioError
from speakerlib.data.scraping.cutting import cut_utterances

RATE = 16000
SECONDS = 12.0
SPANS = [("id1", "00003", 8.0, 12.0), ("id1", "00001", 0.0, 3.0), ("id2", "00001", 2.48, 6.0),
         ("id1", "00002", 2.48, 6.0), ("id1", "00004", 4.0, 5.0)]  # unsorted, to both ends, identical, within others


def noise(seconds=SECONDS, seed=0):
    """int16 (samples,): a different sound at every moment, mostly below 2 kHz."""
    wave = np.convolve(np.random.default_rng(seed).normal(0, 1, round(seconds * RATE)), np.hanning(11), "same")
    return np.round(wave / np.abs(wave).max() * 20000).astype(np.int16)


def write(path, samples, codec, rate, offset=0.0, picture=False, layout="mono"):
    """Encodes int16 (samples,) or (channels, samples), to be heard from `offset` s on."""
    samples = np.atleast_2d(samples)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        video = add_picture(container) if picture else None
        for first in range(0, samples.shape[1], 1 << 16):
            block = np.ascontiguousarray(samples[:, first:first + (1 << 16)].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), first + round(offset * RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if video is not None:
            draw_pictures(container, video, 25 * samples.shape[1] // RATE)
    return path


def add_picture(container):
    video = container.add_stream("mpeg4", rate=25)
    video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
    return video


def draw_pictures(container, video, count):
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(np.full((72, 64), 128, np.uint8), format="yuv420p")
        frame.pts = number
        container.mux(video.encode(frame))
    container.mux(video.encode(None))


def lossless(path, samples):
    soundfile.write(path, samples, RATE, "PCM_16")
    return path


def heard(cut):
    """The samples of a cut's file, which are what its hash says."""
    samples, rate = soundfile.read(cut.path, dtype="int16")
    file = soundfile.info(cut.path)
    assert (rate, file.channels, file.format, file.subtype) == (RATE, 1, "FLAC", "PCM_16")
    assert len(samples) == cut.num_samples and not cut.skipped
    assert hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest() == cut.sha256
    return samples


def delay(samples, expected):
    """By how many ms `samples` come late, and how well they then agree."""
    size = 2 * len(samples)
    product = np.fft.rfft(samples.astype(float), size) * np.conj(np.fft.rfft(expected.astype(float), size))
    late = int(np.argmax(np.fft.irfft(product)))
    late = late - size if late > len(samples) else late
    moved, fixed = samples[max(late, 0):], expected[max(-late, 0):]
    length = min(len(moved), len(fixed))
    return 1000 * late / RATE, np.corrcoef(moved[:length], fixed[:length])[0, 1]


@pytest.mark.parametrize(("name", "codec", "rate", "offset", "picture", "tolerance"), [
    ("a.m4a", "aac", 44100, 0.0, False, 0.1), ("a.webm", "libopus", 48000, 0.0, False, 0.1),
    ("a.mp4", "aac", 44100, 0.0, True, 0.1), ("late.mp4", "aac", 48000, 0.5, True, 2.0),
    ("late.webm", "libopus", 48000, 0.5, False, 2.0), ("a.mp3", "libmp3lame", 44100, 0.0, False, 0.1),
    ("a.ts", "aac", 48000, 0.0, False, 25.0)])  # a transport stream does not say what the encoder put in front
def test_utterances_begin_where_they_are_heard(tmp_path, name, codec, rate, offset, picture, tolerance):
    sound = noise()
    path = write(tmp_path / name, sound, codec, rate, offset, picture)
    cuts, seconds = cut_utterances(path, SPANS, tmp_path)
    assert abs(seconds - SECONDS - offset) < 0.1
    expected = np.concatenate([np.zeros(round(offset * RATE), np.int16), sound])
    for cut, (speaker, utterance, start, end) in zip(cuts, SPANS, strict=True):
        assert (cut.speaker, cut.utterance) == (speaker, utterance)
        late, agreement = delay(heard(cut), expected[round(start * RATE):round(end * RATE)])
        assert abs(late) <= tolerance and agreement > 0.98
        assert cut.num_samples == round(end * RATE) - round(start * RATE)
    assert cuts[2].sha256 == cuts[3].sha256 != cuts[1].sha256
    assert len({cut.path for cut in cuts}) == len(cuts)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 4.0), st.floats(0.5, 4.0)), min_size=1, max_size=6))
def test_any_spans_are_slices_of_the_whole(tmp_path, pairs):
    sound = noise(4.0)
    path = tmp_path / "a.flac"
    if not path.exists():
        lossless(path, sound)
    spans = [("id1", str(number), start, start + length) for number, (start, length) in enumerate(pairs)]
    for cut, (_, _, start, end) in zip(cut_utterances(path, spans, tmp_path)[0], spans, strict=True):
        expected = sound[round(start * RATE):round(end * RATE)]
        if end > 4.1:
            assert cut.skipped == f"past the end: ends at {end:.1f} s, the audio at 4.0 s" and cut.path is None
        elif len(expected) < 0.5 * RATE:
            assert cut.skipped == "under 0.5 s"
        else:
            assert np.array_equal(heard(cut), expected)


def test_what_cannot_be_used_is_skipped_with_its_reason(tmp_path):
    sound = noise(6.0)
    sound[2 * RATE:4 * RATE] = 7  # a constant is no sound, whatever its level
    sound[round(3.5 * RATE)] = 9
    spans = [("id1", "silent", 2.0, 3.0), ("id1", "dithered", 3.0, 4.0), ("id1", "short", 1.0, 1.4),
             ("id1", "past", 5.0, 6.2), ("id1", "beyond", 60.12, 65.24), ("id1", "nearly", 5.0, 6.04),
             ("id1", "good", 0.5, 1.5)]
    cuts, seconds = cut_utterances(lossless(tmp_path / "a.flac", sound), spans, tmp_path / ".")
    assert [cut.skipped for cut in cuts] == [
        "silent", "silent", "under 0.5 s", "past the end: ends at 6.2 s, the audio at 6.0 s",
        "past the end: ends at 65.2 s, the audio at 6.0 s", "", ""]
    assert [(cut.path, cut.num_samples, cut.sha256) for cut in cuts[:5]] == [(None, 0, "")] * 5
    assert np.array_equal(heard(cuts[5]), sound[5 * RATE:])
    assert seconds == 6.0 and len(list(tmp_path.glob("*.flac"))) == 3


def test_channels_become_their_mean_at_any_rate(tmp_path):
    stereo = np.stack([noise(2.0, 1), noise(2.0, 2)])
    cuts, _ = cut_utterances(write(tmp_path / "a.flac", stereo, "flac", 16000, layout="stereo"),
                             [("id1", "1", 0.0, 2.0)], tmp_path)
    assert np.abs(heard(cuts[0]) - stereo.mean(axis=0)).max() <= 1


def test_a_change_of_rate_on_the_way_does_not_change_the_pitch(tmp_path):
    tone = np.round(8000 * np.sin(2 * np.pi * 500 * np.arange(2 * RATE) / RATE)).astype(np.int16)
    parts = [write(tmp_path / f"{rate}.aac", tone, "aac", rate).read_bytes() for rate in (16000, 44100)]
    (tmp_path / "a.aac").write_bytes(b"".join(parts))
    cuts, _ = cut_utterances(tmp_path / "a.aac", [("id1", "1", 0.5, 1.5), ("id1", "2", 2.5, 3.5)], tmp_path)
    assert [int(np.argmax(np.abs(np.fft.rfft(heard(cut))))) for cut in cuts] == [500, 500]


def test_a_gap_in_the_timestamps_is_silence_and_moves_what_follows(tmp_path):
    sound, path = noise(4.0), tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        for first, at in ((0, 0), (2 * RATE, 5 * RATE)):  # three seconds are missing after two
            frame = av.AudioFrame.from_ndarray(sound[None, first:first + 2 * RATE], format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    spans = [("id1", "after", 5.5, 6.5), ("id1", "across", 1.0, 6.0), ("id1", "into", 1.0, 3.0),
             ("id1", "within", 3.0, 4.0)]
    cuts, seconds = cut_utterances(path, spans, tmp_path)
    expected = np.concatenate([sound[:2 * RATE], np.zeros(3 * RATE, np.int16), sound[2 * RATE:]])
    slack = 0.25 * RATE  # the encoder's blocks blur where the gap lies
    for cut, (_, _, start, end) in zip(cuts[:3], spans, strict=False):
        samples, wanted = heard(cut), expected[round(start * RATE):round(end * RATE)]
        assert len(samples) == len(wanted) and (samples != wanted).sum() <= slack
    assert cuts[3].skipped == "silent" and abs(seconds - 7.0) < 0.3


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.m4a", "aac", 44100), ("a.webm", "libopus", 48000)])
def test_a_file_cut_short_yields_no_utterance_it_does_not_hold(tmp_path, name, codec, rate):
    path = write(tmp_path / ("whole" + name), noise(), codec, rate)
    if codec == "aac":  # with the index in front, as the web's files have it
        with av.open(str(path)) as source, av.open(str(tmp_path / name), "w",
                                                   options={"movflags": "faststart"}) as container:
            stream = container.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(audio=0):
                if packet.dts is not None:
                    packet.stream = stream
                    container.mux(packet)
        path = tmp_path / name
    content = path.read_bytes()
    path = tmp_path / ("cut" + name)
    path.write_bytes(content[:len(content) * 2 // 3])
    with pytest.raises(AudioError, match="truncated|unreadable"):
        cut_utterances(path, [("id1", "1", 1.0, 3.0), ("id1", "2", 9.0, 11.0)], tmp_path)
    cuts, _ = cut_utterances(path, [("id1", "1", 1.0, 3.0)], tmp_path)  # before the damage
    assert delay(heard(cuts[0]), noise()[RATE:3 * RATE])[1] > 0.99


def test_what_is_no_audio_says_what_it_is(tmp_path):
    def reason(content):
        (tmp_path / "a.m4a").write_bytes(content)
        with pytest.raises(AudioError) as caught:
            cut_utterances(tmp_path / "a.m4a", [("id1", "1", 0.0, 1.0)], tmp_path)
        return caught.value.reason

    assert reason(b"<!DOCTYPE html><html><body>Too many requests</body></html>" * 9).startswith("unreadable")
    assert reason(b"").startswith("unreadable")
    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        draw_pictures(container, add_picture(container), 25)
    assert reason((tmp_path / "silent.mp4").read_bytes()) == "unreadable: no audio in it"


def test_no_more_is_held_than_the_utterances(tmp_path):
    sound = np.tile(noise(20.0), 30)  # ten minutes: 19 MB
    path = lossless(tmp_path / "a.flac", sound)
    spans = [("id1", str(second), second + 0.25, second + 8.25) for second in range(0, 590, 10)]
    cut_utterances(path, spans[:1], tmp_path)  # what is imported and opened once
    tracemalloc.start()
    try:
        cuts, _ = cut_utterances(path, spans, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(cut.num_samples for cut in cuts) == len(spans) * 8 * RATE
    assert peak < 3e6


def test_decoding_stops_after_the_last_utterance(tmp_path, monkeypatch):
    import speakerlib.data.scraping.cutting as cutting

    blocks, seen = cutting._blocks, []
    monkeypatch.setattr(cutting, "_blocks", lambda path: (seen.append(block) or block for block in blocks(path)))
    path = write(tmp_path / "a.m4a", noise(), "aac", 44100)
    _, seconds = cut_utterances(path, [("id1", "1", 1.0, 2.0)], tmp_path)
    assert 2 * RATE <= sum(len(block) for _, block in seen) < 3 * RATE
    assert abs(seconds - SECONDS) < 0.1  # and still says how long the audio is


def test_a_full_disk_is_no_fault_of_the_audio(tmp_path, monkeypatch):
    path = lossless(tmp_path / "a.flac", noise(2.0))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        cut_utterances(path, [("id1", "1", 0.0, 1.0)], tmp_path)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(("start", "end"), [(-1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (0.0, float("inf")),
                                            (float("nan"), 2.0)])
def test_a_span_that_is_none_is_named(tmp_path, start, end):
    with pytest.raises(ValueError, match="'00007' of 'id1'"):
        cut_utterances(lossless(tmp_path / "a.flac", noise(2.0)), [("id1", "00007", start, end)], tmp_path)

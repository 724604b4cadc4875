"""Any audio becomes 16 kHz mono; what cannot be used says why."""

import copy
import struct

import numpy as np
import pytest
import soundfile

from speakerlib.data.audio import AUDIO_SUFFIXES, AudioError, read_audio, read_int16, to_int16, write_audio

RATE = 16000


def tone(seconds=1.0, rate=RATE, frequency=440.0, level=0.5):
    """float32 (samples,): a sine."""
    times = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def write_with_av(path, waveform, codec, rate, layout="mono"):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(to_int16(waveform)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def reason(path):
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert caught.value.path == path and str(path) in str(caught.value)
    with pytest.raises(AudioError) as again:
        read_int16(path)
    assert (again.value.path, again.value.reason) == (path, caught.value.reason)
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_lossless_round_trip_is_exact(tmp_path, suffix):
    samples = np.random.default_rng(0).integers(-32768, 32768, 20000).astype(np.int16)
    write_audio(tmp_path / f"a{suffix}", samples)
    assert np.array_equal(to_int16(read_audio(tmp_path / f"a{suffix}")), samples)
    write_audio(tmp_path / f"b{suffix}", samples / np.float32(32768))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("kind", [  # suffix, subtype, rate, channels
    (".wav", "PCM_16", RATE, 1), (".flac", "PCM_16", RATE, 1), (".wav", "PCM_16", 8000, 1), (".wav", "PCM_16", RATE, 2),
    (".wav", "PCM_24", RATE, 1), (".flac", "PCM_S8", RATE, 1), (".wav", "FLOAT", RATE, 1), (".ogg", "VORBIS", RATE, 1)])
def test_samples_as_stored_are_those_of_read_audio(tmp_path, kind):
    suffix, subtype, rate, channels = kind
    path = tmp_path / f"a{suffix}"
    samples = np.random.default_rng(0).normal(0, 0.4, (6 * rate, channels)).clip(-1, 1)
    soundfile.write(path, samples, rate, subtype)
    for part in ({}, {"start": 0.7}, {"start": 1.3, "duration": 0.25}, {"duration": 20.0}):
        found = read_int16(path, **part)
        assert found.dtype == np.int16
        assert np.array_equal(found, to_int16(read_audio(path, **part)))
    with pytest.raises(AudioError, match="nothing after 7.0 s"):
        read_int16(path, start=7.0)


def wav_of(samples, form, before=b"", after=b"", declared=None):
    """A wav file made by hand: form is its fmt chunk, before and after are chunks around the samples."""
    data = samples.astype("<i2").tobytes()
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + before
    body += b"data" + struct.pack("<I", len(data) if declared is None else declared) + data + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


PLAIN = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
ODD_CHUNK = b"LIST" + struct.pack("<I", 5) + b"INFOx" + b"\0"
EXTENSIBLE = struct.pack("<HHIIHHHHIH", 0xFFFE, 1, RATE, 2 * RATE, 2, 16, 22, 16, 4, 1) + bytes.fromhex(
    "000000001000800000aa00389b71")


@pytest.mark.parametrize("parts", [
    {"form": PLAIN}, {"form": PLAIN + b"\0\0"}, {"form": EXTENSIBLE}, {"form": PLAIN, "before": ODD_CHUNK},
    {"form": PLAIN, "after": ODD_CHUNK + b"junk"}, {"form": PLAIN, "declared": 0x7FFFFFFF}])
@pytest.mark.parametrize("part", [(0.0, None), (0.25, 0.5), (0.9, 5.0), (0.33333, None)])
def test_a_wav_of_any_chunks_has_the_samples_that_soundfile_finds(tmp_path, parts, part):
    samples = np.random.default_rng(1).integers(-32768, 32768, RATE).astype(np.int16)
    (tmp_path / "a.wav").write_bytes(wav_of(samples, **parts))
    read = read_int16(tmp_path / "a.wav", *part)
    assert read.dtype == np.int16 and len(read) > 1000
    np.testing.assert_array_equal(read, to_int16(read_audio(tmp_path / "a.wav", RATE, *part)))


@pytest.mark.parametrize("suffix", [".opus", ".ogg"])
def test_lossy_round_trip_sounds_the_same(tmp_path, suffix):
    waveform = tone(12.0)
    write_audio(tmp_path / f"a{suffix}", waveform)
    back = read_audio(tmp_path / f"a{suffix}")
    assert back.shape == waveform.shape and back.dtype == np.float32
    assert np.corrcoef(back, waveform)[0, 1] > 0.99


@pytest.mark.parametrize(("suffix", "codec", "rate"), [(".m4a", "aac", 44100), (".webm", "libopus", 48000),
                                                       (".mp4", "aac", 16000), (".aac", "aac", 16000),
                                                       (".mp3", "libmp3lame", 32000)])
def test_what_downloads_bring_is_read(tmp_path, suffix, codec, rate):
    assert suffix in AUDIO_SUFFIXES
    write_with_av(tmp_path / f"a{suffix}", tone(2.0), codec, rate)
    back = read_audio(tmp_path / f"a{suffix}")
    assert abs(len(back) - 2 * RATE) < 0.15 * RATE  # encoders pad
    middle = back[RATE // 2:RATE // 2 + RATE]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_rates_and_channels_are_converted(tmp_path, rate):
    left, right = tone(1.0, rate, 300.0), tone(1.0, rate, 500.0)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), rate)
    expected = (tone(1.0, RATE, 300.0) + tone(1.0, RATE, 500.0)) / 2
    back = read_audio(tmp_path / "a.wav")
    assert back.shape == (RATE,)
    assert np.abs(back - expected)[200:-200].max() < 2e-3


def test_a_part_is_the_slice_of_the_whole(tmp_path):
    write_audio(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 3 * RATE))
    write_with_av(tmp_path / "a.webm", tone(3.0), "libopus", 48000)
    whole = read_audio(tmp_path / "a.flac")
    assert np.array_equal(read_audio(tmp_path / "a.flac", start=0.5, duration=1.25), whole[8000:28000])
    assert np.array_equal(read_audio(tmp_path / "a.flac", start=2.5), whole[40000:])
    assert len(read_audio(tmp_path / "a.webm", start=1.0, duration=0.5)) == 8000
    with pytest.raises(AudioError, match="nothing after 7.0 s"):
        read_audio(tmp_path / "a.flac", start=7.0)


def test_loud_decodes_are_clipped_and_other_scales_reported(tmp_path):
    soundfile.write(tmp_path / "loud.wav", tone(level=1.3), RATE, subtype="FLOAT")
    back = read_audio(tmp_path / "loud.wav")
    assert back.max() == 1 and back.min() == -1
    soundfile.write(tmp_path / "scale.wav", tone(level=20000.0), RATE, subtype="FLOAT")
    assert reason(tmp_path / "scale.wav") == "samples up to 20000, expected -1 to 1"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_reported(tmp_path, value):
    waveform = tone()
    waveform[500] = value
    soundfile.write(tmp_path / "a.wav", waveform, RATE, subtype="FLOAT")
    assert reason(tmp_path / "a.wav") == "NaN or infinite samples"


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_is_reported_also_with_an_offset(tmp_path, level):
    soundfile.write(tmp_path / "a.wav", np.full(RATE, level, np.float32), RATE)
    assert reason(tmp_path / "a.wav") == "silent"


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_text_and_empty_files_are_reported_under_every_suffix(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("this is not audio, whatever its name says\n" * 50)
    assert reason(path).split(":")[0] in ("unreadable", "empty")
    path.write_bytes(b"")
    assert reason(path) == "empty"


def test_a_playlist_that_calls_itself_audio_opens_no_connection(tmp_path):
    path = tmp_path / "a.wav"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    assert reason(path).split(":")[0] in ("unreadable", "empty")


def test_a_header_without_samples_is_empty(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.int16), RATE)
    assert reason(tmp_path / "a.wav") == "empty"


@pytest.mark.parametrize(("suffix", "share", "expected"), [
    (".wav", 0.5, "truncated: 2.0 of 4.0 s"),
    (".wav", 0.99, "truncated: 4.0 of 4.0 s"),
    (".flac", 0.5, "truncated: "),
    (".flac", 0.95, "truncated: "),
    (".opus", 0.5, "truncated: its last page is cut off"),
    (".ogg", 0.9, "truncated: its last page is cut off"),
    (".webm", 0.6, "truncated: "),
    (".m4a", 0.6, "unreadable: "),  # its index stands at the end
    (".mp3", 0.5, "truncated: ")])
def test_a_file_that_ends_early_is_reported(tmp_path, suffix, share, expected):
    path = tmp_path / f"a{suffix}"
    waveform = np.random.default_rng(0).normal(0, 0.1, 4 * RATE)
    if suffix in (".webm", ".m4a", ".mp3"):
        codecs = {".webm": ("libopus", 48000), ".m4a": ("aac", RATE), ".mp3": ("libmp3lame", 32000)}
        write_with_av(path, waveform, *codecs[suffix])
    else:
        write_audio(path, waveform)
    assert len(read_audio(path)) > 3.9 * RATE
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    assert reason(path).startswith(expected)


def test_a_wav_written_to_a_pipe_is_whole(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, tone())
    content = bytearray(path.read_bytes())
    data = content.index(b"data")
    for length in (0xFFFFFFFF, 0x7FFFFFFF):  # what writers put where they cannot know
        content[data + 4:data + 8] = struct.pack("<I", length)
        path.write_bytes(content)
        assert np.abs(read_audio(path) - tone()).max() < 1e-4


def test_a_missing_file_is_no_audio_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nix.wav"):
        read_audio(tmp_path / "nix.wav")
    assert "directory" in reason(tmp_path)


def test_writing_refuses_what_would_be_read_as_something_else(tmp_path):
    for waveform, path in [(np.zeros((2, 100)), "a.wav"), (np.full(9, np.nan), "a.wav"), (tone(), "a.mp3")]:
        with pytest.raises(ValueError):
            write_audio(tmp_path / path, waveform)
    assert not list(tmp_path.iterdir())


def test_an_audio_error_survives_another_process(tmp_path):
    error = copy.copy(AudioError(tmp_path / "a.wav", "silent"))  # by the way that processes use
    assert (error.path, error.reason) == (tmp_path / "a.wav", "silent")

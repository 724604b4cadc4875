"""LibriSpeech and Speech Commands on small trees of their layout, fetched from a server on this computer."""

import socket
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch.hub

from speakerlib.data import public_corpora
from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import import_corpus
from speakerlib.data.public_corpora import CORPORA, STAGING, download_corpus


def noise(path, seed):
    write_audio(path, np.random.default_rng(seed).integers(-9000, 9000, 9600).astype(np.int16))


def make_librispeech(folder, subset="dev-clean", speakers=(84, 174, 1272, 8842)):
    for speaker in speakers:
        for chapter in (121123, 50561):
            place = folder / "LibriSpeech" / subset / str(speaker) / str(chapter)
            names = [f"{speaker}-{chapter}-{number:04d}" for number in range(2)]
            for number, name in enumerate(names):
                noise(place / f"{name}.flac", speaker + chapter + number)
            (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(f"{name} A WORD\n" for name in names))
    (folder / "LibriSpeech" / "SPEAKERS.TXT").write_text("; all of them\n")
    return folder


def make_speech_commands(folder):
    place = folder / "SpeechCommands" / "speech_commands_v0.02"
    for seed, name in enumerate(["bed/0a7c2a8d_nohash_0", "bed/0a7c2a8d_nohash_1", "cat/0a7c2a8d_nohash_0",
                                 "bed/11b1df78_nohash_0", "cat/f92e49f3_nohash_4", "_background_noise_/pink_noise",
                                 "_background_noise_/x_nohash_0"]):
        noise(place / f"{name}.wav", seed)
    (place / "testing_list.txt").write_text("cat/f92e49f3_nohash_4.wav\n")
    return folder


def ids(corpus):
    return list(corpus.table[["speaker", "session", "utterance"]].itertuples(index=False, name=None))


@pytest.fixture
def offline(monkeypatch):
    """Nothing may be downloaded."""
    for module in ("librispeech", "speechcommands"):
        monkeypatch.setattr(f"torchaudio.datasets.{module}.download_url_to_file", lambda *asked, **_: 1 / 0)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server on loopback in place of the corpora's; what it is asked for, and its folder."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    (tmp_path / "served").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "served"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def fetch(url, path, hash_prefix=None, **_):
        there = f"http://127.0.0.1:{server.server_address[1]}/{url.split('/')[-1]}"
        torch.hub.download_url_to_file(there, str(path), mirror.hash, progress=False)

    for module in ("librispeech", "speechcommands"):
        monkeypatch.setattr(f"torchaudio.datasets.{module}.download_url_to_file", fetch)
    mirror = SimpleNamespace(folder=tmp_path / "served", asked=asked, hash=None, server=server)
    yield mirror
    server.shutdown()
    server.server_close()


def pack(path, folder, top):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / top, "." if top != "LibriSpeech" else top)
    return path


# Trees that are there


@pytest.mark.parametrize("given", ["", "LibriSpeech", "LibriSpeech/dev-clean"])
def test_a_librispeech_tree_that_is_there_is_imported_and_not_downloaded(data_folder, tmp_path, offline, capsys, given):
    make_librispeech(tmp_path / "speech")
    corpus = download_corpus("librispeech", folder=tmp_path / "speech" / given, progress=False)
    assert corpus.name == "librispeech-dev-clean" and len(corpus.table) == 16
    assert ids(corpus)[0] == ("1272", "121123", "0000") and ids(corpus)[-1] == ("8842", "50561", "0001")
    assert set(corpus.table["split"]) == {"train", "validation", "test"}
    assert "holds 16 utterances; dev-clean was published with 2,703" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "speech").iterdir()} == {"LibriSpeech"}
    by_pattern = import_corpus(tmp_path / "speech" / "LibriSpeech" / "dev-clean", progress=False)
    assert by_pattern.fingerprint == corpus.fingerprint


def test_speech_commands_speakers_are_the_hashes_and_noise_is_left_out(data_folder, tmp_path, offline):
    make_speech_commands(tmp_path)
    corpus = download_corpus("speech_commands", "v0.02", tmp_path, progress=False)
    assert corpus.name == "speech_commands_v0.02"
    assert ids(corpus) == [("0a7c2a8d", "1", "bed-0"), ("0a7c2a8d", "1", "bed-1"), ("0a7c2a8d", "1", "cat-0"),
                           ("11b1df78", "1", "bed-0"), ("f92e49f3", "1", "cat-4")]
    assert download_corpus("speech_commands", folder=tmp_path, progress=False).fingerprint == corpus.fingerprint


def test_a_tree_without_transcripts_or_audio_is_told(data_folder, tmp_path, offline):
    make_librispeech(tmp_path)
    (tmp_path / "LibriSpeech" / "dev-clean" / "84" / "50561" / "84-50561.trans.txt").unlink()
    with pytest.raises(FileNotFoundError, match="a transcript of .*import_corpus on the folder, which needs none"):
        download_corpus("librispeech", folder=tmp_path, progress=False)
    (tmp_path / "SpeechCommands" / "speech_commands_v0.02").mkdir(parents=True)
    with pytest.raises(ValueError, match="without audio that is named as in speech_commands. Delete it"):
        download_corpus("speech_commands", folder=tmp_path, progress=False)


@pytest.mark.parametrize(("asked", "message"), [
    (("timit",), "no public corpus 'timit'; expected one of librispeech, speech_commands.*import_corpus"),
    (("librispeech", "dev"), "librispeech has no subset 'dev'; expected one of dev-clean, "),
    (("speech_commands", "v3"), "has no subset 'v3'; expected one of speech_commands_v0.02"),
])
def test_an_unknown_corpus_is_told_with_those_that_there_are(data_folder, offline, asked, message):
    with pytest.raises(ValueError, match=message):
        download_corpus(*asked)


# Downloads


def test_librispeech_is_downloaded_once_unpacked_and_imported(data_folder, tmp_path, mirror, capsys):
    pack(mirror.folder / "dev-clean.tar.gz", make_librispeech(tmp_path / "made"), "LibriSpeech")
    corpus = download_corpus("librispeech", progress=False)
    assert len(corpus.table) == 16 and mirror.asked == ["/dev-clean.tar.gz"]
    said = capsys.readouterr().out
    assert "librispeech dev-clean: 0.3 GB to download, then unpacked; 5 hours of 40 speakers" in said
    assert "about 1.5 GB in all" in said
    place = data_folder / "downloads" / "librispeech"
    assert (place / "LibriSpeech" / "SPEAKERS.TXT").is_file()
    assert {path.name for path in place.iterdir()} <= {"LibriSpeech", ".lock"}  # no archive, nothing half unpacked
    assert download_corpus("librispeech", progress=False).fingerprint == corpus.fingerprint
    pack(mirror.folder / "test-clean.tar.gz", make_librispeech(tmp_path / "more", "test-clean"), "LibriSpeech")
    download_corpus("librispeech", "test-clean", progress=False)
    assert mirror.asked == ["/dev-clean.tar.gz", "/test-clean.tar.gz"]
    assert {path.name for path in (place / "LibriSpeech").iterdir()} == {"dev-clean", "test-clean", "SPEAKERS.TXT"}


def test_speech_commands_are_downloaded(data_folder, tmp_path, mirror):
    make_speech_commands(tmp_path / "made")
    pack(mirror.folder / "speech_commands_v0.02.tar.gz", tmp_path / "made", "SpeechCommands/speech_commands_v0.02")
    assert len(download_corpus("speech_commands", folder=tmp_path / "big", progress=False).table) == 5
    assert (tmp_path / "big" / "SpeechCommands" / "speech_commands_v0.02" / "testing_list.txt").is_file()


def test_unpacking_that_was_killed_is_not_taken_for_the_corpus(data_folder, tmp_path, mirror):
    staging = data_folder / "downloads" / "librispeech" / STAGING
    make_librispeech(staging, speakers=(84,))
    staging.joinpath("dev-clean.tar.gz.0123.partial").write_bytes(b"x")
    pack(staging / "dev-clean.tar.gz", make_librispeech(tmp_path / "made"), "LibriSpeech")
    assert len(download_corpus("librispeech", progress=False).table) == 16
    assert mirror.asked == [] and not staging.exists()  # the archive had arrived whole


def test_a_failed_download_says_what_to_do_and_leaves_nothing_that_looks_whole(data_folder, mirror):
    advice = r"Run it again later; or get dev-clean.tar.gz from https://www.openslr.org/12 .* lie in " \
             f"{data_folder}/downloads/librispeech/LibriSpeech/dev-clean"
    with pytest.raises(ConnectionError, match=f"download of librispeech dev-clean failed .*404.*{advice}"):
        download_corpus("librispeech", progress=False)
    mirror.folder.joinpath("dev-clean.tar.gz").write_bytes(b"not an archive")
    mirror.hash = "0" * 64
    with pytest.raises(RuntimeError, match=f"arrived damaged .invalid hash.*{advice}"):
        download_corpus("librispeech", progress=False)
    mirror.server.shutdown()
    mirror.server.server_close()
    with pytest.raises(ConnectionError, match=f"failed .*refused.*{advice}"):
        download_corpus("librispeech", progress=False)
    assert not list(data_folder.rglob("dev-clean*"))


def test_a_silent_server_is_given_up(data_folder, mirror, monkeypatch):
    monkeypatch.setattr(public_corpora, "_SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        mirror.server.server_address = silent.getsockname()
        with pytest.raises(ConnectionError, match="timed out"):
            download_corpus("librispeech", progress=False)
    assert socket.getdefaulttimeout() is None


def test_a_disk_that_is_too_small_is_told_before_the_download(data_folder, mirror, monkeypatch):
    monkeypatch.setitem(CORPORA["librispeech"]["subsets"], "dev-clean", (1e18, 5.4, 40, 2703))
    with pytest.raises(OSError, match="librispeech dev-clean needs .* MB in .*downloads/librispeech"):
        download_corpus("librispeech", progress=False)
    assert mirror.asked == []


def test_every_subset_is_one_that_torchaudio_knows():
    from torchaudio.datasets import librispeech

    assert sorted(CORPORA["librispeech"]["subsets"]) == sorted(librispeech._DATA_SUBSETS)
    for name, facts in CORPORA.items():
        for subset in facts["subsets"]:
            with pytest.raises(RuntimeError, match="not found|doesn't exist"):  # and not: invalid
                public_corpora._dataset(name)(root="nowhere", url=subset)

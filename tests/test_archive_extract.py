"""An archive is extracted only if nothing in it can do harm, and a killed extraction ends like an undisturbed one."""

import hashlib
import io
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import pytest

from speakerlib.data.archives.extract import extract_archives
from speakerlib.data.archives.listing import list_archives


def tree(num_utterances=6, num_bytes=3000):
    """{member: bytes} of the shape of VoxCeleb1's archives."""
    generator = random.Random(5)
    return {f"wav/{speaker}/{video}/{number:05d}.wav": generator.randbytes(num_bytes)
            for speaker in ("id10001", "id10002") for video in ("1zcIwhmdeo4", "-zcIwhmdeo4")
            for number in range(1, num_utterances + 1)}


def zipped(members):
    """Bytes of a zip; members: {name or ZipInfo: bytes}."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return content.getvalue()


def place(folder, archives, num_parts=4):
    """Puts archives {name: bytes} into a folder as parts (one part: whole); returns the table of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["file,md5,whole"]
    for name, data in archives.items():
        rows.append(f"{name}.zip,{hashlib.md5(data).hexdigest()},")
        if num_parts == 1:
            (folder / f"{name}.zip").write_bytes(data)
            continue
        step = -(-len(data) // num_parts)
        for i in range(num_parts):
            part = data[i * step:(i + 1) * step]
            (folder / f"{name}_parta{'abcdefgh'[i]}").write_bytes(part)
            rows.append(f"{name}_parta{'abcdefgh'[i]},{hashlib.md5(part).hexdigest()},{name}.zip")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return list_archives(folder / "list.csv")


def extract(table, folder, output=None, names="vox1_dev_wav"):
    return extract_archives(names, folder, output, progress=False, archives=table)


def files_in(folder):
    """{relative path: bytes} of all but our own hidden files at the top."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not (path.parent == folder and path.name.startswith("."))}


def test_archives_of_a_corpus_come_out_of_their_parts_into_one_folder(tmp_path, capsys):
    dev, test = tree(), {"wav/id10270/5r0dWxy17C8/00001.wav": b"test" * 99, "wav/": b""}
    table = place(tmp_path / "in", {"vox1_dev_wav": zipped(dev), "vox1_test_wav": zipped(test),
                                    "vox2_test_aac": zipped({"aac/id00017/5MkXgwdrmJw/00001.m4a": b"aac"})})
    before = files_in(tmp_path / "in")
    names = ["vox1_dev_wav", "vox1_test_wav", "vox2_test_aac"]
    assert extract(table, tmp_path / "in", tmp_path / "out", names) == [tmp_path / "out/vox1", tmp_path / "out/vox2"]
    expected = {**dev, "wav/id10270/5r0dWxy17C8/00001.wav": b"test" * 99}
    assert files_in(tmp_path / "out") == {**{f"vox1/{name}": data for name, data in expected.items()},
                                          "vox2/aac/id00017/5MkXgwdrmJw/00001.m4a": b"aac"}
    assert files_in(tmp_path / "in") == before  # no second copy of the archive
    assert "24 files" in capsys.readouterr().out


def test_a_second_extraction_writes_what_is_wrong_and_nothing_else(tmp_path, capsys):
    content = tree()
    table = place(tmp_path, {"vox1_dev_wav": zipped(content)}, num_parts=1)
    target, = extract(table, tmp_path)
    state = {name: (target / name).stat() for name in content}
    extract(table, tmp_path)
    assert "24 files in " in capsys.readouterr().out.splitlines()[-1]
    names = list(content)
    (target / names[0]).write_bytes(content[names[0]][:-1] + b"?")  # the same size
    (target / names[1]).write_bytes(b"short")
    (target / names[2]).unlink()
    extract(table, tmp_path)
    assert "21 of them were there and right" in capsys.readouterr().out
    assert files_in(target) == content
    assert all((target / name).stat().st_ino == state[name].st_ino for name in names[3:])


def test_a_complete_extraction_is_not_read_again(tmp_path, monkeypatch):
    table = place(tmp_path, {"vox1_dev_wav": zipped(tree())})
    extract(table, tmp_path)
    time.sleep(0.05)
    marker = tmp_path / ".vox1_dev_wav.extracted.json"
    os.utime(marker)  # later than every file, however coarse the disk's clock is
    monkeypatch.setattr("speakerlib.data.archives.extract.checksum", lambda path: pytest.fail(f"read {path}"))
    monkeypatch.setattr("speakerlib.data.archives.listing.feed", lambda path, *rest: pytest.fail(f"read {path}"))
    extract(table, tmp_path)


def test_archives_may_be_deleted_once_they_are_extracted_whole(tmp_path, capsys):
    table = place(tmp_path / "in", {"vox1_dev_wav": zipped(tree())})
    extract(table, tmp_path / "in", tmp_path / "out")
    for path in (tmp_path / "in").glob("vox1*"):
        path.unlink()
    assert extract(table, tmp_path / "in", tmp_path / "out") == [tmp_path / "out/vox1"]
    assert "nothing is checked again" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="vox1_dev_wav_partaa"):
        extract(table, tmp_path / "in", tmp_path / "elsewhere")


def link(name, kind):
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    return member


BAD = {
    "../up.wav": "leads out of the target folder",
    "wav/../../up.wav": "leads out",
    "/etc/up.wav": "absolute path",
    "C:/up.wav": "drive letter",
    "wav\\..\\up.wav": "backslash",
    "wav//up.wav": "no name on every system",
    "./up.wav": "no name on every system",
    "wav/up.": "no name on every system",
    "wav/a:b": "no name on every system",
    "wav/CON.wav": "name of a device",
    "wav/up\n.wav": "cannot be printed",
    "wav/.00001.wav.part": "being written",
    "WAV/ID10001/1zcIwhmdeo4/00001.wav": "cannot be told from",
    "wav/id10001/1zcIwhmdeo4": "is a file",
    "wav/id10001/1zcIwhmdeo4/00001.wav/up.wav": "is a file",
    link("wav/link.wav", stat.S_IFLNK): "is a link",
    link("wav/link/", stat.S_IFLNK): "is a link",
    link("wav/pipe.wav", stat.S_IFIFO): "neither a file nor a folder",
    link("wav/disk.wav", stat.S_IFBLK): "neither a file nor a folder",
}


@pytest.mark.parametrize("member", BAD, ids=lambda member: repr(getattr(member, "filename", member)))
def test_an_archive_with_a_harmful_member_is_refused_whole(member, tmp_path):
    table = place(tmp_path / "in", {"vox1_dev_wav": zipped({**tree(), member: b"../../outside"})})
    with pytest.raises(ValueError, match=f"{BAD[member]}.*refused; nothing was written"):
        extract(table, tmp_path / "in", tmp_path / "in" / "deep" / "out")
    assert [path.name for path in (tmp_path / "in" / "deep" / "out").iterdir()] == [".lock"]
    assert not list(tmp_path.rglob("up.wav"))


def test_two_members_of_one_name_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("wav/a.wav", b"one")
            archive.writestr("wav/a.wav", b"two")
    with pytest.raises(ValueError, match="cannot be told from 'wav/a.wav'"):
        extract(place(tmp_path, {"vox1_dev_wav": content.getvalue()}), tmp_path)


def test_archives_that_would_fill_the_disk_are_refused(tmp_path):
    bomb = place(tmp_path / "bomb", {"vox1_dev_wav": zipped({"wav/a.wav": b"\0" * (9 << 20)})})
    with pytest.raises(ValueError, match="'wav/a.wav' claims 9,437,184 bytes out of"):
        extract(bomb, tmp_path / "bomb")
    many = place(tmp_path / "many", {"vox1_dev_wav": zipped({f"wav/{i}.wav": b"\0" * 200_000 for i in range(9)})})
    with pytest.raises(ValueError, match="and the others claim 1,800,000 bytes"):
        extract(many, tmp_path / "many")
    data = bytearray(zipped({"wav/a.wav": b"a" * 5000, "wav/b.wav": b"b" * 5000}))
    entry = data.rindex(b"PK\1\2")  # the directory's entry of b: made to begin where a does
    data[entry + 42:entry + 46] = struct.pack("<I", 0)
    overlap = place(tmp_path / "overlap", {"vox1_dev_wav": bytes(data)})
    with pytest.raises(ValueError, match="shares its bytes with"):
        extract(overlap, tmp_path / "overlap")
    silence = place(tmp_path / "fine", {"vox1_dev_wav": zipped({**tree(), "wav/silent.wav": b"\0" * 500_000})})
    assert (extract(silence, tmp_path / "fine")[0] / "wav" / "silent.wav").stat().st_size == 500_000


def test_a_member_that_lies_about_its_bytes_leaves_no_file(tmp_path):
    data = bytearray(zipped({"wav/a.wav": b"a" * 5000, "wav/b.wav": b"b" * 5000}))
    for signature, place_of_crc in ((b"PK\3\4", 14), (b"PK\1\2", 16)):
        entry = data.rindex(signature)
        data[entry + place_of_crc:entry + place_of_crc + 4] = struct.pack("<I", zlib.crc32(b"else"))
    table = place(tmp_path, {"vox1_dev_wav": bytes(data)})
    with pytest.raises(ValueError, match="wav/b.wav cannot be extracted"):
        extract(table, tmp_path)
    assert set(files_in(tmp_path / "vox1")) <= {"wav/a.wav"}


def test_missing_and_damaged_parts_are_named_with_the_command(tmp_path):
    table = place(tmp_path, {"vox1_dev_wav": zipped(tree())})
    damaged = tmp_path / "vox1_dev_wav_partad"
    right = damaged.read_bytes()
    damaged.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(ValueError, match="partad is damaged: its MD5 is .*archives download vox1_dev_wav"):
        extract(table, tmp_path)
    assert not (tmp_path / "vox1").exists()
    damaged.unlink()
    (tmp_path / "vox1_dev_wav_partab").unlink()
    with pytest.raises(FileNotFoundError, match=r"partab, vox1_dev_wav_partad are missing.*archives download"):
        extract(table, tmp_path)


def test_a_disk_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    table = place(tmp_path / "in", {"vox1_dev_wav": zipped(tree())})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=24 * 4096 - 1))
    with pytest.raises(OSError, match="free"):
        extract(table, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "vox1").exists()


def test_an_error_in_one_thread_stops_the_others_and_keeps_whole_files(tmp_path):
    content = tree()
    table = place(tmp_path, {"vox1_dev_wav": zipped(content)})
    blocked = tmp_path / "vox1" / "wav" / "id10001" / "-zcIwhmdeo4" / "00003.wav"
    blocked.mkdir(parents=True)  # a folder where a file belongs
    with pytest.raises(OSError, match="00003.wav"):
        extract(table, tmp_path)
    assert files_in(tmp_path / "vox1").items() <= content.items()
    blocked.rmdir()
    assert files_in(extract(table, tmp_path)[0]) == content


@pytest.mark.slow
def test_extractions_killed_at_any_moment_end_like_an_undisturbed_one(tmp_path):
    content = tree(num_utterances=500, num_bytes=20_000)
    place(tmp_path, {"vox1_dev_wav": zipped(content)})
    command = ("import sys; from speakerlib.data.archives.listing import list_archives;"
               "from speakerlib.data.archives.extract import extract_archives;"
               "extract_archives('vox1_dev_wav', sys.argv[1], archives=list_archives(sys.argv[1] + '/list.csv'))")
    target = tmp_path / "vox1"
    num_killed = 0
    for moment in (1, 300, 900, 1700):
        process = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            while process.poll() is None and sum(1 for _ in target.rglob("[0-9]*.wav")) < moment:
                time.sleep(0.002)
        finally:
            process.send_signal(signal.SIGKILL)
            num_killed += process.wait(10) == -signal.SIGKILL
        visible = {name: data for name, data in files_in(target).items() if not name.rpartition("/")[2].startswith(".")}
        assert visible.items() <= content.items()
    assert num_killed >= 2
    subprocess.run([sys.executable, "-c", command, str(tmp_path)], check=True, timeout=60, capture_output=True)
    assert files_in(target) == content

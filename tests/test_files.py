"""Files are written whole or not at all, one builder at a time."""

import json
import os
import shutil
import threading

import pytest

from speakerlib.data.files import (
    atomic_path,
    check_name,
    checksum,
    folder_lock,
    read_json,
    require_space,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_files_have_the_mode_of_the_process_whose_umask_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "plain").touch()
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("threads that write at once would race for it"))
    write_json(tmp_path / "record.json", {})
    assert (tmp_path / "record.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_keeps_other_alphabets_and_refuses_nan(tmp_path):
    write_json(tmp_path / "record.json", {"speaker": "Jürgen 李", "seconds": [1.5]})
    assert read_json(tmp_path / "record.json") == {"speaker": "Jürgen 李", "seconds": [1.5]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "record.json", {"loss": float("nan")})
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["seconds"] == [1.5]
    (tmp_path / "torn.json").write_text('{"speaker": ')
    with pytest.raises(ValueError, match="torn.json"):
        read_json(tmp_path / "torn.json")


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "", "-x", "a\n", "a\\b"])
def test_names_that_lead_out_of_their_folder_are_refused(name):
    with pytest.raises(ValueError, match="the corpus"):
        check_name(name, "the corpus")


def test_the_checksum_is_that_of_the_whole_file(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"123456789")
    assert checksum(path) == checksum(path, block=2) == "cbf43926"  # the check value of CRC-32


def test_too_little_space_is_said_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEAKERLIB_DATA", str(tmp_path / "not"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    require_space(tmp_path / "not" / "yet", 10**9, "The store")
    with pytest.raises(OSError, match=r"2,500\.0 MB.*1,000\.0 MB.*SPEAKERLIB_DATA"):
        require_space(tmp_path / "not" / "yet", 2_500_000_000, "The store")
    with pytest.raises(OSError, match=r"or name a folder on a larger disk"):  # a folder of the user's choice
        require_space(tmp_path / "elsewhere", 2_500_000_000, "The extraction")


def test_one_builder_at_a_time_and_a_killed_ones_litter_is_removed(tmp_path, capsys):
    (tmp_path / ".shard-xyz.part.int16").write_bytes(b"left by a killed process")
    inside, release, order = threading.Event(), threading.Event(), []

    def second():
        inside.wait(10)
        with folder_lock(tmp_path, "the store"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with folder_lock(tmp_path, "the store"):
        assert not (tmp_path / ".shard-xyz.part.int16").exists()
        inside.set()
        release.wait(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "waiting" in capsys.readouterr().out

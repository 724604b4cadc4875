"""VoxCeleb's lists: every frame counts, what cannot be used is named, nothing is read twice."""

import builtins
import math
import os
import string

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakerlib.data.scraping import url_list_files, url_lists
from speakerlib.data.scraping.url_list_files import read_span
from speakerlib.data.scraping.url_lists import check_utterances, list_digest, read_url_lists

VIDEO = "-cQc9_xDEi0"
IDS = ["speaker", "video", "utterance"]


def content(first=100, last=199, video=VIDEO, fv="20.0 (1)", asd="5.0275", end="\n", gap=" \t"):
    """A list as VoxCeleb's are."""
    header = [f"Identity  :{gap}id10001", f"Reference :{gap}{video}", f"Offset    :{gap}-5", f"FV Conf   :{gap}{fv}",
              f"ASD Conf  :{gap}{asd}", "", gap.join(["FRAME", "X", "Y", "W", "H"])]
    rows = [gap.join([f"{frame:06d}", "241", "52", "128", "128"]) for frame in range(first, last + 1)]
    return end.join([*header, *rows]).encode()


def write(folder, path="id10001/-cQc9_xDEi0/00001", text=None):
    """Writes txt/<path>.txt below a folder, and returns the folder."""
    file = folder / "txt" / f"{path}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content() if text is None else text)
    return folder


def read(folder, **settings):
    """(utterances, {path: reason})"""
    utterances, skipped = read_url_lists(folder, progress=False, **settings)
    assert list(skipped) == ["path", "reason"]
    return utterances, dict(zip(skipped["path"], skipped["reason"], strict=True))


@pytest.fixture
def lists(tmp_path, data_folder):
    """A folder with one good list, 100 frames long."""
    return write(tmp_path / "vox1_dev_txt")


def test_a_table_of_seconds_sorted_by_speaker_video_and_utterance(lists):
    write(lists, f"id10002/{VIDEO}/00002", content(0, 24))  # one video, two speakers
    write(lists, f"id10001/{VIDEO}/00000", content(50, 74, fv="19.255\t(1)"))
    for folder in (lists, lists / "txt"):
        utterances, skipped = read(folder)
        assert skipped == {}
        assert utterances[[*IDS, "start", "end", "fv_conf"]].values.tolist() == [
            ["id10001", VIDEO, "00000", 2.0, 3.0, 19.255], ["id10001", VIDEO, "00001", 4.0, 8.0, 20.0],
            ["id10002", VIDEO, "00002", 0.0, 1.0, 20.0]]
        assert utterances["asd_conf"].tolist() == [5.0275] * 3
    check_utterances(utterances)


fields = st.sampled_from(["Identity", "Offset", "FV Conf", "ASD Conf", "Reference", "Note", "FRAMES"])
gaps = st.sampled_from([" ", "\t", " \t", "   ", "\t\t"])


@given(st.data())
def test_any_header_separator_and_line_end_gives_the_same_span(tmp_path_factory, data):
    first = data.draw(st.integers(0, 10**6))
    last = first + data.draw(st.integers(0, 60))
    confidence = data.draw(st.none() | st.decimals(-5, 30, places=3))
    values = {"Identity": "id10001", "Offset": "-5", "ASD Conf": "", "Reference": VIDEO, "Note": "é 12",
              "FRAMES": "many", "FV Conf": f"{confidence} (1)" if confidence is not None else "none"}
    names = data.draw(st.lists(fields, unique=True))
    gap, end, width = data.draw(gaps), data.draw(st.sampled_from(["\n", "\r\n"])), data.draw(st.integers(1, 7))
    blank = data.draw(st.lists(st.sampled_from(["", " ", "\t"]), max_size=3))
    tail = data.draw(st.sampled_from(["", gap]))
    lines = [f"{name}{data.draw(gaps)}:{gap}{values[name]}{tail}" for name in names] + blank
    lines += [gap.join(["FRAME", "X", "Y", "W", "H"]) + tail, *blank]
    lines += [gap.join([f"{frame:0{width}d}", "0.4", "0.1", "0.3", "0.5"]) + tail for frame in range(first, last + 1)]
    text = end.join([*lines, *blank, *data.draw(st.sampled_from([[], [""]]))])
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes((b"\xef\xbb\xbf" if data.draw(st.booleans()) else b"") + text.encode())
    found = read_span(path, VIDEO)
    assert found[:2] == (first, last)
    expected = float(confidence) if confidence is not None and "FV Conf" in names else math.nan
    assert found[2] == expected or math.isnan(found[2]) and math.isnan(expected)
    assert math.isnan(found[3])


@given(st.binary(max_size=300) | st.text(string.printable, max_size=300).map(str.encode)
       | st.lists(st.sampled_from([b"FRAME X Y\n", b"FRAME", b"12 3\n", b"\n", b"7", b"Reference : a\n", b"\r\n",
                                   b"-1 2", b"9" * 30, b"\0", b"\xff", b" "])).map(b"".join))
def test_no_bytes_whatever_break_the_reader(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "whatever.txt"
    path.write_bytes(text)
    try:
        first, last, *_ = read_span(path, VIDEO)
    except ValueError as error:
        assert str(error).startswith(("malformed: ", "its Reference is "))
    else:
        assert 0 <= first <= last and str(first).encode() in text and str(last).encode() in text


@given(st.integers(0, 60), st.integers(1, 40))
def test_of_a_long_list_only_the_ends_are_read(tmp_path_factory, first, num_bytes):
    path = tmp_path_factory.getbasetemp() / "long.txt"
    path.write_bytes(content(first, first + 90).replace(b"\t128", "\té".encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(url_list_files, "_READ", 200 + num_bytes)  # cuts the file anywhere in a line
        assert read_span(path, VIDEO)[:2] == (first, first + 90)


MALFORMED = {
    "empty": b"", "only blank lines": b"\n \r\n", "no frame line": content().replace(b"FRAME", b"BOX"),
    "no frames": content(1, 0), "not numbered": content() + b"\nend", "a negative frame": content() + b"\n-1 2 3",
    "a frame past counting": content() + b"\n" + b"9" * 12, "backwards": content() + b"\n000007 241 52 128 128",
    "not UTF-8": content(fv="\u00e9").decode().encode("latin-1"), "UTF-16": content().decode().encode("utf-16"),
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_lists_are_skipped(lists, text):
    write(lists, f"id10001/{VIDEO}/00002", text)
    utterances, skipped = read(lists)
    assert utterances["utterance"].tolist() == ["00001"]
    (path, reason), = skipped.items()
    assert path == f"id10001/{VIDEO}/00002.txt" and reason.startswith("malformed: ")


@pytest.mark.parametrize("path, expected", [
    ("id 10002/-cQc9_xDEi0/00002", "speaker 'id 10002' is no id"), ("-o/-cQc9_xDEi0/00002", "speaker '-o' is no id"),
    (f"{'i' * 65}/-cQc9_xDEi0/00002", "is no id"), ("id10002/short/00002", "video 'short' is no id"),
    ("id10002/-cQc9_xDEi0x/00002", "video '-cQc9_xDEi0x'"), ("id10002/-cQc9_xDEi\n/00002", r"video '-cQc9_xDEi\n'"),
    ("id10002/a$(ls)&b;cd/00002", "video 'a$(ls)&b;cd'"), ("id10002/-cQc9_xDEi0/00 2", "utterance '00 2' is no id"),
    ("id10002/-cQc9_xDEi0/" + "0" * 33, "is no id: expected up to 32"), ("id10002/-cQc9_xDEi\u00e9/1", "is no id"),
    ("loose", "not in a folder <speaker>/<video>/"), ("id10002/loose", "not in a folder <speaker>/<video>/"),
])
def test_names_that_could_not_be_a_path_or_a_url_are_skipped(lists, path, expected):
    utterances, skipped = read(write(lists, path))
    assert len(utterances) == 1
    (where, reason), = skipped.items()
    assert where == f"{path}.txt" and expected in reason


def test_a_name_that_is_no_text_is_skipped(lists):
    folder = os.fsencode(lists / "txt" / "id10001" / VIDEO)
    with open(folder + b"/\xff1.txt", "wb") as file:
        file.write(content())
    for _ in range(2):  # read, then kept
        utterances, skipped = read(lists)
        assert len(utterances) == 1 and [path.rpartition("/")[2] for path in skipped] == [r"\udcff1.txt"]


@pytest.mark.parametrize("reference", ["another1234", "../../etc/pw", "a/b", "https://youtu.be/-cQc9_xDEi0", ""])
def test_a_reference_to_another_video_is_skipped(lists, reference):
    write(lists, f"id10001/{VIDEO}/00002", content(300, 400, video=reference))
    utterances, skipped = read(lists)
    assert len(utterances) == 1
    assert skipped == {f"id10001/{VIDEO}/00002.txt": f"its Reference is {reference!r}, not its folder's video"}


def test_short_and_duplicate_utterances_are_skipped(lists):
    write(lists, f"id10001/{VIDEO}/00002", content(0, 11))
    write(lists, f"id10001/{VIDEO}/00003", content(0, 12))  # 0.52 s
    write(lists, f"id10001/{VIDEO}/00004", content(100, 199, fv="1"))
    write(lists, f"id10002/{VIDEO}/00001")  # another speaker: none
    utterances, skipped = read(lists)
    assert utterances["speaker"].tolist() == ["id10001", "id10001", "id10002"]
    assert utterances["utterance"].tolist() == ["00001", "00003", "00001"]
    assert skipped == {f"id10001/{VIDEO}/00002.txt": "0.48 s, shorter than 0.5 s",
                       f"id10001/{VIDEO}/00004.txt": "duplicate: the same span as 00001.txt"}
    assert len(read(lists, min_seconds=0.48)[0]) == 4 and len(read(lists, min_seconds=1)[0]) == 2


def test_an_utterance_of_just_the_least_length_is_kept_wherever_it_is(lists):
    for first in range(0, 300, 3):
        write(lists, f"id10002/{VIDEO}/{first:05d}", content(first, first + 11))
    assert len(read(lists, min_seconds=0.48)[0]) == 101


@pytest.mark.parametrize("fv, expected", [("19.255\t(1)", 19.255), ("-1", -1), ("5e-3", 0.005), ("nan", None),
                                          ("inf", None), ("(1)", None), ("", None), ("1_0", None)])
def test_a_confidence_is_a_number_or_absent(lists, fv, expected):
    utterances, skipped = read(write(lists, text=content(fv=fv)))
    assert not skipped and [None if math.isnan(value) else value for value in utterances["fv_conf"]] == [expected]


def test_what_cannot_be_read_is_skipped_without_waiting_for_it(lists):
    folder = lists / "txt" / "id10001" / VIDEO
    (folder / "00002.txt").mkdir()
    (folder / "00003.txt").symlink_to("nowhere")
    os.mkfifo(folder / "00004.txt")  # to open it would wait for a writer
    (folder / "deeper").mkdir()
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "._00001.txt").write_bytes(b"")
    (folder / "notes.pdf").write_bytes(b"")
    (lists / "txt" / "id10009").symlink_to("nowhere")
    utterances, skipped = read(lists)
    assert len(utterances) == 1
    assert {path.removeprefix(f"id10001/{VIDEO}/"): reason for path, reason in skipped.items()} == {
        "00002.txt": "unreadable: a folder", "00003.txt": "unreadable: No such file or directory",
        "00004.txt": "unreadable: not a file", "deeper": "a folder, expected <utterance>.txt",
        "id10009": "unreadable: No such file or directory"}


def test_a_list_or_folder_without_permission_is_skipped(lists, monkeypatch):
    write(lists, f"id10001/{VIDEO}/00002", content(300, 400))
    write(lists, "id10002/aaaaaaaaaaa/00001", content(video="aaaaaaaaaaa"))

    def refuse(function, where):
        def refused(path, *rest, **settings):
            if str(path).endswith(where):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *rest, **settings)
        return refused

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse(open, "00002.txt"))
        patch.setattr(os, "scandir", refuse(os.scandir, "aaaaaaaaaaa"))
        utterances, skipped = read(lists)
    assert utterances["utterance"].tolist() == ["00001"]
    assert skipped == {f"id10001/{VIDEO}/00002.txt": "cannot be opened: Permission denied",
                       "id10002/aaaaaaaaaaa": "unreadable: Permission denied"}
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse(open, "00002.txt"))
        assert len(read(lists)[1]) == 1
    assert len(read(lists)[0]) == 3 and not read(lists)[1]  # as soon as they are allowed to be read


def test_what_was_read_is_kept_and_no_list_is_opened_again(lists, monkeypatch):
    write(lists, f"id10001/{VIDEO}/00002", b"")
    write(lists, f"id10001/{VIDEO}/00003", content(0, 30, asd="none"))
    first, skipped = read(lists)
    monkeypatch.setattr(url_lists, "read_span", None)
    again, skipped_again = read(lists)
    pd.testing.assert_frame_equal(first, again)
    assert skipped == skipped_again and len(skipped) == 1
    assert len(read(lists, min_seconds=2)[0]) == 1  # another minimum asks for no other reading


@pytest.mark.parametrize("change", ["content", "size", "name", "new", "gone"])
def test_a_changed_tree_is_read_again(lists, change):
    write(lists, f"id10001/{VIDEO}/00002", content(500, 599))
    file = lists / "txt" / "id10001" / VIDEO / "00002.txt"
    assert len(read(lists)[0]) == 2
    status = file.stat()
    if change == "content":  # of the same size, later
        file.write_bytes(content(600, 699))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "size":  # an older file put in its place
        file.write_bytes(content(600, 799))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "name":
        file.rename(file.with_name("00009.txt"))
    elif change == "new":
        write(lists, f"id10001/{VIDEO}/00003", content(0, 100))
    else:
        file.unlink()
    utterances, skipped = read(lists)
    assert not skipped and list(zip(utterances["utterance"], utterances["start"], strict=True)) == {
        "content": [("00001", 4), ("00002", 24)], "size": [("00001", 4), ("00002", 24)],
        "name": [("00001", 4), ("00009", 20)], "new": [("00001", 4), ("00002", 20), ("00003", 0)],
        "gone": [("00001", 4)]}[change]


@pytest.mark.parametrize("damage", [b"", b"PAR1 half a table", None])
def test_a_damaged_or_missing_copy_is_made_again(lists, data_folder, damage):
    expected, _ = read(lists)
    copy, = data_folder.glob("lists/vox1_dev_txt-*/utterances.parquet")
    copy.unlink() if damage is None else copy.write_bytes(damage)
    pd.testing.assert_frame_equal(read(lists)[0], expected)
    assert len(pd.read_parquet(copy)) == 1


def test_a_copy_with_ids_that_lead_elsewhere_is_not_believed(lists, data_folder):
    expected, _ = read(lists)
    copy, = data_folder.glob("lists/vox1_dev_txt-*/utterances.parquet")
    expected.assign(speaker="../../home").to_parquet(copy)
    pd.testing.assert_frame_equal(read(lists)[0], expected)


def test_without_a_place_to_keep_it_the_table_is_still_there(lists, data_folder, capsys):
    data_folder.write_text("a file in the way")
    assert len(read(lists)[0]) == 1
    assert "not kept for the next time" in capsys.readouterr().out


def test_folders_that_hold_no_lists_are_refused_with_what_was_seen(tmp_path, data_folder):
    with pytest.raises(FileNotFoundError, match="there is no folder .*absent"):
        read_url_lists(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; expected a folder"):
        read_url_lists(tmp_path / "file")
    (tmp_path / "lists" / "id10001").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no txt/; it holds 'id10001'. Give the folder"):
        read_url_lists(tmp_path / "lists")
    (tmp_path / "lists" / "txt").symlink_to("nowhere")
    with pytest.raises(NotADirectoryError, match="txt is not a folder, or a link that leads nowhere"):
        read_url_lists(tmp_path / "lists")
    (tmp_path / "empty" / "txt").mkdir(parents=True)
    with pytest.raises(ValueError, match="lists no utterance that can be used; it holds nothing. Expected <speaker>"):
        read_url_lists(tmp_path / "empty")
    with pytest.raises(ValueError, match="2 are skipped, such as id1/short/1.txt: video 'short' is no id"):
        read_url_lists(write(write(tmp_path / "bad", "id1/short/1"), "id1/short/2"), progress=False)


def test_a_txt_folder_without_permission_is_named(lists, monkeypatch):
    def refuse(path, *rest):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"txt cannot be read \(Permission denied\). Check its permissions"):
        read_url_lists(lists, progress=False)


def table(**columns):
    values = {"speaker": "id10001", "video": VIDEO, "utterance": ["1", "2"], "start": 0.0, "end": 1.0}
    return pd.DataFrame(values | columns, index=range(len(columns.get("utterance", "12"))))


@pytest.mark.parametrize("wrong, expected", [
    ({"speaker": ["id10001", "../.."]}, r"speaker '../..' is no id"), ({"speaker": ""}, "speaker '' is no id"),
    ({"video": "a/b12345678"}, "video 'a/b12345678' is no id: expected 11"), ({"video": 12345678901}, "video 1234"),
    ({"utterance": ["1", "1\n"]}, r"utterance '1\\n' is no id"), ({"utterance": ["1", None]}, "utterance .* is no id"),
    ({"utterance": ["1", "1"]}, "utterance id10001/.*/1 is in the table more than once"),
    ({"start": [0.0, -1.0]}, "id10001/.*/2 goes from -1.0 to 1.0 s; expected 0 <= start < end"),
    ({"end": [1.0, float("inf")]}, "goes from 0.0 to inf s"), ({"end": [0.0, 1.0]}, "goes from 0.0 to 0.0 s"),
    ({"start": ["0", "x"]}, "goes from x to"),
])
def test_a_table_from_elsewhere_is_checked(wrong, expected):
    check_utterances(table())
    with pytest.raises(ValueError, match=expected):
        check_utterances(table(**wrong))
    with pytest.raises(ValueError, match="lacks end; it has speaker, video"):
        check_utterances(table().drop(columns="end"))


@given(st.permutations(range(6)))
def test_a_digest_tells_lists_apart_and_nothing_else(order):
    one = table(utterance=list("abcdef"), start=[0.0, 1, 2, 3, 4, 5], end=9.0)
    assert list_digest(one.iloc[list(order)]) == list_digest(one.assign(fv_conf=order))
    for column, value in {"speaker": "id10002", "video": "aaaaaaaaaaa", "utterance": "x", "start": 0.04,
                          "end": 8.96}.items():
        other = one.copy()
        other.loc[order[0], column] = value
        assert list_digest(other) != list_digest(one)
    assert list_digest(one.iloc[:5]) != list_digest(one)

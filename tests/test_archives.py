"""The official archives come down whole, resumed and checked, and no key or password is left anywhere."""

import base64
import hashlib
import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.data.archives.access import check_template, connection
from speakerlib.data.archives.download import download_archives
from speakerlib.data.archives.listing import archive_paths, check_files, forget, list_archives, open_parts

KEY, PASSWORD = "s3cr+t/Käy 9%41", "pass:wörd&7"
NAMES = ["vox1_dev_wav", "vox1_test_wav"]


def make_zip(speakers, num_bytes=6000):
    """A zip of the shape of a VoxCeleb archive."""
    content, generator = io.BytesIO(), random.Random(speakers[0])
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for speaker in speakers:
            for number in range(1, 9):
                archive.writestr(f"wav/{speaker}/1zcIwhmdeo4/{number:05d}.wav", generator.randbytes(num_bytes))
    return content.getvalue()


@pytest.fixture(scope="module")
def files():
    """{file name: bytes} of a server of archives, small ones of the official names."""
    dev = make_zip(["id10001", "id10002", "id10003"])
    step = -(-len(dev) // 4)
    parts = {f"vox1_dev_wav_parta{'abcd'[i]}": dev[i * step:(i + 1) * step] for i in range(4)}
    return {**parts, "vox1_dev_wav.zip": dev, "vox1_test_wav.zip": make_zip(["id10270"])}


@pytest.fixture(scope="module")
def csv(files, tmp_path_factory):
    rows = [f"{name},{hashlib.md5(data).hexdigest()},{'vox1_dev_wav.zip' if '_part' in name else ''}"
            for name, data in files.items()]
    path = tmp_path_factory.mktemp("list") / "small.csv"
    path.write_text("\n".join(["file,md5,whole", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def table(csv):
    return list_archives(csv)


class Server:
    """What the handler serves and what it saw: `faults` {file: [fault, ...]}, one taken by each request."""

    def __init__(self, files):
        self.files, self.faults, self.requests, self.served = files, {}, [], {}
        self.key, self.password, self.ranges, self.delay = KEY, None, True, 0.0

    def respond(self, handler):
        query = parse_qs(urlsplit(handler.path).query)
        file = query.get("file", [""])[0]
        self.requests.append((file, handler.headers.get("Range"), handler.headers.get("Authorization")))
        if self.password:
            expected = "Basic " + base64.b64encode(f"user:{self.password}".encode()).decode()
            allowed = handler.headers.get("Authorization") == expected
        else:
            allowed = query.get("key", [""])[0] == self.key
        if not allowed:
            return self.send(handler, 403, f"<html>no key like {handler.path}".encode(), kind="text/html")
        if file not in self.files:
            return self.send(handler, 404, b"none")
        fault = (self.faults.get(file) or [None]).pop(0)
        if isinstance(fault, int):
            return self.send(handler, fault, b"later")
        if isinstance(fault, bytes):
            return self.send(handler, 200, fault, kind="text/html" if fault[:1] == b"<" else "application/json")
        if isinstance(fault, dict):
            return self.send(handler, 302, b"", **fault)
        data, first = self.files[file], 0
        if fault == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if isinstance(fault, tuple) and fault[0] == "chunks":
            return self.send_chunks(handler, data, fault[1])
        wanted = handler.headers.get("Range")
        if wanted and self.ranges:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(data):
                return self.send(handler, 416, b"", **{"Content-Range": f"bytes */{len(data)}"})
            place = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
            return self.send(handler, 206, data[first:], fault, file, first, **place)
        return self.send(handler, 200, data, fault, file, 0)

    def send(self, handler, status, body, fault=None, file=None, first=0, kind="application/octet-stream", **headers):
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close",
                            **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if isinstance(fault, tuple):  # ("lose", number of bytes): the connection ends after them
            body = body[:fault[1]]
        for start in range(0, len(body), 4096):
            handler.wfile.write(body[start:start + 4096])
            time.sleep(self.delay)
            if file:
                self.served.setdefault(file, []).append((first + start, len(body[start:start + 4096])))
        handler.close_connection = True

    def send_chunks(self, handler, body, cut_at):
        """Without a length, and without its last chunk if it is cut."""
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for start in range(0, len(body[:cut_at]), 4096):
            chunk = body[start:min(start + 4096, cut_at)]
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        if cut_at >= len(body):
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    def num_served(self, file):
        return sum(count for _, count in self.served.get(file, []))


@contextmanager
def serving(files):
    server = Server(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            try:
                server.respond(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.address = f"http://127.0.0.1:{http.server_port}"
    server.template = server.address + "/get?key={key}&file={file}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(10)


@pytest.fixture
def server(files, monkeypatch):
    monkeypatch.setenv("VOXCELEB_KEY", KEY)
    monkeypatch.delenv("VOXCELEB_USER", raising=False)
    monkeypatch.delenv("VOXCELEB_PASSWORD", raising=False)
    with serving(files) as running:
        yield running


def download(server, table, folder, names=NAMES, template=None):
    return download_archives(names, folder, template or server.template, progress=False, archives=table,
                             retry_seconds=0.01, timeout=10)


def check_contents(paths, files):
    assert paths
    for path in paths:
        assert path.read_bytes() == files[path.name]
    litter = {path.name for path in paths[0].parent.iterdir()} - {path.name for path in paths}
    assert litter <= {".lock", ".checked.json"}


def test_the_official_table_names_four_archives_and_the_parts_of_the_large_ones():
    table = list_archives()
    assert table.groupby("name").size().to_dict() == {"vox1_dev_wav": 4, "vox1_test_wav": 1, "vox2_dev_aac": 8,
                                                      "vox2_test_aac": 1}
    dev = table[table["name"] == "vox2_dev_aac"]
    assert list(dev["file"]) == [f"vox2_dev_aac_parta{letter}" for letter in "abcdefgh"]
    assert set(dev["whole_md5"]) == {"bbc063c46078a602ca71605645c2a402"} and set(dev["corpus"]) == {"vox2"}
    assert table[table["file"] == "vox1_test_wav.zip"]["md5"].item() == "185fdc63c3c739954633d50379a3d102"


@pytest.mark.parametrize(("row", "message"), [
    ("../x,e395d020928bc15670b570a21695ed96,", "cannot name a file"),
    ("x.zip,e395,", "32 hexadecimal digits"),
    ("x_partaa,e395d020928bc15670b570a21695ed96,x.zip", "without its MD5: x.zip"),
])
def test_a_table_of_another_form_is_refused(row, message, tmp_path):
    (tmp_path / "list.csv").write_text(f"file,md5,whole\n{row}\n")
    with pytest.raises(ValueError, match=message):
        list_archives(tmp_path / "list.csv")


def test_archives_come_down_once_and_are_skipped_when_right(server, table, files, tmp_path, monkeypatch, capsys):
    paths = download(server, table, tmp_path / "archives")
    assert [path.name for path in paths] == [*[name for name in files if "_part" in name], "vox1_test_wav.zip"]
    check_contents(paths, files)
    assert len(server.requests) == 5

    monkeypatch.delenv("VOXCELEB_KEY")  # nothing is missing: no key is needed
    reads = []
    monkeypatch.setattr("speakerlib.data.archives.listing.feed", lambda path, *rest: reads.append(path))
    assert download(server, table, tmp_path / "archives") == paths
    assert len(server.requests) == 5 and not reads
    assert "5 of 5 files" in capsys.readouterr().out


def test_a_file_that_changed_since_it_was_checked_is_fetched_again(server, table, files, tmp_path):
    paths = download(server, table, tmp_path)
    paths[1].write_bytes(b"\0" + files[paths[1].name][1:])
    paths[2].write_text("<html>saved by a browser</html>")
    check_contents(download(server, table, tmp_path), files)
    assert sorted(file for file, _, _ in server.requests[5:]) == [
        paths[1].name, paths[1].name, paths[2].name]  # the first: all there, wrong; then from the start


def test_a_whole_archive_of_ones_own_is_taken_instead_of_its_parts(server, table, files, tmp_path):
    (tmp_path / "vox1_dev_wav.zip").write_bytes(files["vox1_dev_wav.zip"])
    assert [path.name for path in download(server, table, tmp_path, "vox1_dev_wav")] == ["vox1_dev_wav.zip"]
    assert not server.requests


@pytest.mark.parametrize("lost_at", [0, 1, 700, 9000])
def test_a_lost_connection_goes_on_where_it_stopped_and_no_byte_is_sent_twice(lost_at, server, table, files, tmp_path):
    file = "vox1_dev_wav_partab"
    server.faults[file] = [("lose", lost_at), ("lose", 4097), 503]
    check_contents(download(server, table, tmp_path), files)
    assert server.num_served(file) == len(files[file])
    ranges = [wanted for name, wanted, _ in server.requests if name == file]
    assert ranges[0] is None and ranges[-1] == f"bytes={lost_at + 4097}-"


def test_a_killed_download_goes_on_where_it_stopped(server, csv, table, files, tmp_path):
    server.delay, file = 0.02, "vox1_dev_wav_partaa"
    command = ("import sys; from speakerlib.data.archives.listing import list_archives;"
               "from speakerlib.data.archives.download import download_archives;"
               "download_archives('vox1_dev_wav', sys.argv[1], sys.argv[2], archives=list_archives(sys.argv[3]))")
    process = subprocess.Popen([sys.executable, "-c", command, str(tmp_path / "out"), server.template, str(csv)],
                               stderr=subprocess.DEVNULL)
    try:
        part = tmp_path / "out" / f"{file}.part"
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 8000) and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    there = part.stat().st_size
    assert 8000 < there < len(files[file]) and not (tmp_path / "out" / file).exists()
    time.sleep(0.1)  # the server notices
    server.delay = 0.0
    server.requests.clear()
    check_contents(download(server, table, tmp_path / "out", "vox1_dev_wav"), files)
    assert server.requests[0][:2] == (file, f"bytes={there}-")


def test_a_server_without_ranges_sends_it_from_the_start(server, table, files, tmp_path):
    server.ranges = False
    server.faults["vox1_test_wav.zip"] = [("lose", 5000)]
    (tmp_path / "vox1_dev_wav_partaa.part").write_bytes(files["vox1_dev_wav_partaa"][:3000])
    check_contents(download(server, table, tmp_path), files)


def test_an_answer_without_a_length_is_known_to_be_cut_by_its_end(server, table, files, tmp_path):
    file = "vox1_test_wav.zip"
    server.faults[file] = [("chunks", 9001), ("chunks", 10**9)]  # the second: from the start, as such servers do
    check_contents(download(server, table, tmp_path, "vox1_test_wav"), files)
    assert [wanted for _, wanted, _ in server.requests] == [None, "bytes=9001-"]


@pytest.mark.parametrize("extra", [b"", b"longer than it should be"])
def test_a_part_that_is_all_there_is_taken_and_one_too_long_begun_again(extra, server, table, files, tmp_path):
    (tmp_path / "vox1_test_wav.zip.part").write_bytes(files["vox1_test_wav.zip"] + extra)
    check_contents(download(server, table, tmp_path, "vox1_test_wav"), files)
    assert [wanted for _, wanted, _ in server.requests] == (
        [f"bytes={len(files['vox1_test_wav.zip']) + len(extra)}-", None] if extra else [])


def test_a_corrupted_part_is_fetched_once_more_then_both_sums_are_named(server, table, files, tmp_path):
    file = "vox1_dev_wav_partac"
    server.faults[file] = ["corrupt"]
    check_contents(download(server, table, tmp_path / "a"), files)

    server.faults[file] = ["corrupt"] * 2
    data = files[file]
    wrong, right = (hashlib.md5(data[:-1] + bytes([data[-1] ^ flip])).hexdigest() for flip in (1, 0))
    with pytest.raises(RuntimeError, match=f"{wrong}, expected {right}"):
        download(server, table, tmp_path / "b")
    there = {path.name for path in (tmp_path / "b").iterdir()}
    assert there == {"vox1_dev_wav_partaa", "vox1_dev_wav_partab", ".lock", ".checked.json"}
    check_contents(download(server, table, tmp_path / "b"), files)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Wrong key</title>", b'{"error": "expired"}', b"{}"])
def test_a_page_instead_of_an_archive_replaces_nothing(page, server, table, files, tmp_path):
    (tmp_path / "vox1_test_wav.zip.part").write_bytes(files["vox1_test_wav.zip"][:3000])
    server.faults["vox1_test_wav.zip"] = [page]
    with pytest.raises(RuntimeError, match="answered with a page instead of vox1_test_wav.zip"):
        download(server, table, tmp_path, "vox1_test_wav")
    assert (tmp_path / "vox1_test_wav.zip.part").stat().st_size == 3000


def test_a_server_that_never_gets_further_is_given_up_and_what_came_is_kept(server, table, files, tmp_path):
    server.faults["vox1_test_wav.zip"] = [("lose", 5000), *[("lose", 0)] * 9]
    with pytest.raises(ConnectionError, match=r"no new byte.*5,000 bytes.*goes on from there"):
        download(server, table, tmp_path, "vox1_test_wav")
    assert (tmp_path / "vox1_test_wav.zip.part").read_bytes() == files["vox1_test_wav.zip"][:5000]


def test_the_disk_is_checked_before_the_first_byte_for_all_parts(server, table, files, tmp_path, monkeypatch):
    size = len(files["vox1_dev_wav_partaa"])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4 * size - 1))
    with pytest.raises(OSError, match="free"):
        download(server, table, tmp_path, "vox1_dev_wav")
    assert not list(tmp_path.glob("*.part")) and len(server.requests) == 1


def test_a_user_and_a_password_are_sent_by_basic_authentication(server, table, files, tmp_path, monkeypatch):
    monkeypatch.delenv("VOXCELEB_KEY")
    server.password = PASSWORD
    template = server.address + "/get?file={file}"
    with pytest.raises(PermissionError, match="VOXCELEB_USER and VOXCELEB_PASSWORD are not set"):
        download(server, table, tmp_path, template=template)
    monkeypatch.setenv("VOXCELEB_USER", "user")
    monkeypatch.setenv("VOXCELEB_PASSWORD", PASSWORD)
    check_contents(download(server, table, tmp_path, template=template), files)


def test_on_a_terminal_the_key_is_asked_for_without_showing_it(server, table, files, tmp_path, monkeypatch):
    monkeypatch.delenv("VOXCELEB_KEY")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(PermissionError, match="VOXCELEB_KEY is not set"):
        download(server, table, tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: KEY)
    check_contents(download(server, table, tmp_path), files)


def test_no_secret_reaches_output_logs_errors_or_files(server, table, files, tmp_path, monkeypatch, capfd, caplog):
    """Each way in which a request can end, watched at the most talkative level of logging."""
    caplog.set_level(logging.DEBUG)
    elsewhere = f"http://localhost:{server.address.rpartition(':')[2]}/get?file=x&token={quote(KEY, safe='')}"
    errors = []

    def attempt(expected, *faults, template=None, key=KEY):
        monkeypatch.setenv("VOXCELEB_KEY", key)
        server.faults["vox1_test_wav.zip"] = list(faults)
        with pytest.raises(expected) as caught:
            download(server, table, tmp_path / "out", "vox1_test_wav", template)
        error = caught.value
        while error:  # with what lies behind it, shown or not
            errors.extend([repr(error), *traceback.format_exception(error, chain=False)])
            error = error.__context__ or error.__cause__

    attempt(RuntimeError, b"<html>wrong key")
    attempt(PermissionError, {"Location": elsewhere})
    attempt(PermissionError, 401)
    attempt(FileNotFoundError, 404)
    attempt(RuntimeError, 418)
    attempt(ConnectionError, *[503] * 9)
    attempt(ConnectionError, *[("lose", 0)] * 9)
    attempt(ConnectionError, template="http://127.0.0.1:9/get?key={key}&file={file}")  # nobody listens
    attempt(ConnectionError, template="https" + server.template[4:])  # no TLS there
    wrong = "wr0ng k3y/é"
    attempt(PermissionError, key=wrong)
    monkeypatch.setenv("VOXCELEB_KEY", KEY)
    itself = server.template.replace("{key}", quote(KEY, safe="")).replace("{file}", "vox1_test_wav.zip")
    server.faults["vox1_test_wav.zip"] = ["corrupt", ("lose", 9000), {"Location": itself}]
    download_archives("vox1_test_wav", tmp_path / "out", server.template, archives=table, retry_seconds=0.01)
    shown = capfd.readouterr()
    written = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert "***" in caplog.text and "vox1_test_wav.zip" in shown.err + shown.out  # there was something to watch
    for text in [shown.out, shown.err, caplog.text, *errors, *written]:
        for secret in (KEY, wrong):
            for form in (secret, quote(secret), quote(secret, safe=""), secret.encode().decode("latin-1")):
                assert form not in text


def test_a_password_does_not_follow_to_another_host(server, table, files, tmp_path, monkeypatch):
    monkeypatch.delenv("VOXCELEB_KEY")
    monkeypatch.setenv("VOXCELEB_USER", "user")
    monkeypatch.setenv("VOXCELEB_PASSWORD", PASSWORD)
    server.password = PASSWORD
    with serving(files) as other:
        other.key = "signed"
        server.faults["vox1_test_wav.zip"] = [
            {"Location": f"{other.address}/get?key=signed&file=vox1_test_wav.zip"}]
        check_contents(download(server, table, tmp_path, "vox1_test_wav", server.address + "/get?file={file}"), files)
        assert other.requests == [("vox1_test_wav.zip", None, None)]


@pytest.mark.parametrize("location", [
    "http://192.0.2.1/x",
    "http://user:pw@127.0.0.1/x",
    "ftp://127.0.0.1/x",
    "http://[127.0.0.1/x",
    "https://192.0.2.1/x?again=" + quote(quote(KEY, safe=""), safe=""),
])
def test_a_server_may_not_send_the_request_anywhere(location, server, table, tmp_path):
    server.faults["vox1_test_wav.zip"] = [{"Location": location}]
    with pytest.raises(PermissionError, match="refused"):
        download(server, table, tmp_path, "vox1_test_wav")


def test_the_template_is_checked_without_being_shown():
    for good in ("https://host/a?key={key}&file={file}", "https://host:8443/{key}/{file}", "http://[::1]:8/{file}",
                 "https://host/voxceleb/vox1a/{file}?auth=Bearer%20{key}", "https://mirror-of-voxceleb1.org/{file}"):
        assert check_template(good) == good
    secret = "Zq81kd02ma"
    for bad, message in {
        "": "no URL template",
        f"https://user:{secret}@host/{{file}}": "user or a password",
        f"https://{secret}@host/{{file}}": "user or a password",
        f"https://host/a?key={secret}&file={{file}}": "typed in",
        f"https://host/a?apikey={secret}&key={{key}}&file={{file}}": "typed in",
        f"https://host/a?x={secret * 3}&file={{file}}": "typed in",
        f"https://host/{secret * 3}/{{file}}": "typed in",
        f"http://host/{secret}?key={{key}}&file={{file}}": "write https",
        f"ftp://host/{secret}/{{file}}": "not the address",
        f"https://host:{secret}/{{file}}": "not the address",
        f"{secret}/{{file}}": "not the address",
        f"https://host/{secret}": "must hold {file}",
        f"https://{{key}}.host/{secret}/{{file}}": "must hold {file}",
        f"https://host/{secret}#{{file}}": "must hold {file}",
        f"https://host/{secret}/{{file}}?{{video}}": "braces",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            check_template(bad)
        assert secret not in str(caught.value)


def test_an_unknown_name_or_file_is_said_before_anything_is_asked(server, table, tmp_path):
    with pytest.raises(ValueError, match=r"'vox3'.*vox1_dev_wav, vox1_test_wav"):
        download(server, table, tmp_path, ["vox1_dev_wav", "vox3"])
    assert not server.requests
    with connection(server.template, {"key": KEY}) as get, get("vox1_dev_wav_partaa", 5) as answer:
        assert answer.status_code == 206  # as asked for


def test_the_whole_is_checked_over_its_parts_and_a_damaged_one_named(files, table, tmp_path):
    rows = table[table["name"] == "vox1_dev_wav"]
    for file in rows["file"]:
        (tmp_path / file).write_bytes(files[file])
    paths, sums, whole = archive_paths(rows, tmp_path), list(rows["md5"]), rows["whole_md5"].iloc[0]
    check_files(paths, sums, "vox1_dev_wav.zip", whole, progress=False)
    assert set(json.loads((tmp_path / ".checked.json").read_text())) == {*rows["file"], "vox1_dev_wav.zip"}

    state = paths[2].stat()
    paths[2].write_bytes(files["vox1_dev_wav_partac"][:-1] + b"?")
    os.utime(paths[2], ns=(state.st_atime_ns, state.st_mtime_ns))  # a disk's fault: same size, same date
    check_files(paths, sums, "vox1_dev_wav.zip", whole, progress=False)  # not seen,
    forget("vox1_dev_wav.zip", tmp_path)  # until it is read again:
    with pytest.raises(ValueError, match="vox1_dev_wav_partac is damaged.*archives download vox1_dev_wav"):
        check_files(paths, sums, "vox1_dev_wav.zip", whole, progress=False)
    assert "vox1_dev_wav_partac" not in json.loads((tmp_path / ".checked.json").read_text())  # so that it is fetched
    (tmp_path / ".checked.json").write_text("[torn")
    paths[2].write_bytes(files["vox1_dev_wav_partac"])
    with pytest.raises(ValueError, match=f"joined they give {whole}"):
        check_files(paths, sums, "vox1_dev_wav.zip", "0" * 32, progress=False)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.binary(max_size=20), min_size=1, max_size=5),
       steps=st.lists(st.tuples(st.integers(0, 120), st.integers(-1, 60)), max_size=8))
def test_parts_read_as_the_file_that_they_make(parts, steps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / str(i) for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    expected = io.BytesIO(b"".join(parts))
    with open_parts(paths) as joined:
        assert joined.read() == expected.read()
        assert joined.seek(0, io.SEEK_END) == expected.seek(0, io.SEEK_END)
        for position, count in steps:
            assert joined.seek(position) == expected.seek(position)
            assert joined.read(count) == expected.read(count)
            assert joined.tell() == expected.tell()

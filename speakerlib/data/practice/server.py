"""Serves practice videos on this machine alone, with the faults that a scraper meets on the internet."""

import re
import select
import socket
import sys
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from speakerlib.data.practice.media import CONTENT_TYPES

FAULTS = {  # name: what the server does; YouTube's wordings are the reason phrase, which yt-dlp repeats
    "missing": "404 Not Found",
    "private": "403 Private video. Sign in if you've been granted access to this video",
    "removed": "404 Video unavailable. This video has been removed by the uploader",
    "terminated": "404 Video unavailable. This video is no longer available because the YouTube account associated "
                  "with this video has been terminated.",
    "region": "403 Video unavailable. The uploader has not made this video available in your country",
    "forbidden": "403 Forbidden",
    "bot check": "429 Sign in to confirm you're not a bot",
    "rate limit": "429 Too Many Requests",
    "stalled": "some bytes, then none until the client leaves",
    "cut short": "fewer bytes than announced",
    "wrong type": "the right bytes, called text/html",
    "not audio": "an HTML page, called audio/mp4",
    "flaky": "503 the first two times, then the right bytes",
}
_PAGE = b"<!DOCTYPE html><html><head><title>Practice</title></head><body><h1>%s</h1></body></html>\n"
_BLOCK = 1 << 16


@contextmanager
def serve_practice(folder, faults=None, delay=0.0):
    """Serves the videos of a practice folder while the block runs; yields (url_template, requests).

    url_template: "http://127.0.0.1:PORT/{video}.m4a", whatever the container; requests: a Counter of the GETs of
    each video (yt-dlp asks twice for one download: what is it, then all of it). faults: {video: one of FAULTS};
    delay: seconds before each answer. Raises FileNotFoundError without videos, ValueError for an unknown fault.
    """
    faults, videos = dict(faults or {}), Path(folder) / "videos"
    if not videos.is_dir():
        raise FileNotFoundError(f"there is no folder {videos}; make it with make_practice({str(folder)!r}).")
    for video, fault in faults.items():
        if fault not in FAULTS:
            raise ValueError(f"video {video!r} has the fault {fault!r}; expected one of {', '.join(FAULTS)}.")
    server = _Server(("127.0.0.1", 0), _Handler)
    server.videos, server.faults, server.delay = videos, faults, delay
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="practice server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{{video}}.m4a", server.requests
    finally:
        server.close_all()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for them
    request_queue_size = 64

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.requests, self.lock = Counter(), threading.Lock()
        self.connections, self.closing = set(), threading.Event()

    def process_request(self, request, client_address):
        with self.lock:
            self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        with self.lock:
            self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Clients that leave early are no news; anything else is a mistake of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close_all(self):
        """Nothing is served after this: open connections are cut, and their threads have ended."""
        self.closing.set()
        self.shutdown()
        with self.lock:
            for connection in self.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()  # joins the threads, which have nobody to talk to


class _Handler(BaseHTTPRequestHandler):
    timeout = 60

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        video = unquote(urlsplit(self.path).path).removeprefix("/").rpartition(".")[0]
        with self.server.lock:
            self.server.requests[video] += self.command == "GET"
            count = self.server.requests[video]
        if self.server.closing.wait(self.server.delay):
            return
        path, fault = self._find(video), self.server.faults.get(video)
        if fault == "flaky":
            fault = "503 Service Unavailable" if count <= 2 else None
        if path is None and fault is None:
            fault = "missing"
        fault = FAULTS.get(fault, fault)
        if fault is not None and fault[:3].isdigit():
            return self._send_page(int(fault[:3]), fault[4:], fault[4:])
        if self.server.faults.get(video) == "not audio":
            return self._send_page(200, "OK", "This is a page, not a video.", "audio/mp4")
        self._send_file(path, self.server.faults.get(video))

    def _find(self, video):
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", video):
            return None
        paths = [self.server.videos / f"{video}{suffix}" for suffix in CONTENT_TYPES]
        return next((path for path in paths if path.is_file()), None)

    def _send_page(self, status, reason, text, kind="text/html; charset=utf-8"):
        page = _PAGE % text.encode()
        self._send_head(status, reason, kind, len(page))
        if self.command == "GET":
            self.wfile.write(page)

    def _send_head(self, status, reason, kind, length, extra=()):
        self.send_response(status, reason)
        for name, value in [("Content-Type", kind), ("Content-Length", str(length)), *extra]:
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path, fault):
        kind = "text/html; charset=utf-8" if fault == "wrong type" else CONTENT_TYPES[path.suffix]
        size = path.stat().st_size
        if fault in ("cut short", "stalled"):
            self._send_head(200, "OK", kind, size)
            self._send_bytes(path, 0, size * 2 // 3 if fault == "cut short" else min(2048, size // 2))
            if fault == "stalled":
                self._stall()
            return
        span = self._range(size)
        if span is None:
            self._send_head(200, "OK", kind, size, [("Accept-Ranges", "bytes")])
            self._send_bytes(path, 0, size)
        elif span[0] >= size:
            self._send_head(416, None, kind, 0, [("Content-Range", f"bytes */{size}")])
        else:
            first, last = span
            self._send_head(206, None, kind, last - first + 1, [("Accept-Ranges", "bytes"),
                                                                ("Content-Range", f"bytes {first}-{last}/{size}")])
            self._send_bytes(path, first, last + 1)

    def _range(self, size):
        """(first, last) byte asked for; None for all of it. One range only, as RFC 9110 allows."""
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
        if not match or match.group(1) == match.group(2) == "":
            return None
        first, last = match.groups()
        if not first:
            return max(0, size - int(last)), size - 1
        if last and int(last) < int(first):
            return None
        return int(first), min(int(last) if last else size - 1, size - 1)

    def _send_bytes(self, path, first, end):
        if self.command == "HEAD":
            return
        with open(path, "rb") as file:
            file.seek(first)
            while first < end and (block := file.read(min(_BLOCK, end - first))):
                self.wfile.write(block)
                first += len(block)

    def _stall(self):
        while not self.server.closing.wait(0.05):
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1 << 12):
                return

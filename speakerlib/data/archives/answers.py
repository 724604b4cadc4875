"""Reads the answers of the archives' server: which bytes of which file, or a refusal, or a page instead of it."""

import re
from urllib.parse import urlsplit

BLOCK = 1 << 18
LONGEST_WAIT = 300.0  # seconds


def read_status(response, file, offset):
    """(position of the answer's first byte, size of the whole file or None), or an error that its status tells.

    The position is None if the answer is of no use for going on at `offset`.
    """
    status, host = response.status_code, urlsplit(response.url).hostname
    length = response.headers.get("Content-Length", "")
    if status == 200:
        return 0, int(length) if length.isdecimal() else None
    sent = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    total = int(sent[2]) if sent and sent[2] != "*" else None
    if status == 206:
        return int(sent[1]) if sent and sent[1] else None, total
    if status == 416 and offset:
        return offset if total == offset else None, total
    if status in (401, 403, 407):
        raise PermissionError(f"{host} refuses this key or password (status {status}) for {file}. Keys expire: ask the "
                              "authors of VoxCeleb for a new one, set VOXCELEB_KEY (or VOXCELEB_USER and "
                              "VOXCELEB_PASSWORD), and run the same command again. What has arrived is kept.")
    if status in (404, 410):
        raise FileNotFoundError(f"{host} has no file {file} (status {status}) where the URL template points to. Check "
                                "it against the address that the authors sent.")
    text = f"{host} answered with status {status} when asked for {file}"
    if status not in (408, 416, 425, 429) and status < 500:
        raise RuntimeError(f"{text}. Check the URL template against the address that the authors sent.")
    error, after = ConnectionError(text), response.headers.get("Retry-After", "")
    error.wait = min(float(after), LONGEST_WAIT) if after.isdecimal() else 0.0
    raise error


def read_body(response, file, total):
    """Yields the bytes as they come. RuntimeError if they are a page, ConnectionError if they end too early."""
    head, lost, block = b"", False, b""
    while len(head) < 512:  # enough to tell a page from an archive
        block, lost = _read(response)
        head += block
        if not block:
            break
    if _is_page(head, response, total):
        raise RuntimeError(f"{urlsplit(response.url).hostname} answered with a page instead of {file}: mostly this "
                           "means that the key is wrong or has expired. Check VOXCELEB_KEY and the URL template, or "
                           "ask the authors of VoxCeleb for a new key.")
    while head:
        yield head
        head, lost = (b"", lost) if not block else _read(response)
    if lost:
        raise ConnectionError(f"the connection to {urlsplit(response.url).hostname} was lost")


def _read(response):
    """(what has arrived, whether the connection was lost); read1 hands over all there is, so that none is lost."""
    from urllib3.exceptions import HTTPError

    try:
        return response.raw.read1(BLOCK, decode_content=False) or b"", False
    except HTTPError:  # its text may hold the address
        return b"", True


def _is_page(head, response, total):
    """Whether an answer, told by its first bytes, is a web page or JSON: text, where an archive is binary."""
    if re.search(rb"[^\t\n\f\r\x1b -\xff]", head):
        return False
    kind = re.search("html|json|xml", response.headers.get("Content-Type", ""))
    whole = response.status_code == 200 and (head.lstrip()[:1] in (b"<", b"{") or (total or BLOCK) < 4096)
    return bool(kind or whole)

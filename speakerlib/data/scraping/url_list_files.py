"""Reads one of VoxCeleb's URL and timestamp files: which frames of the video show the speaker."""

import math
import os
import re

_READ = 1 << 16  # bytes that hold nearly every list; of longer ones, only these and the end are read
_FRAME = re.compile(rb"^[ \t]*FRAME\b[^\n]*\n?", re.MULTILINE)
_FIELD = re.compile(rb"^[ \t]*(Reference|FV Conf|ASD Conf)[ \t]*:[ \t]*([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?\d{1,12}(\.\d*)?(e[-+]?\d{1,2})?(?=\s|$)", re.ASCII)


def read_span(path, video):
    """(first frame, last frame, FV confidence, ASD confidence) of a list; NaN for a confidence that is absent.

    Header lines such as "FV Conf : 20.0 (1)" may come in any order or lack; then the header FRAME X Y W H, and a
    line for each frame, of which the first and the last are read. Raises OSError, or ValueError that says in a few
    words what is malformed, or that the list is of another video.
    """
    head, tail = _read_ends(path)
    if not head.strip():
        raise ValueError("malformed: empty")
    title = _FRAME.search(head)
    if not title:
        raise ValueError("malformed: no FRAME line")
    fields = {name.decode().lower(): value.decode().strip() for name, value in _FIELD.findall(head[:title.start()])}
    if fields.get("reference", video) != video:
        raise ValueError(f"its Reference is {fields['reference']!r}, not its folder's video")
    first = head[title.end():].lstrip().split(b"\n", 1)[0].split()
    last = tail.rstrip().rpartition(b"\n")[2].split()
    if not first or not last:
        raise ValueError("malformed: no frames")
    first, last = _frame(first[0]), _frame(last[0])
    if last < first:
        raise ValueError(f"malformed: the last frame, {last}, is before the first, {first}")
    return first, last, _confidence(fields.get("fv conf")), _confidence(fields.get("asd conf"))


def _read_ends(path):
    """The first and the last bytes of a file, in whole lines; twice the same for most. ValueError if not UTF-8."""
    with open(path, "rb", buffering=0) as file:
        head = tail = file.read(_READ)
        if len(head) == _READ:
            size = os.fstat(file.fileno()).st_size
            tail = os.pread(file.fileno(), _READ, max(0, size - _READ)).partition(b"\n")[2]
            head = head[:head.rfind(b"\n") + 1]
    try:
        head.decode()
        tail.decode()
    except UnicodeDecodeError:
        raise ValueError("malformed: not UTF-8") from None
    return head.removeprefix(b"\xef\xbb\xbf"), tail


def _frame(word):
    if not (word.isdigit() and len(word) <= 9):
        raise ValueError(f"malformed: {word[:20].decode(errors='replace')!r} is no frame number")
    return int(word)


def _confidence(text):
    """The number that "20.0 (1)" begins with; NaN if there is none."""
    number = _NUMBER.match(text or "")
    return float(number.group()) if number else math.nan

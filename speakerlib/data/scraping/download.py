"""Downloads the sound of one video with yt-dlp, and says in one message why it could not."""

import errno
import io
import time
from pathlib import Path
from urllib.parse import urlsplit

from speakerlib.data.loopback import is_loopback
from speakerlib.data.scraping.outcomes import classify

# What keeps every video from being written, not just this one.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
RUNTIMES = ("deno", "node", "bun", "quickjs")  # JavaScript runtimes that yt-dlp can use for YouTube
_REDIRECTS = 5


def download_audio(url, folder, cookies=None, timeout=20.0, max_seconds=3600.0):
    """The best audio at `url`, as a file in `folder`, which is empty before; returns its path.

    cookies: a Netscape cookies file; it is read, and never written. timeout: seconds without a byte after which a
    connection is given up; max_seconds: after which the download is. What is not the one video that was asked for
    (a playlist, a page with another video in it, a live event) is refused.

    Raises RuntimeError with yt-dlp's message; OSError if the disk is full, read-only or not ours; what
    read_cookies raises.
    """
    import yt_dlp
    from yt_dlp.utils import YoutubeDLError

    log, folder = _Log(), Path(folder)
    parameters = _parameters(url, folder, cookies, timeout, time.monotonic() + max_seconds, log)
    try:
        with yt_dlp.YoutubeDL(parameters) as downloader:
            downloader.process_ie_result(_find(downloader, url), download=True)
    except (YoutubeDLError, OSError) as error:
        disk = _disk_error(error)
        if disk is not None:
            raise OSError(disk.errno, disk.strerror) from error
        raise RuntimeError(log.reason(str(error))) from error
    except _Refused as error:
        raise RuntimeError(str(error)) from error
    except Exception as error:  # a mistake in an extractor: of that video, not of the job
        raise RuntimeError(f"extractor error: {type(error).__name__}: {error}") from error
    files = [path for path in folder.iterdir() if path.suffix != ".part"]
    if len(files) != 1 or not files[0].stat().st_size:
        raise RuntimeError(f"the downloaded file is empty: {len(files)} files instead of one with sound in it")
    return files[0]


def read_cookies(path):
    """The text of a Netscape cookies file. ValueError, which quotes nothing of it, if it is of another kind;
    OSError if it cannot be read."""
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no cookies file: it is not text. {_EXPORT}") from None
    cookies = 0
    for number, line in enumerate(text.splitlines(), 1):
        line = line.removeprefix("#HttpOnly_")
        if line.strip() and not line.startswith("#"):
            fields = line.split("\t")
            # yt-dlp would print a line that it does not understand, secrets and all.
            if len(fields) != 7 or not fields[4].replace(".", "", 1).isdigit() and fields[4]:
                raise ValueError(f"{path} is no Netscape cookies file: line {number} has not seven fields between "
                                 f"tabs, with a number in the fifth. {_EXPORT}")
            cookies += 1
    if not cookies:
        raise ValueError(f"{path} holds no cookie. {_EXPORT}")
    return text


_EXPORT = "Export the cookies of youtube.com from a browser as cookies.txt, in Netscape's format."


class _Refused(Exception):
    """What yt-dlp could have downloaded, and we do not want."""


class _Log:
    """Keeps yt-dlp's warnings instead of printing them."""

    def __init__(self):
        self.warnings = []

    def debug(self, message):
        pass

    def warning(self, message):
        self.warnings.append(message)

    def error(self, message):
        pass  # it is raised as well

    def reason(self, message):
        """The message, or the warning that says what was behind it: a refusal or a network that broke down."""
        if classify(message)[1] in ("extractor", "unknown"):
            for warning in self.warnings:
                if classify(warning)[0] == "blocked" or classify(warning)[1] == "network":
                    return warning
        return message


def _parameters(url, folder, cookies, timeout, patience, log):
    def check_time(status):
        if time.monotonic() > patience:
            raise _Refused("timed out: the download took more than its time limit")

    parameters = {
        "format": "bestaudio[ext=m4a]/bestaudio/best",
        # '%' begins a field of yt-dlp's; '$' a variable of the environment's, unless an empty field follows.
        "outtmpl": {"default": str(folder.resolve()).replace("%", "%%").replace("$", "$%(nothing|)s")
                    + "/audio.%(ext)s"},
        "allowed_extractors": ["youtube", "generic"],
        "noplaylist": True,
        "js_runtimes": {name: {} for name in RUNTIMES},
        "socket_timeout": timeout,
        # The job tries again, later; a piece that is missing is never left out.
        "retries": 1, "extractor_retries": 1, "fragment_retries": 2, "skip_unavailable_fragments": False,
        "fixup": "never", "updatetime": False,
        "quiet": True, "noprogress": True, "logger": log,
        "progress_hooks": [check_time],
    }
    if cookies is not None:
        parameters["cookiefile"] = io.StringIO(read_cookies(cookies))  # yt-dlp writes back to what it read
    if is_loopback(urlsplit(url).hostname):
        parameters["proxy"] = ""  # one that the environment names does not lead to this computer
    return parameters


def _find(downloader, url):
    """What yt-dlp knows of the one video at `url`; _Refused if it is something else."""
    asked = url
    for _ in range(_REDIRECTS):
        found = downloader.extract_info(url, download=False, process=False) or {}
        if found.get("_type", "video") != "url" or found.get("ie_key", "Generic") != "Generic":
            break
        url = found["url"]
    if found.get("_type", "video") != "video":
        raise _Refused("not a video: the address leads to another page or a playlist")
    if found.get("extractor_key") != "Generic" and found.get("id", "") not in asked:
        raise _Refused(f"another video was found than the one asked for: {found.get('id')}")
    # A page that a network puts in the way of others may show a video as well.
    if found.get("extractor_key") == "Generic" and not found.get("direct"):
        raise _Refused("not a video: the address leads to a page")
    if found.get("live_status") in ("is_live", "is_upcoming"):
        raise _Refused("the live event is not over")
    return found


def _disk_error(error):
    """The OSError of this computer's disk behind an error of yt-dlp's, or None."""
    from yt_dlp.networking.exceptions import RequestError

    seen = []
    while error is not None and error not in seen:
        if isinstance(error, RequestError):
            return None  # a network may refuse permission, too
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        seen.append(error)
        error = (getattr(error, "exc_info", None) or (None, None))[1] or error.__cause__ or error.__context__
    return None

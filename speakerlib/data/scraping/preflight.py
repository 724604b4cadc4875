"""What a long scraping job stands on, looked at before it starts: yt-dlp, its helpers, decoders, disk."""

import importlib.metadata
import re
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from speakerlib.data.scraping.estimate import format_bytes

OK, WARN, FAIL = "ok", "warn", "FAIL"  # the doctor's words
OLD_DAYS = 60  # YouTube changes, and breaks yt-dlp, every few weeks
DECODERS = ("aac", "opus", "mp3", "vorbis")
_YOUTUBE = ("youtube.com", "youtu.be", "youtube-nocookie.com")


def preflight(url_template, output, num_bytes=0):
    """Looks at everything before a long job, without the network: a list of (status, name, text, advice).

    status: ok, warn or FAIL (the job cannot work); advice: what to do, or None. num_bytes: what is to be written
    to `output`, which need not exist yet.
    """
    youtube = needs_youtube(url_template)
    return [check_yt_dlp(youtube), check_challenges(youtube), check_decoders(), check_output(output, num_bytes)]


def needs_youtube(url_template):
    """Whether the videos come from YouTube itself, for which yt-dlp must be recent and run JavaScript."""
    host = (urlsplit(url_template).hostname or "").lower()
    return any(host == name or host.endswith(f".{name}") for name in _YOUTUBE)


def check_yt_dlp(youtube=True, today=None):
    """yt-dlp's version, which is its date; old ones fail with YouTube. today: a date, the present one by default."""
    version = _version("yt-dlp")
    if version is None:
        return FAIL, "yt-dlp", "not installed", _upgrade()
    dated = re.match(r"(\d{4})\.(\d{1,2})\.(\d{1,2})", version)
    if not dated:
        return WARN, "yt-dlp", f"{version}: a version without a date", _upgrade() if youtube else None
    days = ((today or date.today()) - date(*map(int, dated.groups()))).days
    text = f"{version}, {max(days, 0)} days old"
    if youtube and days > OLD_DAYS:
        return WARN, "yt-dlp", f"{text}; YouTube changes every few weeks", _upgrade()
    return OK, "yt-dlp", text, None


def check_challenges(youtube=True):
    """yt-dlp-ejs and a JavaScript runtime that runs it: without them YouTube yields few formats, or none."""
    if not youtube:
        return OK, "JavaScript", "not needed for this server", None
    if _version("yt-dlp-ejs") is None:
        return WARN, "JavaScript", "yt-dlp-ejs is not installed: many of YouTube's videos will fail", _upgrade()
    found = _runtimes()
    good = [f"{name} {version}" for name, version, supported in found if supported]
    if good:
        return OK, "JavaScript", ", ".join(good), None
    seen = ", ".join(f"{name} {version} is too old for yt-dlp" for name, version, _ in found)
    return WARN, "JavaScript", f"{seen or 'neither deno, node, bun nor quickjs'}: many of YouTube's videos will fail", (
        "install Deno (https://deno.com) or Node.js 22 or newer, and have it on the PATH")


def check_decoders():
    """FFmpeg's decoders, as PyAV brings them, for what video sites send."""
    advice = "pip install --force-reinstall --no-deps -c constraints.txt av"
    try:
        import av
    except (ImportError, OSError) as error:
        return FAIL, "decoders", f"PyAV cannot be imported: {error}", advice
    missing = []
    for name in DECODERS:
        try:
            av.codec.Codec(name, "r")
        except ValueError:  # PyAV's UnknownCodecError is one
            missing.append(name)
    if missing:
        return FAIL, "decoders", f"PyAV {av.__version__} lacks {', '.join(missing)}", advice
    return OK, "decoders", f"{', '.join(DECODERS)} by PyAV {av.__version__}", None


def check_output(output, num_bytes=0):
    """Whether files can be written to `output`, and whether num_bytes fit on its disk."""
    folder = existing = Path(output).expanduser().absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return FAIL, "disk", f"{existing} is a file, not a folder", "give another --output"
    try:
        with tempfile.TemporaryFile(dir=existing) as file:  # permissions alone do not tell of a read-only disk
            file.write(b"0")
    except OSError as error:
        return FAIL, "disk", f"{existing} cannot be written to: {error.strerror}", "give another --output"
    free = shutil.disk_usage(existing).free
    text = f"{format_bytes(free)} free for {folder}"
    if num_bytes:
        text += f", about {format_bytes(num_bytes)} needed"
    if free < num_bytes:
        return FAIL, "disk", text, "free some space, or give an --output on a larger disk"
    if free < 1.2 * num_bytes:
        return WARN, "disk", text, "that is close: free some space, or give an --output on a larger disk"
    return OK, "disk", text, None


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _upgrade():
    return f"{sys.executable} -m pip install --upgrade yt-dlp yt-dlp-ejs"


def _runtimes():
    """(name, version, whether yt-dlp accepts it) of the JavaScript runtimes on this computer."""
    import yt_dlp  # noqa: F401 - fills the table below
    from yt_dlp.globals import supported_js_runtimes

    found = (runtime().info for runtime in supported_js_runtimes.value.values())
    return [(info.name, info.version, info.supported) for info in found if info]

"""Tells from yt-dlp's message whether a video is gone, we are blocked, or something failed that may work again."""

import re

OUTCOMES = ("done", "gone", "blocked", "failed")
# Reasons of "blocked" that tell of us and not of the video: the next video would meet the same.
STOPPING = frozenset({"bot check", "rate limit", "login", "forbidden"})
# Reasons of "gone" that are said of videos that are still there, too: these are asked once more, in a later run.
DOUBTFUL = frozenset({"unavailable", "not found"})

# The first row that matches decides. YouTube's own words come before HTTP's, and words that name one cause before
# those of several.
_TABLE = [(re.compile(pattern, re.IGNORECASE), outcome, reason) for pattern, outcome, reason in [
    # blocked, in the words of a refusal that has nothing to do with the video
    (r"not a bot|captcha|unusual traffic|anti-bot|IP is likely being blocked", "blocked", "bot check"),
    (r"rate.?limited|content isn't available, try again later|HTTP Error (429|402)|too many requests",
     "blocked", "rate limit"),
    # gone
    (r"private video|video is private", "gone", "private"),
    (r"account associated with this video has been (terminated|closed)|closed their YouTube account"
     r"|(account|channel) has been (terminated|deleted)", "gone", "terminated"),
    (r"(available|blocked|blocked it) in your (country|region|location)|from your location|geo.?restrict"
     r"|HTTP Error 451", "gone", "region"),
    (r"requires (payment|purchase)|pay to watch|to (rent|buy) this video|only available to .{0,20}premium members",
     "gone", "payment"),
    (r"has been removed|video (is no longer available|isn't available anymore|does not exist)"
     r"|copyright (claim|grounds)", "gone", "removed"),
    # blocked, by what this video needs
    (r"confirm your age|age.?restricted|inappropriate for some users", "blocked", "age"),
    (r"members.only|channel's members|join this channel", "blocked", "members"),
    (r"sign in|log ?in (required|is needed)|login details|please log in|registered users|cookies are no longer valid"
     r"|HTTP Error 401", "blocked", "login"),
    # failed, each with something to wait for or to repair
    (r"premieres? (in|will)|will begin|begins in|live event|is (still )?live|processing this video|starting soon"
     r"|currently offline", "failed", "not yet"),
    (r"playback on other websites|not available on this app|page needs to be reloaded|drm protected"
     r"|requested format is not available|no video formats|only images are available|challenge solving"
     r"|javascript runtime|player response|player js|unsupported url|not a video|no suitable extractor"
     r"|precondition check|unable to extract|extractor error|another video", "failed", "extractor"),
    # YouTube says this of videos that were deleted, and now and then of others
    (r"video unavailable|(video|content|recording) (is not available|isn't available|is unavailable)",
     "gone", "unavailable"),
    # HTTP and the network. Only the page itself can be "not found": yt-dlp's own requests move
    (r"unable to download webpage: HTTP Error (404|410)", "gone", "not found"),
    (r"HTTP Error 403", "blocked", "forbidden"),
    (r"HTTP Error (5\d\d|408|425|416|407|404|410)", "failed", "network"),
    (r"HTTP Error \d{3}", "failed", "extractor"),
    (r"timed? ?out|time limit|connection|remote end closed|incomplete ?read|more expected|getaddrinfo|failed to resolve"
     r"|name resolution|name or service not known|nodename nor servname|unreachable|no route to host|\bssl|certificate"
     r"|EOF occurred|content too short|any data blocks|downloaded file is empty|broken pipe|proxy|network error"
     r"|urlopen error", "failed", "network"),
    (r"^(unreadable|truncated|empty)\b|invalid data found", "failed", "decode"),
]]

_ADVICE = {
    "bot check": "Wait some hours, lower the rate, or give a file of cookies from a browser that is signed in.",
    "rate limit": "Wait an hour or more, and go on at a lower rate.",
    "login": "Give a fresh file of cookies, exported from a browser that is signed in.",
    "forbidden": "Update yt-dlp; if it is new, wait some hours and go on at a lower rate, or with cookies.",
    "age": "Give a file of cookies from an account whose age is confirmed.",
    "members": "Only members of the channel may watch it: give a file of cookies from such an account.",
    "unavailable": "YouTube says so of deleted videos, and now and then of others: the next run asks once more.",
    "private": "Its owner hides it; there is nothing to do.",
    "removed": "It was taken down; there is nothing to do.",
    "terminated": "The account that held it is closed; there is nothing to do.",
    "region": "It is not shown in your country; from another one it may be.",
    "payment": "It is sold; there is nothing to do.",
    "not found": "Nothing is at its address; if that holds for all videos, check the URL template. The next run asks "
                 "once more.",
    "not yet": "It is live or yet to begin: ask again when it is over.",
    "extractor": "Update yt-dlp and yt-dlp-ejs, and install a JavaScript runtime (Deno, or Node 22 or later).",
    "network": "Check the network, and run the same command again.",
    "decode": "What arrived is no whole audio: run the same command again.",
    "unknown": "Read the message; update yt-dlp, and run the same command again.",
}

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PREFIX = re.compile(r"^\s*(ERROR|WARNING):\s*|^\s*\[[\w:+.-]+\]\s+(?:[^\s:\[\]]{1,80}:\s+)?")
# What yt-dlp adds for people at its command line; ours is advice().
_HINTS = re.compile(r"[.;,]?\s*(Use --|(Also )?see +https?://|It is recommended to use `|You might want to use a VPN"
                    r"|please report this issue on|\(caused by |; try again with).*", re.IGNORECASE)
_SECRETS = re.compile(r"(?<=://)[^/@\s]*@|(?<=[\w/])[?#][^\s'\")>]*|\?[\w.%-]+=\S*")
_QUOTED_PATH = re.compile(r"(['\"])(?:~|[A-Za-z]:)?[\\/].*?\1")
_URL_OR_PATH = re.compile(r"(\w+://\S*)|(?<![\w:/.~])(?:~|[A-Za-z]:)?[\\/](?=[^\s\\/])[^\s'\":;,)]*")


def classify(message):
    """(outcome, reason) of a video from yt-dlp's message; what no row knows is ("failed", "unknown"), never gone."""
    text = _plain(message)
    return next(((outcome, reason) for pattern, outcome, reason in _TABLE if pattern.search(text)),
                ("failed", "unknown"))


def advice(reason):
    """What to do about videos of this reason, in one sentence; "" where there is none."""
    return _ADVICE.get(reason, "")


def clean_message(text):
    """The message in one line of at most 300 characters, fit for a record: without colours, yt-dlp's prefix and
    hints, paths of this computer, queries and logins in URLs."""
    text = _QUOTED_PATH.sub("(a path)", _SECRETS.sub("", _plain(text)))
    text = _URL_OR_PATH.sub(lambda found: found[1] or "(a path)", text)
    return text if len(text) <= 300 else text[:299].rstrip() + "…"


def _plain(text):
    """One line with straight quotes, without colours, prefixes and hints."""
    text = _COLOURS.sub("", str(text)).translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    while (shorter := _PREFIX.sub("", text, count=1)) != text:
        text = shorter
    return _HINTS.sub("", text).strip()

"""yt-dlp's messages, as recorded, are read as what they mean: gone, blocked, or failed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakerlib.data.scraping.outcomes import OUTCOMES, STOPPING, advice, classify, clean_message

COOKIES = (". Use --cookies-from-browser or --cookies for the authentication. See  https://github.com/yt-dlp/yt-dlp/"
           "wiki/FAQ#how-do-i-pass-cookies-to-yt-dlp  for how to manually pass cookies. Also see  https://github.com/"
           "yt-dlp/yt-dlp/wiki/Extractors#exporting-youtube-cookies  for tips on effectively exporting YouTube cookies")
REPORT = ("; please report this issue on  https://github.com/yt-dlp/yt-dlp/issues?q= , filling out the appropriate "
          "issue template. Confirm you are on the latest version using  yt-dlp -U")
LIMITED = (" has been rate-limited by YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay "
           "between video requests to avoid exceeding the rate limit. For more information, refer to  https://github."
           "com/yt-dlp/yt-dlp/wiki/Extractors#this-content-isnt-available-try-again-later")

# YouTube's and yt-dlp's own words, from yt-dlp 2026.10 and from what its users reported between 2021 and 2026.
RECORDED = [
    ("ERROR: [youtube] VdOAbNI7Kxk: Private video. Sign in if you've been granted access to this video" + COOKIES,
     "gone", "private"),
    ("ERROR: [youtube] lwUI5-fWv4U: Private video. Sign in if you’ve been granted access to this video", "gone",
     "private"),
    ("This video is private. If you'd like to gain access to this video, please contact the video owner.", "gone",
     "private"),
    ("ERROR: [youtube] XyHm0BmtLHg: Video unavailable. This video is no longer available because the YouTube account "
     "associated with this video has been terminated.", "gone", "terminated"),
    ("ERROR: [youtube] a: Video unavailable. This video is no longer available because the uploader has closed their "
     "YouTube account.", "gone", "terminated"),
    ("ERROR: [youtube] b: This video is no longer available because the YouTube account associated with this video "
     "has been closed.", "gone", "terminated"),
    ("ERROR: [youtube] c: Video unavailable. This video has been removed by the uploader", "gone", "removed"),
    ("ERROR: Video unavailable\nThis video has been removed by the uploader.", "gone", "removed"),
    ("ERROR: [youtube] Saix8wDp2iA: This video has been removed for violating YouTube's Terms of Service", "gone",
     "removed"),
    ("ERROR: [youtube] d: This video has been removed for violating YouTube’s policy on hate speech. Learn more about "
     "combating hate speech in your country.", "gone", "removed"),
    ("ERROR: [youtube] e: Video unavailable. This video is no longer available due to a copyright claim by Sony Music",
     "gone", "removed"),
    ("ERROR: [youtube] f: Video unavailable. This video contains content from UMG, who has blocked it on copyright "
     "grounds", "gone", "removed"),
    ("ERROR: [youtube] g: Video unavailable. This video isn't available anymore", "gone", "removed"),
    ("ERROR: [youtube] h: This video does not exist.", "gone", "removed"),
    ("ERROR: [youtube] Frti4cmhDx4: Video unavailable. This video contains content from Paramount Global (CBS), who "
     "has blocked it in your country on copyright grounds", "gone", "region"),
    ("ERROR: [youtube] i: The uploader has not made this video available in your country\nThis video is available in "
     "Germany, France.\nYou might want to use a VPN or a proxy server (with --proxy) to workaround.", "gone",
     "region"),
    ("ERROR: [youtube] 8XxJV5MCGl4: YouTube said: The uploader has not made this video available in your country.",
     "gone", "region"),
    ("ERROR: [youtube] j: This video is not available in your country.", "gone", "region"),
    ("This video is not available from your location due to geo restriction", "gone", "region"),
    ("ERROR: [youtube] k: This video requires payment to watch.", "gone", "payment"),
    ("ERROR: [youtube] l: This video is only available to Music Premium members", "gone", "payment"),
    ("ERROR: [generic] Unable to download webpage: HTTP Error 404: Not Found (caused by <HTTPError 404: Not Found>)",
     "gone", "not found"),
    ("ERROR: [generic] Unable to download webpage: HTTP Error 410: Gone (caused by <HTTPError 410: Gone>)", "gone",
     "not found"),

    ("ERROR: [youtube] tpUr8xVxj-w: Sign in to confirm you’re not a bot" + COOKIES, "blocked", "bot check"),
    ("ERROR: [youtube] 5i4ViUKFNLA: Sign in to confirm you're not a bot. This helps protect our community. Learn more",
     "blocked", "bot check"),
    ("ERROR: [youtube] m: Sign in to confirm you’re not a bot. YouTube is requiring a captcha challenge before "
     "playback", "blocked", "bot check"),
    ("ERROR: [youtube] n: All player responses are invalid. Your IP is likely being blocked by Youtube", "blocked",
     "bot check"),
    ("ERROR: [generic] Got HTTP Error 403 caused by Cloudflare anti-bot challenge; try again with  --extractor-args "
     "\"generic:impersonate\"", "blocked", "bot check"),
    ("ERROR: [youtube] 8NxoMpXM2oI: Video unavailable. This content isn't available, try again later. The current "
     "session" + LIMITED, "blocked", "rate limit"),
    ("ERROR: [youtube] SOWBtuuCDig: This content isn’t available, try again later. Your account" + LIMITED, "blocked",
     "rate limit"),
    ("ERROR: [youtube] o: Video unavailable. This content isn’t available, try again later.", "blocked",
     "rate limit"),
    ("ERROR: [youtube] p: Unable to download API page: HTTP Error 429: Too Many Requests (caused by <HTTPError 429: "
     "Too Many Requests>)" + REPORT, "blocked", "rate limit"),
    ("ERROR: unable to download video data: HTTP Error 429: Too Many Requests", "blocked", "rate limit"),
    ("ERROR: Unable to download webpage: HTTP Error 402: Payment Required", "blocked", "rate limit"),
    ("ERROR: unable to download video data: HTTP Error 403: Forbidden", "blocked", "forbidden"),
    ("ERROR: [generic] Unable to download webpage: HTTP Error 403: Forbidden (caused by <HTTPError 403: Forbidden>)",
     "blocked", "forbidden"),
    ("ERROR: [youtube] q: Please sign in" + COOKIES, "blocked", "login"),
    ("ERROR: [youtube] r: Login details are needed to download this content" + COOKIES, "blocked", "login"),
    ("WARNING: [youtube] The provided YouTube account cookies are no longer valid. They have likely been rotated in "
     "the browser as a security measure.", "blocked", "login"),
    ("ERROR: [generic] Unable to download webpage: HTTP Error 401: Unauthorized", "blocked", "login"),
    ("ERROR: [youtube] M3GgCZFVBIo: Sign in to confirm your age. This video may be inappropriate for some users"
     + COOKIES, "blocked", "age"),
    ("ERROR: Sign in to confirm your age\nThis video may be inappropriate for some users.", "blocked", "age"),
    ("ERROR: [youtube] s: This video is age-restricted and only available on YouTube", "blocked", "age"),
    ("ERROR: [youtube] h7aSM88pUv8: Join this channel to get access to members-only content like this video, and other "
     "exclusive perks.", "blocked", "members"),
    ("ERROR: [youtube] 9iVcXphPVaM: This video is available to this channel's members on level: Assistant (or any "
     "higher level). Join this channel to get access to members-only content and other exclusive perks.", "blocked",
     "members"),
    # said of deleted videos, and of others that a data centre or an app is not shown
    ("ERROR: [youtube] XyHm0BmtLHg: Video unavailable", "gone", "unavailable"),
    ("ERROR: [youtube] 3mzzmZG6ENc: Video unavailable. This video is not available", "gone", "unavailable"),
    ("ERROR: [youtube] qaImFO_DgAM: Video unavailable. This content isn’t available.", "gone", "unavailable"),
    ("ERROR: This video is unavailable.", "gone", "unavailable"),

    ("ERROR: [youtube] CviUGzWvm6w: Premieres in 6 hours", "failed", "not yet"),
    ("ERROR: [youtube] zDDmqpnkPy8: This live event will begin in 2 days.", "failed", "not yet"),
    ("ERROR: [youtube] t: This live event will begin in a few moments.", "failed", "not yet"),
    ("ERROR: [youtube] u: We're processing this video. Check back later.", "failed", "not yet"),
    ("ERROR: [youtube] WIGtCEHpilE: Requested format is not available. Use --list-formats for a list of available "
     "formats", "failed", "extractor"),
    ("WARNING: [youtube] 9KH5k5UfZXU: n challenge solving failed: Some formats may be missing. Ensure you have a "
     "supported JavaScript runtime and challenge solver script distribution installed. Review any warnings presented "
     "before this message. For more details, refer to  https://github.com/yt-dlp/yt-dlp/wiki/EJS", "failed",
     "extractor"),
    ("WARNING: [youtube] No supported JavaScript runtime could be found. Only deno is enabled by default", "failed",
     "extractor"),
    ("ERROR: [youtube] ViRpg0LHH8s: The page needs to be reloaded.. The page needs to be reloaded.", "failed",
     "extractor"),
    ("ERROR: [youtube] v: Video unavailable. Playback on other websites has been disabled by the video owner",
     "failed", "extractor"),
    ("ERROR: [youtube] Q1kmXoeeKAE: The following content is not available on this app.. Watch on the latest version "
     "of YouTube.", "failed", "extractor"),
    ("ERROR: [youtube] w: Failed to extract any player response" + REPORT, "failed", "extractor"),
    ("ERROR: [youtube] x: This video is DRM protected", "failed", "extractor"),
    ("ERROR: Unsupported URL: http://127.0.0.1:40001/a.html", "failed", "extractor"),
    ("ERROR: [youtube] y: Unable to download API page: HTTP Error 404: Not Found", "failed", "network"),
    ("ERROR: unable to download video data: HTTP Error 404: Not Found", "failed", "network"),
    ("ERROR: [youtube] z: Unable to download API page: HTTP Error 400: Bad Request", "failed", "extractor"),
    ("ERROR: [generic] Unable to download webpage: HTTP Error 503: Service Unavailable (caused by <HTTPError 503: "
     "Service Unavailable>)", "failed", "network"),
    ("ERROR: unable to download video data: HTTP Error 500: Internal Server Error", "failed", "network"),
    ("ERROR: \r[download] Got error: HTTPSConnectionPool(host='rr3---sn.googlevideo.com', port=443): Read timed out.. "
     "Giving up after 1 retries", "failed", "network"),
    ("ERROR: [youtube] KJybu1Y2tyY: Unable to download API page: (<HTTPSConnection(host='www.youtube.com', port=443) "
     "at 0x1f029f5d150>, 'Connection to www.youtube.com timed out. (connect timeout=20.0)')", "failed", "network"),
    ("ERROR: \r[download] Got error: 1048576 bytes read, 2097152 more expected. Giving up after 1 retries", "failed",
     "network"),
    ("ERROR: content too short (expected 5242880 bytes and served 1048576)", "failed", "network"),
    ("ERROR: [generic] A network error has occurred. (caused by IncompleteRead('<IncompleteRead: 3 bytes read>'))",
     "failed", "network"),
    ("ERROR: [youtube] TMzs6GvsZXU: Unable to download API page: <urllib3.connection.HTTPSConnection object at "
     "0x7f>: Failed to resolve 'www.youtube.com' ([Errno 11001] getaddrinfo failed)", "failed", "network"),
    ("ERROR: [youtube] a1: Unable to download webpage: [Errno -3] Temporary failure in name resolution", "failed",
     "network"),
    ("ERROR: [youtube] v9YRQFu6-PI: Unable to download API page: <urlopen error [Errno 101] Network is unreachable>",
     "failed", "network"),
    ("ERROR: [youtube] b1: Unable to download webpage: [Errno 111] Connection refused", "failed", "network"),
    ("ERROR: [youtube] c1: Unable to download API page: ('Connection aborted.', RemoteDisconnected('Remote end closed "
     "connection without response'))", "failed", "network"),
    ("ERROR: [youtube] k_sX2QRMUoo: Unable to download API page: [SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in "
     "violation of protocol", "failed", "network"),
    ("ERROR: [youtube] d1: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer "
     "certificate", "failed", "network"),
    ("ERROR: [youtube] e1: Unable to download webpage: ('Unable to connect to proxy', OSError())", "failed",
     "network"),
    ("ERROR: Did not get any data blocks", "failed", "network"),
    ("ERROR: The downloaded file is empty", "failed", "network"),
    ("unreadable: Invalid data found when processing input", "failed", "decode"),
    ("truncated: 30.1 of 60.0 s", "failed", "decode"),

    ("Something that nobody has seen before", "failed", "unknown"),
    ("", "failed", "unknown"),
]


@pytest.mark.parametrize(("message", "outcome", "reason"), RECORDED)
def test_recorded_messages(message, outcome, reason):
    assert classify(message) == (outcome, reason)
    assert classify(clean_message(message)) == (outcome, reason)  # what the record keeps says the same
    assert classify("\x1b[0;31m" + message.replace("ERROR:", "ERROR:\x1b[0m")) == (outcome, reason)


def test_every_reason_has_advice():
    reasons = {reason for _, _, reason in RECORDED}
    assert all(advice(reason).endswith(".") for reason in reasons)
    assert advice("") == ""
    assert STOPPING < reasons and all(outcome == "blocked" for _, outcome, reason in RECORDED if reason in STOPPING)
    assert {outcome for _, outcome, _ in RECORDED} == set(OUTCOMES) - {"done"}


@given(st.text(max_size=400))
def test_any_text_is_read_and_fits_into_a_line(text):
    assert classify(text)[0] in OUTCOMES[1:]
    line = clean_message(text)
    assert len(line) <= 300 and len(line.splitlines()) <= 1 and line.isprintable()


@pytest.mark.parametrize(("message", "expected"), [
    ("ERROR: [youtube] tpUr8xVxj-w: Sign in to confirm you’re not a bot" + COOKIES,
     "Sign in to confirm you're not a bot"),
    ("ERROR: [youtube] w: Failed to extract any player response" + REPORT, "Failed to extract any player response"),
    ("\x1b[0;31mERROR:\x1b[0m unable to write data: [Errno 28] No space left on device: '/home/me/my data/a.part'",
     "unable to write data: [Errno 28] No space left on device: (a path)"),
    ("cannot open /home/me/x.part, C:\\Users\\me\\x.txt or ~/x: denied", "cannot open (a path), (a path) or (a path): "
                                                                        "denied"),
    ("ERROR: Unsupported URL: https://me:secret@host.org/a.m4a?token=abc#part", "Unsupported URL: https://host.org/"
                                                                               "a.m4a"),
    ("refused videoplayback?expire=1655576590&sig=AOq0QJ8w here", "refused videoplayback here"),
    ("line one\r\n  line\ttwo\x00", "line one line two"),
])
def test_messages_are_cleaned(message, expected):
    assert clean_message(message) == expected


def test_long_messages_end_with_an_ellipsis():
    assert clean_message("word " * 100) == ("word " * 59 + "word…")[:300]

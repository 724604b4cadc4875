"""How long a scraping job will take and how much it will download and keep, before it runs or from its start."""

import numpy as np

FLAC_BYTES = 18_000  # a second of 16 kHz speech; 16,100 measured on clean read speech, more where there is noise
AUDIO_BYTES = 16_200  # a second of YouTube's usual AAC, 129 kbit/s
VIDEO_SECONDS = 300.0  # a video that is listed to its first minutes only is taken to last this long
FETCH_SECONDS = 10.0  # to ask for a video, download and cut it, for one worker
ENOUGH_VIDEOS = 10  # measured ones, before they are believed


def estimate(utterances, videos=None, num_workers=2, rate=None):
    """What is still to be done for a list: a dict of numbers, all as if no further video was gone.

    utterances: as read_url_lists or read_ledger return them; videos: read_ledger's, if the job has begun: what is
    done or gone is left out then, and the means of what was asked for replace the assumptions as soon as 10 videos
    are done. rate: at most so many videos an hour, None for no limit.
    Returns videos, utterances, hours, flac_bytes, download_bytes, seconds (the job's, not a worker's),
    num_workers, rate, there (share of the videos asked for that were still there, None if unknown), basis (text).
    Raises ValueError for num_workers or a rate that is not positive.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers={num_workers}: expected 1 or more.")
    if rate is not None and not rate > 0:
        raise ValueError(f"rate={rate}: expected videos an hour, more than 0, or None for no limit.")
    begun = videos is not None
    left = utterances[~utterances["video"].isin(videos.loc[videos["outcome"].isin(("done", "gone")), "video"])
                      ] if begun else utterances
    ends = left.groupby("video")["end"].max()
    spoken = float((left["end"] - left["start"]).sum())
    measured = _means(videos) if begun else None
    if measured:
        download, seconds, there, basis = measured
        download_bytes = download * len(ends)
    else:
        download_bytes = AUDIO_BYTES * np.maximum(ends, VIDEO_SECONDS).sum()
        seconds, there = FETCH_SECONDS, None
        basis = (f"assumed: {VIDEO_SECONDS / 60:.0f} minutes a video or up to its last utterance, "
                 f"{AUDIO_BYTES * 8 / 1000:.0f} kbit/s, {FETCH_SECONDS:.0f} s a video and worker")
    return {
        "videos": len(ends),
        "utterances": len(left),
        "hours": spoken / 3600,
        "flac_bytes": int(FLAC_BYTES * spoken),
        "download_bytes": int(download_bytes),
        "seconds": len(ends) * max(seconds / num_workers, 3600 / rate if rate else 0.0),
        "num_workers": num_workers,
        "rate": rate,
        "there": there,
        "basis": basis,
    }


def describe_estimate(figures):
    """What estimate returned, as aligned lines for a terminal."""
    limited = np.isfinite(figures["rate"] or np.inf)
    rate = f"at most {figures['rate']:,.0f} videos an hour" if limited else "no limit on videos an hour"
    workers = f"{figures['num_workers']} worker{'s' * (figures['num_workers'] > 1)}"
    flac, download = format_bytes(figures["flac_bytes"]), format_bytes(figures["download_bytes"])
    there = "as if every video was still there"
    if figures["there"] is not None:
        there += f"; of those asked for so far, {100 * figures['there']:.0f} % were"
    return "\n".join([
        f"{'videos to ask for':<20}{figures['videos']:>11,}",
        f"{'utterances':<20}{figures['utterances']:>11,}  {format_hours(figures['hours'])} of speech",
        f"{'download':<20}{download:>11}  kept only with --keep-audio",
        f"{'utterances on disk':<20}{flac:>11}  16 kHz FLAC",
        f"{'time':<20}{format_seconds(figures['seconds']):>11}  {workers}, {rate}",
        f"{there[0].upper()}{there[1:]}.",
        f"{figures['basis'][0].upper()}{figures['basis'][1:]}.",
    ])


def format_bytes(count):
    """A number of bytes as a person says it: 950 kB, 12.3 MB, 1.2 TB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"


def format_hours(hours):
    """An amount of speech: 3.2 minutes, 62.31 hours."""
    return f"{hours:,.2f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def format_seconds(seconds):
    """A duration in two units at most: 45 s, 12 min, 3 h 20 min, 3 d 22 h; "?" for None."""
    if seconds is None:
        return "?"
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def _means(videos):
    """(bytes a video, seconds a video, share there, basis) of what was asked for; None if that is too little."""
    done = videos[videos["outcome"] == "done"]
    if len(done) < ENOUGH_VIDEOS:
        return None
    gone = int((videos["outcome"] == "gone").sum())
    asked = videos.loc[videos["outcome"] != "pending", "seconds"]
    return (float(done["num_bytes"].mean()), float(asked.mean()), len(done) / (len(done) + gone),
            f"measured on {len(done):,} videos; the size on disk at {FLAC_BYTES / 1000:.0f} kB a second")

"""What a scraping job has brought, what it lacks and why, and what to do next."""

import shlex

from speakerlib.data.audio import SAMPLE_RATE
from speakerlib.data.scraping.estimate import format_bytes, format_hours
from speakerlib.data.scraping.ledger import read_ledger
from speakerlib.data.scraping.manifest import STATES, utterance_states
from speakerlib.data.scraping.outcomes import DOUBTFUL, advice
from speakerlib.data.scraping.progress import OUTCOMES


def report(output, min_utterances=5):
    """What a job's ledger says, at any time, also while it runs: a dict of plain numbers, names and texts.

    videos: how many; outcomes: {outcome: videos}; reasons: {outcome: {reason: videos}}, the largest first; doubtful:
    {reason: videos} of those gone that are asked once more.
    utterances: listed = in_hand + missing + skipped + lost + possible (see utterance_states); skipped: {reason:
    utterances}. hours: in hand; bytes: downloaded; seconds: spent on the videos, added over the workers.
    speakers: total; none, few: names with no and with 1 to min_utterances - 1 utterances in hand; lost: names that
    stay below min_utterances even if all that is possible arrives.
    Raises what read_ledger raises, and ValueError for min_utterances below 1.
    """
    if min_utterances < 1:
        raise ValueError(f"min_utterances={min_utterances}: expected 1 or more.")
    videos, utterances, _ = read_ledger(output)
    table = utterance_states(output, videos, utterances)
    states, outcomes = table["state"].value_counts(), videos["outcome"].value_counts()
    in_hand, possible = ((table["state"] == state).groupby(table["speaker"]).sum() for state in ("in hand", "possible"))
    return {
        "output": str(output),
        "min_utterances": int(min_utterances),
        "videos": len(videos),
        "outcomes": {outcome: int(outcomes.get(outcome, 0)) for outcome in OUTCOMES},
        "reasons": {outcome: _counts(videos.loc[videos["outcome"] == outcome, "reason"])
                    for outcome in ("gone", "blocked", "failed")},
        "doubtful": _counts(videos.loc[videos["reason"].isin(DOUBTFUL) & (videos["outcome"] == "gone")
                                       & (videos["tries"] < 2), "reason"]),
        "utterances": {"listed": len(table)} | {name.replace(" ", "_"): int(states.get(name, 0)) for name in STATES},
        "skipped": _counts(table.loc[table["state"] == "skipped", "reason"].str.split(":").str[0]),
        "hours": float(table.loc[table["state"] == "in hand", "num_samples"].sum()) / SAMPLE_RATE / 3600,
        "bytes": int(videos["num_bytes"].sum()),
        "seconds": float(videos["seconds"].sum()),
        "speakers": {"total": len(in_hand),
                     "none": sorted(in_hand.index[in_hand == 0]),
                     "few": sorted(in_hand.index[(in_hand > 0) & (in_hand < min_utterances)]),
                     "lost": sorted(in_hand.index[in_hand + possible < min_utterances])},
    }


def describe_report(counts):
    """What report returned, as aligned lines for a terminal or an appendix; the last ones say what to do next."""
    return "\n".join([*_video_lines(counts), "", *_utterance_lines(counts), "", *_speaker_lines(counts), "",
                      "what next", *(f"  {line}" for line in _next_steps(counts))])


def _video_lines(counts):
    total = counts["videos"]
    yield _line("videos", total, f"{format_bytes(counts['bytes'])} downloaded")
    for outcome, count in counts["outcomes"].items():
        yield _line(f"  {outcome}", count, _share(count, total))
        for reason, videos in counts["reasons"].get(outcome, {}).items():
            yield _line(f"    {reason}", videos)


def _utterance_lines(counts):
    utterances = counts["utterances"]
    total = utterances["listed"]
    notes = {"in hand": format_hours(counts["hours"]), "missing": "written, but their files are away",
             "skipped": "could not be cut", "lost": "their videos are gone",
             "possible": "their videos are pending, blocked or failed"}
    yield _line("utterances", total)
    for state in STATES:
        count = utterances[state.replace(" ", "_")]
        if count or state != "missing":
            yield _line(f"  {state}", count, _share(count, total), notes[state])
        if state == "skipped":
            for reason, skipped in counts["skipped"].items():
                yield _line(f"    {reason}", skipped)


def _speaker_lines(counts):
    speakers, least = counts["speakers"], counts["min_utterances"]
    yield _line("speakers", speakers["total"])
    yield _line("  with none", len(speakers["none"]), _names(speakers["none"]))
    if least > 1:
        yield _line(f"  with 1 to {least - 1}" if least > 2 else "  with 1", len(speakers["few"]),
                    _names(speakers["few"]))
    yield _line(f"  cannot reach {least}", len(speakers["lost"]), _names(speakers["lost"]))


def _next_steps(counts):
    outcomes, utterances, folder = counts["outcomes"], counts["utterances"], shlex.quote(counts["output"])
    asked_again = {"gone": counts["doubtful"]} | {name: counts["reasons"][name] for name in ("blocked", "failed")}
    for outcome, reasons in asked_again.items():
        for reason, count in reasons.items():
            yield f"{outcome}, {reason} ({count:,}): {advice(reason)}"
    if utterances["missing"]:
        yield f"{utterances['missing']:,} files are away: put them back, or let the same command fetch them."
    left = outcomes["pending"] + outcomes["blocked"] + outcomes["failed"] + sum(counts["doubtful"].values())
    if left or utterances["missing"]:
        yield f"{left:,} videos are still possible. The same command goes on:"
        yield f"  speakerlib scrape --url-directory <the same lists> --output {folder}"
    elif utterances["in_hand"]:
        yield "Every video was asked for. To make a corpus of what is there:"
        yield f"  speakerlib import {folder}"
    else:
        yield "Every video was asked for, and nothing is in hand: see skipped.csv for the reasons."


def _line(name, count, *notes):
    return f"{name:<24}{count:>11,}  {'  '.join(note for note in notes if note)}".rstrip()


def _share(count, total):
    return f"{100 * count / total:5.1f} %" if total else ""


def _names(names, most=10):
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _counts(reasons):
    """{reason: how many}, the largest first, then by name."""
    counts = reasons.fillna("").replace("", "unknown").value_counts()
    return {name: int(count) for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}

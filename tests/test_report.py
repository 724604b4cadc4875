"""Report and manifest: every video and utterance is counted once, with its reason, and nothing torn is published."""

import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakerlib.data.files import write_table
from speakerlib.data.manifests import MANIFEST_COLUMNS, read_manifest
from speakerlib.data.scraping.ledger import open_ledger
from speakerlib.data.scraping.manifest import write_manifest
from speakerlib.data.scraping.report import describe_report, report

SHA = "0123456789abcdef" * 4
# video -> outcome, reason, (speaker, utterances in the list, reason they were not cut)
VIDEOS = {
    "done-video1": ("done", "", [("a", 3, ""), ("b", 2, "")]),
    "done-video2": ("done", "", [("a", 1, "under 0.5 s"), ("a", 2, "past the end: ends at 9.0 s, the audio at 5.0 s")]),
    "gone-video1": ("gone", "private", [("b", 4, ""), ("c", 1, "")]),
    "gone-video2": ("gone", "removed", [("c", 1, "")]),
    "gone-video3": ("gone", "private", [("c", 1, "")]),
    "refused-vid": ("blocked", "bot check", [("d", 5, "")]),
    "failed-vide": ("failed", "network", [("e", 1, "")]),
    "pending-vid": (None, "", [("a", 6, "")]),
}


def listed(videos=VIDEOS):
    """The list's table: utterances 00001, 00002, ... of each speaker of each video."""
    rows, counts = [], {}
    for video, (_, _, parts) in videos.items():
        for speaker, number, _ in parts:
            for _ in range(number):
                k = counts[speaker, video] = counts.get((speaker, video), 0) + 1
                rows.append((speaker, video, f"{k:05d}", 4.0 * k, 4.0 * k + 2.0))
    return pd.DataFrame(rows, columns=["speaker", "video", "utterance", "start", "end"])


def make_job(output, order=tuple(VIDEOS), videos=VIDEOS):
    """An output folder whose ledger says VIDEOS, with a file for each utterance that was cut."""
    ledger = open_ledger(output, listed(videos))
    for video in order:
        outcome, reason, parts = videos[video]
        if outcome is None:
            continue
        cuts, counts = [], {}
        for speaker, number, skipped in parts if outcome == "done" else []:
            for _ in range(number):
                k = counts[speaker] = counts.get(speaker, 0) + 1
                cuts.append((speaker, f"{k:05d}", 0 if skipped else 32000, "" if skipped else SHA, skipped))
                if not skipped:
                    path = output / speaker / video / f"{k:05d}.flac"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(b"flac")
        ledger.record(SimpleNamespace(video=video, outcome=outcome, reason=reason, message="its text", seconds=2.0,
                                      num_bytes=1000 * (outcome == "done"), audio_seconds=60.0, utterances=cuts))
    ledger.close()
    return output


def test_every_video_and_utterance_is_counted_once_with_its_reason(tmp_path):
    counts = report(make_job(tmp_path / "out"), min_utterances=3)
    assert counts["outcomes"] == {"done": 2, "gone": 3, "blocked": 1, "failed": 1, "pending": 1}
    assert counts["reasons"] == {"gone": {"private": 2, "removed": 1}, "blocked": {"bot check": 1},
                                 "failed": {"network": 1}}
    assert list(counts["reasons"]["gone"]) == ["private", "removed"]  # the largest first
    assert counts["utterances"] == {"listed": 27, "in_hand": 5, "missing": 0, "skipped": 3, "lost": 7, "possible": 12}
    assert counts["skipped"] == {"past the end": 2, "under 0.5 s": 1}
    assert counts["hours"] == pytest.approx(5 * 2.0 / 3600)
    assert (counts["bytes"], counts["seconds"]) == (2000, 14.0)
    assert counts["speakers"] == {"total": 5, "none": ["c", "d", "e"], "few": ["b"], "lost": ["b", "c", "e"]}
    assert json.loads(json.dumps(counts)) == counts


def test_a_report_reads_well_and_says_what_to_do_next(tmp_path):
    output = make_job(tmp_path / "out")
    text = describe_report(report(output))
    for line in (r"videos +8  2 kB downloaded", r"  gone +3   37.5 %", r"    private +2",
                 r"  in hand +5   18.5 %  0.2 minutes", r"  with none +3  c, d, e", r"  with 1 to 4 +2  a, b"):
        assert re.search(rf"^{line}$", text, re.MULTILINE), line
    what_next = text.partition("what next")[2]
    assert "bot check (1): Wait" in what_next and "network (1): Check the network" in what_next
    assert "3 videos are still possible" in what_next and f"--output {output}" in what_next
    assert "missing" not in text  # nothing is
    assert max(map(len, text.replace(str(output), "").splitlines())) <= 120


def test_a_finished_job_is_sent_on_to_the_import_and_a_fruitless_one_to_its_reasons(tmp_path):
    done = {"done-video1": VIDEOS["done-video1"]}
    text = describe_report(report(make_job(tmp_path / "done", done, done)))
    assert f"speakerlib import {tmp_path / 'done'}" in text and "still possible" not in text
    text = describe_report(report(make_job(tmp_path / "my job", done, done)))
    assert f"speakerlib import '{tmp_path / 'my job'}'" in text  # as a shell takes it
    gone = {"gone-video1": VIDEOS["gone-video1"]}
    text = describe_report(report(make_job(tmp_path / "gone", gone, gone)))
    assert "nothing is in hand" in text and "speakerlib import" not in text


def test_what_is_gone_for_a_doubtful_reason_is_said_to_be_asked_once_more(tmp_path):
    videos = {f"video-{number:05d}": ("gone", "not found", [("a", 1, "")]) for number in range(3)}
    output = make_job(tmp_path / "out", videos, videos)
    text = describe_report(report(output))
    assert "gone, not found (3): " in text and "URL template" in text and "3 videos are still possible" in text
    make_job(output, videos, videos)  # the second run
    text = describe_report(report(output))
    assert "gone, not found" not in text and "nothing is in hand" in text


def test_at_most_ten_speakers_are_named(tmp_path):
    videos = {f"video-{number:05d}": ("gone", "removed", [(f"id{number:02d}", 1, "")]) for number in range(25)}
    text = describe_report(report(make_job(tmp_path / "out", videos, videos)))
    line = next(line for line in text.splitlines() if "with none" in line)
    assert line.split()[2] == "25" and line.endswith("id08, id09 and 15 more") and "id10" not in line


def test_a_report_wants_at_least_one_utterance(tmp_path):
    with pytest.raises(ValueError, match="min_utterances=0: expected 1"):
        report(make_job(tmp_path / "out"), min_utterances=0)
    with pytest.raises(FileNotFoundError, match="no ledger"):
        report(tmp_path)


def test_the_manifest_is_the_same_whatever_the_order_and_holds_only_what_is_there(tmp_path):
    first = write_manifest(make_job(tmp_path / "one"))
    second = write_manifest(make_job(tmp_path / "two", reversed(VIDEOS)))
    assert first.read_bytes() == second.read_bytes()
    table = read_manifest(first)
    assert table[["speaker", "session", "utterance"]].apply("/".join, axis=1).to_list() == [
        "a/done-video1/00001", "a/done-video1/00002", "a/done-video1/00003",
        "b/done-video1/00001", "b/done-video1/00002"]
    assert set(table["num_samples"]) == {32000} and (table["end"] - table["start"] == 2).all()
    (tmp_path / "one/a/done-video1/00002.flac").unlink()
    assert len(read_manifest(write_manifest(tmp_path / "one"))) == 4
    counts = report(tmp_path / "one")
    assert (counts["utterances"]["in_hand"], counts["utterances"]["missing"]) == (4, 1)
    assert "1 files are away" in describe_report(counts)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "a", "b", "ledger.sqlite", "manifest.csv", "skipped.csv"}


def test_what_is_not_in_the_manifest_is_listed_with_its_reason(tmp_path):
    output = make_job(tmp_path / "out")
    (output / "a/done-video1/00001.flac").unlink()
    write_manifest(output)
    skipped = pd.read_csv(output / "skipped.csv", dtype="str")
    assert list(skipped) == ["speaker", "session", "utterance", "reason"]
    assert len(skipped) + len(read_manifest(output / "manifest.csv")) == len(listed())
    reasons = {(row.session, row.utterance): row.reason for row in skipped.itertuples()}
    assert reasons["done-video1", "00001"] == "its file is missing"
    assert reasons["done-video2", "00001"] == "under 0.5 s"
    assert reasons["done-video2", "00002"] == "past the end: ends at 9.0 s, the audio at 5.0 s"
    assert reasons["gone-video2", "00001"] == "gone: removed"
    assert reasons["refused-vid", "00001"] == "blocked: bot check"
    assert reasons["pending-vid", "00001"] == "pending"


HEADER = "speaker,session,utterance,start,end,num_samples,sha256"
GOOD = f"a,-bcdefghijk,00001,1.0,2.5,24000,{SHA}"


@pytest.mark.parametrize("lines, said", [
    ([HEADER.replace(",sha256", ""), GOOD.rsplit(",", 1)[0]], "lacks sha256"),
    ([HEADER, GOOD, GOOD.replace(SHA, "12")], "line 3: sha256 is '12'"),
    ([HEADER, GOOD, GOOD.replace(SHA, SHA.upper())], "line 3: sha256"),
    ([HEADER, "", GOOD.replace("a,", "../a,", 1)], "line 3: speaker is '../a'"),
    ([HEADER, GOOD.replace("-bcdefghijk", "..")], "line 2: session is '..'"),
    ([HEADER, GOOD.replace("00001", "")], "line 2: utterance is ''"),
    ([HEADER, GOOD.replace("24000", "24000.5")], "line 2: num_samples"),
    ([HEADER, GOOD.replace("24000", "-1")], "line 2: num_samples"),
    ([HEADER, GOOD.replace("2.5", "0.5")], "line 2: end is '0.5'"),
    ([HEADER, GOOD.replace("2.5", "inf")], "line 2: end is 'inf'"),
    ([HEADER, GOOD.replace("1.0", "nan")], "line 2: start is 'nan'"),
    ([HEADER, GOOD, GOOD.replace("1.0", "1.5")], "line 3: utterance is '00001'"),
    ([HEADER, GOOD, GOOD + ",more"], "cannot be read as a manifest"),
    ([HEADER, GOOD + ",more"], "cannot be read as a manifest"),
    ([HEADER, GOOD, "a,b"], "line 3: utterance is ''"),
    ([""], "cannot be read as a manifest"),
])
def test_a_bad_manifest_is_refused_with_its_line(tmp_path, lines, said):
    path = tmp_path / "manifest.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(said)):
        read_manifest(path)


def test_what_is_no_text_or_no_file_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="cannot be read as a manifest"):
        read_manifest(tmp_path / "manifest.csv")
    with pytest.raises(FileNotFoundError, match="no manifest"):
        read_manifest(tmp_path)


def test_a_manifest_that_went_through_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "manifest.csv"
    columns = ["note", *HEADER.split(",")]
    path.write_bytes(("\ufeff" + "\r\n".join([",".join(columns), f"x,{GOOD}", "", f'"y, z",{GOOD[:-64]}{SHA[::-1]}'
                                              .replace("00001", "00002"), ""])).encode())
    table = read_manifest(path)
    assert list(table) == HEADER.split(",") and table["utterance"].to_list() == ["00001", "00002"]
    assert table["sha256"].to_list() == [SHA, SHA[::-1]]
    assert table["num_samples"].dtype == "int64" and table.index.to_list() == [0, 1]


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/\\"), min_size=1,
                max_size=20).filter(lambda name: set(name) != {"."})


@given(st.lists(st.tuples(names, names, names, st.floats(0, 1e4), st.integers(1, 10**9)), min_size=1, max_size=20,
                unique_by=lambda row: row[:3]))
def test_what_is_written_is_read_back(tmp_path_factory, rows):
    table = pd.DataFrame([(*ids, start, start + 2.0, count, SHA) for *ids, start, count in rows],
                         columns=MANIFEST_COLUMNS)
    path = tmp_path_factory.getbasetemp() / "manifest.csv"
    write_table(path, table)
    pd.testing.assert_frame_equal(read_manifest(path), table, check_dtype=False)

"""The commands that get speech, as a user types them: scraping on this computer, reports, manifests, trials."""

import re

import numpy as np
import pytest
from filelock import FileLock

from speakerlib.cli import main
from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import open_corpus
from speakerlib.data.manifests import read_manifest
from speakerlib.data.practice.lists import make_practice
from speakerlib.data.practice.server import serve_practice
from speakerlib.data.scraping.job import YOUTUBE
from speakerlib.data.scraping.ledger import read_ledger
from speakerlib.data.scraping.sources import open_job

QUICK = ("--retry-seconds", "0.05")


@pytest.fixture
def hums(tmp_path):
    """The lists of four speakers with two videos each, and a function that serves them with faults."""
    folder = make_practice(tmp_path / "hums", num_speakers=4, num_videos=2, seconds=6.0, speech=False)
    return folder / "url_lists", lambda faults=None: serve_practice(folder, faults)


def scrape(lists, output, template, *options):
    return main(["scrape", "--url-directory", str(lists), "--output", str(output), "--url-template", template, *QUICK,
                 *options])


@pytest.mark.slow
def test_the_practice_job_ends_with_a_report_and_a_corpus_can_be_made_of_it(data_folder, capsys):
    assert main(["scrape", "--practice", *QUICK]) == 0
    said = capsys.readouterr().out
    for reason in ("private", "region", "removed", "terminated", "bot check", "decode", "past the end"):
        assert f"    {reason} " in said
    output = data_folder / "scraped" / "practice"
    manifest = read_manifest(output / "manifest.csv")
    assert len(manifest) > 30 and f"manifest: {output / 'manifest.csv'}" in said
    assert main(["import", str(output), "--manifest", str(output / "manifest.csv")]) == 0
    assert len(open_corpus("practice").table) == len(manifest)
    assert main(["scrape", "--practice", "--dry-run"]) == 0
    with FileLock(output / ".lock"), pytest.raises(RuntimeError, match="another job is at work"), open_job("practice"):
        pass
    capsys.readouterr()
    assert main(["scrape", "--practice", "--report"]) == 0
    assert capsys.readouterr().out.strip() in said
    assert manifest.equals(read_manifest(output / "manifest.csv"))  # neither touched what is there
    with open_job("practice"):  # it had ended, so it starts anew
        assert not output.exists()


def test_a_job_goes_on_and_reports_at_any_time(hums, data_folder, tmp_path, capsys):
    lists, serve = hums
    with serve({"unused": "missing"}) as (template, requests):
        assert scrape(lists, tmp_path / "out", template) == 0
        asked = requests.total()
        first = capsys.readouterr().out
        assert scrape(lists, tmp_path / "out", template) == 0
        assert requests.total() == asked  # nothing is downloaded twice
    capsys.readouterr()
    assert main(["scrape", "--output", str(tmp_path / "out"), "--report"]) == 0
    assert capsys.readouterr().out.strip() in first
    assert scrape(lists, tmp_path / "out", YOUTUBE, "--dry-run") == 0
    assert re.search("videos to ask for +0$", capsys.readouterr().out, re.MULTILINE)
    assert scrape(lists, tmp_path / "out", YOUTUBE, "--dry-run", "--force") == 0
    assert re.search("videos to ask for +8$", capsys.readouterr().out, re.MULTILINE)
    next(lists.glob("txt/*/*/*.txt")).unlink()
    assert scrape(lists, tmp_path / "out", YOUTUBE, "--dry-run") == 2
    assert "belongs to another list" in capsys.readouterr().err
    (tmp_path / "out" / "manifest.csv").unlink()
    (tmp_path / "out" / "manifest.csv").mkdir()  # no file can take its place, as in a folder of somebody else's
    assert main(["scrape", "--output", str(tmp_path / "out"), "--report"]) == 0
    said = capsys.readouterr().out
    assert said.strip().rpartition("\n")[0] in first and "manifest: cannot be written" in said


def test_a_site_that_refuses_stops_the_job_with_a_status_of_its_own(hums, data_folder, tmp_path, capsys):
    lists, serve = hums
    videos = {path.name for path in lists.glob("txt/*/*")}
    with serve(dict.fromkeys(videos, "bot check")) as (template, _):
        assert scrape(lists, tmp_path / "out", template, "--workers", "1") == 3
    said = capsys.readouterr()
    assert "Stopped: 3 videos were refused (bot check)" in said.err and "cookies" in said.out
    assert set(read_ledger(tmp_path / "out")[0]["outcome"]) == {"blocked", "pending"}


def test_a_dry_run_looks_and_writes_nothing(hums, data_folder, tmp_path, capsys):
    lists, serve = hums
    with serve() as (template, requests):
        assert scrape(lists, tmp_path / "out", template, "--dry-run") == 0
        assert not requests
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    assert scrape(lists, tmp_path / "out", template, "--dry-run", "--cookies", str(lists / "none.txt")) == 2
    assert "8 videos and 4 speakers" in said and "decoders" in said and "utterances on disk" in said


def test_the_disk_is_looked_at_for_all_that_is_asked_to_be_kept(hums, data_folder, tmp_path, capsys):
    lists, _ = hums
    needed = []
    for options in ([], ["--keep-audio"]):
        scrape(lists, tmp_path / "out", YOUTUBE, "--dry-run", *options)
        needed.append(re.search(r"about ([\d.]+ .B) needed", capsys.readouterr().out)[1])
    assert needed[0].endswith("kB") and needed[1].endswith("MB")  # some seconds, or some minutes, of eight videos


def test_zero_is_a_number(hums, data_folder, tmp_path, monkeypatch, capsys):
    lists, _ = hums
    assert scrape(lists, tmp_path / "out", YOUTUBE, "--dry-run", "--rate", "0") == 2
    assert "rate=0" in capsys.readouterr().err
    given = {}
    monkeypatch.setattr("speakerlib.data.scraping.job.scrape", lambda *lists, **options: given.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scrape(lists, tmp_path / "out", YOUTUBE, "--retry-seconds", "0")
    assert given["retry_seconds"] == 0


@pytest.mark.parametrize(("arguments", "message"), [
    (["--output", "out"], "--url-directory"),
    (["--url-directory", "lists"], "--output"),
    (["--report"], "--output"),
    (["--practice", "--url-template", YOUTUBE], "practice list has a server of its own"),
    (["--url-directory", "lists", "--output", "out", "--url-template", "https://host/watch"], "{video}"),
])
def test_what_is_missing_or_wrong_is_said_before_anything_is_done(data_folder, tmp_path, monkeypatch, capsys, arguments,
                                                                 message):
    monkeypatch.chdir(tmp_path)
    assert main(["scrape", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_list_of_ones_own_asks_youtube_and_writes_below_data(data_folder, tmp_path):
    for folder in (tmp_path / "vox1_dev_txt", tmp_path / "vox1_dev_txt" / "txt"):
        with open_job(folder) as job:
            assert job.url_template == YOUTUBE and not job.synthetic
            assert job.output == data_folder / "scraped" / "vox1_dev_txt"


def test_trials_are_counted_and_matched(data_folder, tmp_path, capsys):
    trials = tmp_path / "trials.txt"
    trials.write_text("1 a/x/1.wav a/y/2.wav\r\n0 a/x/1.wav b/z/1.wav")
    assert main(["trials", str(trials)]) == 0
    assert "2" in capsys.readouterr().out
    assert main(["trials", str(trials), "--corpus", "nobody"]) == 2
    assert "'nobody'" in capsys.readouterr().err


def test_a_corpus_is_published_by_its_manifest_and_scored_only_as_far_as_it_goes(data_folder, tmp_path, capsys):
    draw = np.random.default_rng(0)
    for speaker in "abc":
        for number in range(2):
            path = tmp_path / "people" / speaker / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, draw.normal(0, 0.1, 16000).clip(-1, 1))
    assert main(["import", str(tmp_path / "people")]) == 0
    assert main(["manifest", "people", "--output", str(tmp_path / "mine.csv")]) == 0
    assert "6 utterances" in capsys.readouterr().out and len(read_manifest(tmp_path / "mine.csv")) == 6
    assert main(["import", str(tmp_path / "people"), "--name", "again", "--manifest", str(tmp_path / "mine.csv")]) == 0
    (tmp_path / "trials.txt").write_text("1 a/0.wav a/1.wav\n0 a/0.wav b/1.wav\n0 a/0.wav z/1.wav\n")
    capsys.readouterr()
    assert main(["trials", str(tmp_path / "trials.txt"), "--corpus", "people"]) == 2
    assert "lacks 1 of the 4 utterances" in (said := capsys.readouterr().err) and "--drop-missing" in said
    assert main(["trials", str(tmp_path / "trials.txt"), "--corpus", "people", "--drop-missing"]) == 0
    assert "can score 2 of the 3 trials" in capsys.readouterr().out


def test_archives_explain_themselves(capsys):
    assert main(["archives", "list"]) == 0
    assert "vox1_dev_wav_partaa" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["archives"])
    with pytest.raises(SystemExit, match="0"):
        main(["archives", "download", "--help"])
    assert "--url-template" in capsys.readouterr().out

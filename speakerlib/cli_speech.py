"""The commands that get speech: demo, import, corpora, download, scrape, trials."""

import os

from speakerlib.cli_archives import add_archives

IMPORT_EXAMPLES = """examples:
  speakerlib import ~/speech/volunteers
  speakerlib import ~/vox1 --name vox1       a VoxCeleb tree: wav/<speaker>/<video>/<utterance>.wav
  speakerlib import ~/commands --pattern "{word}/{speaker}_nohash_{take}.wav"
  speakerlib import ~/vox1 --split-file split.csv
  speakerlib import ~/vox1 --manifest manifest.csv    exactly the utterances that somebody published

Without --pattern the layout is told from the folders: <speaker>/<utterance>, <speaker>/<session>/<utterance>
or LibriSpeech. A pattern names {speaker}, and {session} and {utterance} where there are any. The audio is read,
never changed. Files that cannot be used are listed with the reason, and left out."""

DOWNLOAD_EXAMPLES = """examples:
  speakerlib download librispeech                          dev-clean, 0.3 GB
  speakerlib download librispeech --subset train-clean-100
  speakerlib download speech_commands --folder /big/disk

What is downloaded becomes a corpus at once. A folder that holds the extracted corpus already is used as it is."""

SCRAPE_EXAMPLES = """examples:
  speakerlib scrape --practice               a small list of synthetic videos, served by this computer: no internet
  speakerlib scrape --url-directory data/vox1_dev_txt --output data/vox1_dev --dry-run
  speakerlib scrape --url-directory data/vox1_dev_txt --output data/vox1_dev
  speakerlib scrape --output data/vox1_dev --report

The URL directory holds txt/<speaker>/<video>/<utterance>.txt; utterances become
<output>/<speaker>/<video>/<utterance>.flac, 16 kHz, one channel. The same command goes on where it stopped. Status 3:
the site refuses us, and the job stopped by itself; what it has is kept."""

def add_commands(add):
    """Adds this module's commands to the grammar; add(name, command, summary, epilog) returns a parser."""
    sub = add("demo", demo, "make the demo corpus of synthetic speech, and import it")
    sub.add_argument("--speakers", type=int, metavar="N", help="how many; another number makes it again (default: 120)")
    sub.add_argument("--seed", type=int, metavar="S", help="same seed, same bytes (default: 0)")

    sub = add("import", import_folder, "make a corpus of a folder of speech", IMPORT_EXAMPLES)
    sub.add_argument("folder", help="the folder that holds the audio files")
    sub.add_argument("--name", help="the corpus' name (default: the folder's)")
    sub.add_argument("--pattern", help="where a path says who speaks, such as '{speaker}/{session}/{utterance}.flac'")
    sub.add_argument("--split-file", metavar="CSV", help="columns speaker, split (train, validation or test); "
                     "default: 60/10/30 %% of the speakers, by the seed")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="of the split (default: 0)")
    sub.add_argument("--manifest", metavar="CSV", help="take exactly the utterances of this list, checked by hash")
    sub.add_argument("--partial", action="store_true", help="go on where the manifest's utterances are absent or other")

    add("corpora", corpora, "list the corpora that are imported")

    sub = add("manifest", manifest, "write the list of a corpus' utterances and their hashes, for others to import")
    sub.add_argument("corpus", metavar="NAME")
    sub.add_argument("--output", metavar="CSV", help="default: manifest.csv in the corpus' folder")

    sub = add("download", download, "download a public corpus, and import it", DOWNLOAD_EXAMPLES)
    sub.add_argument("corpus", choices=("librispeech", "speech_commands"))
    sub.add_argument("--subset", help="a part of it, such as train-clean-100 (default: dev-clean, or v0.02)")
    sub.add_argument("--folder", help="where it goes, or lies already (default: data/downloads/CORPUS)")

    _add_scrape(add)
    add_archives(add)

    sub = add("trials", trials, "check a list of trials, such as veri_test.txt, against a corpus")
    sub.add_argument("list", metavar="FILE", help="lines of `label enrolment test`")
    sub.add_argument("--corpus", metavar="NAME", help="say how much of the list this corpus can score")
    sub.add_argument("--drop-missing", action="store_true", help="do not refuse a corpus that lacks utterances")


def _add_scrape(add):
    sub = add("scrape", scrape, "download VoxCeleb's videos and cut its utterances, by its URL lists", SCRAPE_EXAMPLES)
    sub.add_argument("--url-directory", metavar="FOLDER", help="holds txt/<speaker>/<video>/<utterance>.txt")
    sub.add_argument("--output", metavar="FOLDER", help="where the utterances and the ledger go")
    sub.add_argument("--url-template", metavar="URL", help="default: 'https://www.youtube.com/watch?v={video}'")
    sub.add_argument("--workers", type=int, default=2, metavar="N", help="downloads at the same time (default: 2)")
    sub.add_argument("--rate", type=float, metavar="N", help="at most so many videos an hour (default: 240; no limit "
                     "for a server on this computer)")
    sub.add_argument("--cookies", metavar="FILE", help="a browser's cookies in Netscape format, for videos that need a "
                     "login; read, never changed or copied")
    sub.add_argument("--keep-audio", action="store_true", help="keep the whole audio of each video downloaded from now "
                     "on, in <output>/.audio")
    sub.add_argument("--force", action="store_true", help="ask for everything again, also for what is done or gone")
    sub.add_argument("--max-tries", type=int, default=3, metavar="N", help="of what failed, in one run (default: 3)")
    sub.add_argument("--retry-seconds", type=float, metavar="S", help="before a second try; four times it before a "
                     "third, and so on (default: 10; practice: 1)")
    sub.add_argument("--timeout", type=float, default=20, metavar="S", help="give up on a silent server (default: 20)")
    sub.add_argument("--min-utterances", type=int, default=5, metavar="N", help="the report names speakers with fewer "
                     "(default: 5)")
    sub.add_argument("--dry-run", action="store_true", help="check this computer, estimate time and disk, no more")
    sub.add_argument("--report", action="store_true", help="what the output folder holds and lacks; downloads nothing")
    sub.add_argument("--practice", action="store_true", help="a small list of synthetic videos, served by this "
                     "computer, some of them gone or refused: everything but the internet")


def demo(options):
    from speakerlib.data.demo_corpus import demo_corpus

    _print_corpus(demo_corpus(num_speakers=options.speakers, seed=options.seed))


def import_folder(options):
    from speakerlib.data.corpora import import_corpus

    _print_corpus(import_corpus(_home(options.folder), name=options.name, pattern=options.pattern,
                                split_file=_home(options.split_file), seed=options.seed,
                                manifest=_home(options.manifest), partial=options.partial))


def corpora(options):
    from speakerlib.data.corpora import list_corpora, open_corpus

    names = list_corpora()
    if not names:
        print("No corpus yet. 'speakerlib demo' makes one of synthetic speech, 'speakerlib import <folder>' one of "
              "your own.")
    for name in names:
        try:
            corpus = open_corpus(name)
        except (OSError, RuntimeError, ValueError) as error:
            print(f"{name}: does not open: {error}")
            continue
        table = corpus.table
        sessions = table[["speaker", "session"]].drop_duplicates()
        print(f"{name}: {table['speaker'].nunique()} speakers, {len(sessions)} sessions, {len(table)} utterances, "
              f"{table['duration'].sum() / 3600:.1f} hours{', synthetic' if corpus.synthetic else ''}")


def manifest(options):
    from speakerlib.data.corpora import open_corpus
    from speakerlib.data.manifests import write_corpus_manifest

    corpus = open_corpus(options.corpus)
    path = _home(options.output) or corpus.folder / "manifest.csv"
    print(f"manifest: {path} ({write_corpus_manifest(corpus, path):,} utterances)")


def download(options):
    from speakerlib.data.public_corpora import download_corpus

    _print_corpus(download_corpus(options.corpus, subset=options.subset, folder=_home(options.folder)))


def scrape(options):
    """Exit status 0: nothing is left to ask for; 1: this computer cannot do it; 3: the job stopped by itself."""
    from speakerlib.data.files import data_folder
    from speakerlib.data.scraping.sources import PRACTICE, open_job

    if options.report:
        output = options.output or (data_folder() / "scraped" / PRACTICE if options.practice else None)
        return _print_report(_home(output) or _needed(options, "output"), options.min_utterances)
    if options.practice:
        source, output = PRACTICE, _home(options.output) or "auto"
    else:
        source, output = _needed(options, "url_directory"), _needed(options, "output")
    with open_job(source, output, options.url_template or "auto", anew=not options.dry_run) as job:
        return _scrape(job, options)


def _scrape(job, options):
    from speakerlib.data.scraping.download import read_cookies
    from speakerlib.data.scraping.estimate import describe_estimate, estimate
    from speakerlib.data.scraping.job import default_rate
    from speakerlib.data.scraping.job import scrape as run_job
    from speakerlib.data.scraping.preflight import preflight
    from speakerlib.data.scraping.url_lists import read_url_lists
    from speakerlib.doctor import FAIL, describe_check
    from speakerlib.views.scraping_progress import terminal_progress

    utterances, skipped = read_url_lists(job.url_directory)
    print(f"list:   {job.url_directory}: {len(utterances)} utterances of {utterances['video'].nunique()} videos and "
          f"{utterances['speaker'].nunique()} speakers\noutput: {job.output}\n")
    if len(skipped):
        print(f"{len(skipped)} entries of the list cannot be used, such as {skipped['path'].iloc[0]}: "
              f"{skipped['reason'].iloc[0]}\n")
    rate = options.rate if options.rate is not None else default_rate(job.url_template)
    asked_before = _asked_before(job.output, utterances)
    expected = estimate(utterances, None if options.force else asked_before, options.workers, rate)
    kept = expected["download_bytes"] if options.keep_audio else 0
    checks = preflight(job.url_template, job.output, expected["flac_bytes"] + kept)
    print("\n".join(describe_check(*check) for check in checks) + f"\n\n{describe_estimate(expected)}\n", flush=True)
    if options.cookies:
        read_cookies(_home(options.cookies))  # a dry run finds out, too
    failed = any(status == FAIL for status, *_ in checks)
    if options.dry_run or failed:
        return int(failed)
    pause = options.retry_seconds if options.retry_seconds is not None else 1 if job.synthetic else 10
    result = run_job(job.url_directory, job.output, url_template=job.url_template, num_workers=options.workers,
                     rate=options.rate, keep_audio=options.keep_audio, force=options.force,
                     cookies=_home(options.cookies), max_tries=options.max_tries, retry_seconds=pause,
                     timeout=options.timeout, on_progress=terminal_progress())
    _print_report(job.output, options.min_utterances)
    return 3 if result.stopped else 0


def _asked_before(output, utterances):
    """The ledger's rows of an earlier run of this list, which tell how long a video takes; None before the first one.

    Raises what open_ledger raises, also for a dry run.
    """
    from speakerlib.data.scraping.ledger import LEDGER, open_ledger, read_ledger

    if not (output / LEDGER).is_file():
        return None
    open_ledger(output, utterances).close()
    return read_ledger(output)[0]


def _print_report(output, min_utterances):
    from speakerlib.data.scraping.manifest import write_manifest
    from speakerlib.data.scraping.report import describe_report, report

    print(f"\n{describe_report(report(output, min_utterances))}")
    try:
        print(f"manifest: {write_manifest(output)}")
    except OSError as error:  # a folder of somebody else's, or a full disk
        print(f"manifest: cannot be written anew: {error.strerror or error}")


def trials(options):
    from speakerlib.data.corpora import find_corpus
    from speakerlib.data.trials import describe_trials, match_trials, read_trials

    listed = read_trials(_home(options.list))
    print(", ".join(f"{count:,} {kind.replace('_', '-')}" for kind, count in describe_trials(listed).items()))
    if options.corpus:
        matched = match_trials(listed, find_corpus(options.corpus), "drop" if options.drop_missing else "refuse")
        print(f"Corpus {options.corpus!r} can score {len(matched):,} of the {len(listed):,} trials.")


def _needed(options, name):
    value = getattr(options, name)
    if not value:
        raise ValueError(f"scrape needs --{name.replace('_', '-')}; or try it out with --practice. "
                         "'speakerlib scrape --help' shows examples.")
    return _home(value)


def _home(path):
    """The path with ~ written out; None stays None."""
    return path and os.path.expanduser(path)


def _print_corpus(corpus):
    """The summary of a corpus, and what was left out of it, by reason."""
    from speakerlib.data.corpora import summary

    kind = "synthetic speech, " if corpus.synthetic else ""
    print(f"\ncorpus '{corpus.name}' ({kind}{corpus.folder})\n{summary(corpus).to_string()}")
    if not len(corpus.skipped):
        return
    reasons = corpus.skipped["reason"].str.split(":").str[0]
    print(f"\n{len(corpus.skipped)} files were left out:")
    for reason, count in reasons.value_counts().items():
        row = corpus.skipped[reasons == reason].iloc[0]
        print(f"  {count} x {reason}, such as {row['path']} ({row['reason']})")
    print(f"All of them: {corpus.folder / 'skipped.csv'}")

"""The console command `speakerlib`: one subcommand for each thing a person does outside a notebook."""

import argparse
import os
import sys

from speakerlib import __version__

EXAMPLES = """examples:
  speakerlib doctor                          what is installed, what is missing, what to do about it
  speakerlib workbook                        every notebook, in order, on the synthetic demo corpus
  speakerlib import ~/speech/volunteers      a folder of {speaker}/{utterance} files becomes a corpus
  speakerlib workbook --corpus volunteers    every notebook on that corpus
  speakerlib run 05_protonet_training -p num_way 3 -p num_support 1

'speakerlib COMMAND --help' explains a command and its options."""

IMPORT_EXAMPLES = """examples:
  speakerlib import ~/speech/volunteers
  speakerlib import ~/vox1 --name vox1       a VoxCeleb tree: wav/<speaker>/<video>/<utterance>.wav
  speakerlib import ~/commands --pattern "{word}/{speaker}_nohash_{take}.wav"
  speakerlib import ~/vox1 --split-file split.csv

Without --pattern the layout is told from the folders: <speaker>/<utterance>, <speaker>/<session>/<utterance>
or LibriSpeech. A pattern names {speaker}, and {session} and {utterance} where there are any. The audio is read,
never changed. Files that cannot be used are listed with the reason, and left out."""

RUN_EXAMPLES = """examples:
  speakerlib run 05_protonet_training
  speakerlib run 05_protonet_training -p corpus so762 -p num_way 10 -p learning_rate 0.0005

A run with the same parameters that is complete is not run again unless --force is given; one that was cut short
goes on from its last checkpoint."""


def main(arguments=None):
    """Runs the command with a list of arguments (sys.argv's by default). Returns the exit status.

    0: done; 1: the doctor found something that fails; 2: an error, said in one message; 130: interrupted.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    try:
        status = options.command(options)
        sys.stdout.flush()
        return status or 0
    except KeyboardInterrupt as stopped:
        said = str(stopped) or "Interrupted. The same command, run again, goes on from what is done."
        print(f"\n{said}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if options.traceback or os.environ.get("SPEAKERLIB_TRACEBACK"):
            raise
        print(f"speakerlib: {str(error) or type(error).__name__}", file=sys.stderr)
        if isinstance(error, ImportError) or ".so" in str(error):
            print("'speakerlib doctor' finds out what is missing.", file=sys.stderr)
        return 2


def build_parser():
    """The command's grammar; nothing heavy is imported before a subcommand runs."""
    parser = argparse.ArgumentParser(
        prog="speakerlib", description="Few-shot speaker identification: the workbook's commands.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"speakerlib {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from (or set "
                        "SPEAKERLIB_TRACEBACK=1)")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(command=None)

    _add(commands, "doctor", doctor, "check the set-up, say what to do about what is wrong")

    sub = _add(commands, "demo", demo, "make the demo corpus of synthetic speech, and import it")
    sub.add_argument("--speakers", type=int, metavar="N", help="how many; another number makes it again (default: 120)")
    sub.add_argument("--seed", type=int, metavar="S", help="same seed, same bytes (default: 0)")

    sub = _add(commands, "import", import_folder, "make a corpus of a folder of speech", IMPORT_EXAMPLES)
    sub.add_argument("folder", help="the folder that holds the audio files")
    sub.add_argument("--name", help="the corpus' name (default: the folder's)")
    sub.add_argument("--pattern", help="where a path says who speaks, such as '{speaker}/{session}/{utterance}.flac'")
    sub.add_argument("--split-file", metavar="CSV", help="columns speaker, split (train, validation or test); "
                     "default: 60/10/30 %% of the speakers, by the seed")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="of the split (default: 0)")

    _add(commands, "corpora", corpora, "list the corpora that are imported")

    sub = _add(commands, "workbook", workbook, "execute every notebook, in order, and print the tables")
    sub.add_argument("--corpus", default="demo", metavar="NAME_OR_FOLDER", help="a corpus, or a folder to import "
                     "first (default: demo, made if it is missing)")
    sub.add_argument("--force", action="store_true", help="execute again what is complete")

    sub = _add(commands, "run", run, "execute one notebook with parameters of its own", RUN_EXAMPLES)
    sub.add_argument("notebook", metavar="NOTEBOOK", help="such as 05_protonet_training")
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     help="a value for a name of the notebook's parameters cell; may be repeated")
    sub.add_argument("--force", action="store_true", help="execute again what is complete")

    sub = _add(commands, "publish", publish, "copy a corpus' pictures, tables and run records to figures/<corpus>/")
    sub.add_argument("--corpus", default="demo", metavar="NAME", help="whose complete runs (default: demo)")
    return parser


def doctor(options):
    from speakerlib.doctor import run_doctor

    return run_doctor()


def demo(options):
    from speakerlib.data.demo_corpus import demo_corpus

    _print_corpus(demo_corpus(num_speakers=options.speakers, seed=options.seed))


def import_folder(options):
    from speakerlib.data.corpora import import_corpus

    split_file = options.split_file and os.path.expanduser(options.split_file)
    _print_corpus(import_corpus(os.path.expanduser(options.folder), name=options.name, pattern=options.pattern,
                                split_file=split_file, seed=options.seed))


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


def workbook(options):
    from speakerlib.experiments.workbook import run_workbook

    run_workbook(os.path.expanduser(options.corpus), force=options.force)


def run(options):
    from speakerlib.experiments.parameters import parse_value
    from speakerlib.experiments.workbook import run_notebook

    names = [name for name, _ in options.parameter]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"parameter given more than once: {', '.join(twice)}. Give each name one value.")
    parameters = {name: parse_value(text) for name, text in options.parameter}
    folder, executed = run_notebook(options.notebook, parameters, force=options.force)
    if executed:
        print(f"The executed notebook and what it left: {folder}")


def publish(options):
    from speakerlib.experiments.publication import publish as fill_figures

    print(f"figures: {fill_figures(options.corpus)}")


def _add(commands, name, command, summary, epilog=None):
    sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=epilog,
                              formatter_class=argparse.RawDescriptionHelpFormatter)
    sub.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    sub.set_defaults(command=command)
    return sub


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

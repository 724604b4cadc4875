"""The console command `speakerlib`: one subcommand for each thing a person does outside a notebook."""

import argparse
import functools
import os
import sys

from speakerlib import __version__, cli_identify, cli_speech, cli_tables

EXAMPLES = """examples:
  speakerlib doctor                          what is installed, what is missing, what to do about it
  speakerlib workbook                        every notebook, in order, on the synthetic demo corpus
  speakerlib import ~/speech/volunteers      a folder of {speaker}/{utterance} files becomes a corpus
  speakerlib scrape --practice               VoxCeleb's videos, as far as possible without the internet
  speakerlib workbook --corpus volunteers    every notebook on that corpus
  speakerlib run 05_protonet_training -p num_way 3 -p num_support 1
  speakerlib sweep quick --dry-run           many runs as one file lists them, several at once
  speakerlib identify meeting.wav --enrol "speaker A" a1.wav a2.wav      who is speaking?
  speakerlib table                           which result tables there are; with a name, that table

'speakerlib COMMAND --help' explains a command and its options."""

RUN_EXAMPLES = """examples:
  speakerlib run 05_protonet_training
  speakerlib run 05_protonet_training -p corpus so762 -p num_way 10 -p learning_rate 0.0005

A run with the same parameters that is complete is not run again unless --force is given; one that was cut short
goes on from its last checkpoint."""


TRAIN_EXAMPLES = """examples:
  speakerlib train 05_protonet_training -p corpus so762 -p num_processes 2
  accelerate launch --multi_gpu --num_processes 4 -m speakerlib train 05_protonet_training -p batch_size 4

Each process computes its share of the tasks of a step (batch_size); the result is that of one process up to rounding.
accelerate takes GPUs where there are some, else CPUs, and then too wants --multi_gpu. An interrupted training goes on
where it stopped, in as many processes as you like. 'speakerlib run' with the same parameters then finds it done and
makes the tables and pictures."""


SWEEP_EXAMPLES = """examples:
  speakerlib sweep quick --dry-run           what it would run, what is done, how long it takes
  speakerlib sweep quick
  speakerlib sweep mae_table --only pretrain --workers 2 --threads 1
  speakerlib sweep mae_table -p num_train_iterations 10
  speakerlib sweep mae_table --cluster slurm --cluster-options my_cluster.yaml --dry-run

The files of the workbook are in notebooks/sweeps. Run again, a sweep does what is missing or failed; exit status 1
says that there is some."""


def main(arguments=None):
    """Runs the command with a list of arguments (sys.argv's by default). Returns the exit status.

    0: done; 1: a check of this computer fails, or a run of a sweep did; 2: an error, said in one message; 3: a
    scraping job stopped by itself; 130: interrupted.
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

    cli_speech.add_commands(functools.partial(_add, commands))

    sub = _add(commands, "workbook", workbook, "execute every notebook, in order, and print the tables")
    sub.add_argument("--corpus", default="demo", metavar="NAME_OR_FOLDER", help="a corpus, or a folder to import "
                     "first (default: demo, made if it is missing)")
    sub.add_argument("--force", action="store_true", help="execute again what is complete")

    sub = _add(commands, "book", book, "write the executed workbook as HTML pages with an index, to read or pass on")
    sub.add_argument("--corpus", default="demo", metavar="NAME", help="executed on which corpus (default: demo)")
    sub.add_argument("--output", metavar="FOLDER", help="where to (default: data/book/<corpus>)")

    sub = _add(commands, "run", run, "execute one notebook with parameters of its own", RUN_EXAMPLES)
    sub.add_argument("notebook", metavar="NOTEBOOK", help="such as 05_protonet_training")
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     help="a value for a name of the notebook's parameters cell; may be repeated")
    sub.add_argument("--force", action="store_true", help="execute again what is complete")

    sub = _add(commands, "train", train, "train what a notebook trains, without it, on several devices", TRAIN_EXAMPLES)
    sub.add_argument("notebook", metavar="NOTEBOOK", help="05_protonet_training")
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     help="a value for a name of the notebook's parameters cell; may be repeated")

    sub = _add(commands, "sweep", sweep, "execute many runs of notebooks, as a file lists them", SWEEP_EXAMPLES)
    sub.add_argument("file", metavar="FILE", help="a YAML file, or the name of one in notebooks/sweeps")
    sub.add_argument("--dry-run", action="store_true", help="only print the runs, what is done, and an estimate")
    sub.add_argument("--workers", type=int, metavar="N", help="runs at once (default: as many as the cores allow)")
    sub.add_argument("--threads", type=int, metavar="N", help="threads of a run (default: 2, or what the cores allow)")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="take the workers of a dask scheduler, such as "
                     "tcp://host:8786, instead of this computer's")
    sub.add_argument("--cluster", choices=("local", "slurm"), default="local", help="submit the runs as jobs of Slurm "
                     "(default: local, this computer)")
    sub.add_argument("--cluster-options", metavar="FILE", help="queue, cores, memory, ... of the jobs (default: "
                     "notebooks/clusters/slurm.yaml)")
    sub.add_argument("--dashboard", metavar="HOST:PORT", help="where dask's web pages are shown (default: "
                     "127.0.0.1:8787, to this computer alone)")
    sub.add_argument("--only", metavar="STEP", help="this step of the file, and the runs that it needs")
    sub.add_argument("--corpus", metavar="NAME", help="another corpus than the file's")
    sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     help="the same value for all runs, as for a trial; may be repeated")

    cli_tables.add_table(functools.partial(_add, commands))
    cli_identify.add_identify(functools.partial(_add, commands))

    sub = _add(commands, "publish", publish, "copy a corpus' pictures, tables and run records to figures/<corpus>/")
    sub.add_argument("--corpus", default="demo", metavar="NAME", help="whose complete runs (default: demo)")
    return parser


def doctor(options):
    from speakerlib.doctor import run_doctor

    return run_doctor()


def workbook(options):
    from speakerlib.experiments.workbook import run_workbook

    run_workbook(os.path.expanduser(options.corpus), force=options.force)


def book(options):
    from speakerlib.experiments.book import write_book

    print(f"open this in a browser: {write_book(options.corpus, options.output)}")


def run(options):
    from speakerlib.experiments.workbook import run_notebook

    folder, executed = run_notebook(options.notebook, _parameters(options), force=options.force)
    if executed:
        print(f"The executed notebook and what it left: {folder}")


def train(options):
    from speakerlib.experiments.devices import is_leader
    from speakerlib.experiments.launching import train_notebook

    folder = train_notebook(options.notebook, _parameters(options))
    if is_leader():
        print(f"trained: {folder}")


def sweep(options):
    from speakerlib.experiments.sweeps import run_sweep

    summary = run_sweep(options.file, corpus=options.corpus, overrides=_parameters(options), only=options.only,
                        num_workers=options.workers, num_threads=options.threads, dry_run=options.dry_run,
                        scheduler=options.scheduler, cluster=options.cluster, cluster_options=options.cluster_options,
                        **({"dashboard": options.dashboard} if options.dashboard else {}))
    return 0 if options.dry_run or (summary["status"] == "done").all() else 1


def publish(options):
    from speakerlib.experiments.publication import publish as fill_figures

    print(f"figures: {fill_figures(options.corpus)}")


def _parameters(options):
    """The parameters given with -p, each once."""
    from speakerlib.experiments.parameters import parse_value

    names = [name for name, _ in options.parameter]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"parameter given more than once: {', '.join(twice)}. Give each name one value.")
    return {name: parse_value(text) for name, text in options.parameter}


def _add(commands, name, command, summary, epilog=None):
    sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=epilog,
                              formatter_class=argparse.RawDescriptionHelpFormatter)
    sub.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    sub.set_defaults(command=command)
    return sub


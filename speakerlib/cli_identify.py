"""The command that tells who is speaking: people are enrolled from files, or loaded, and clips are asked about."""

import sys
import warnings

IDENTIFY_EXAMPLES = """examples:
  speakerlib identify meeting.wav --enrol "speaker A" a1.wav a2.m4a --enrol "speaker B" b1.wav
  speakerlib identify --enrol "speaker A" a1.wav --save team.safetensors       enrol now, ask later
  speakerlib identify *.wav --people team.safetensors --json
  speakerlib identify meeting.wav --people team.safetensors --timeline         who speaks when

The clips to ask about come first, or after `--`. A clip of nobody who is enrolled is "unknown"; --false-acceptance
says how often a stranger may be taken for somebody. Enrol several clips of a person, of 3 s or more each, from
different places if there are any. A saved file holds embeddings and names, no audio. Files that cannot be used are
said and left out; the exit status is then 1."""


def add_identify(add):
    """Adds it to the grammar; add(name, command, summary, epilog) returns a parser."""
    sub = add("identify", identify, "who is speaking: enrol people from a few clips, then ask about others",
              IDENTIFY_EXAMPLES)
    sub.add_argument("clips", nargs="*", metavar="CLIP", help="audio files to ask about")
    sub.add_argument("--enrol", nargs="+", action="append", default=[], metavar=("NAME", "FILE"),
                     help="a person and one or more clips; may be repeated")
    sub.add_argument("--people", metavar="FILE", help="people whom --save wrote")
    sub.add_argument("--save", metavar="FILE", help="write all who are enrolled: embeddings and names, no audio")
    sub.add_argument("--keep-audio", action="store_true", help="with --save: keep copies of the clips beside it, FLAC")
    sub.add_argument("--timeline", action="store_true", help="who speaks when, instead of one answer a clip")
    sub.add_argument("--window", type=float, default=1.5, metavar="S", help="of the timeline (default: 1.5)")
    sub.add_argument("--hop", type=float, default=0.5, metavar="S", help="of the timeline (default: 0.5)")
    sub.add_argument("--false-acceptance", type=float, default=0.05, metavar="RATE", help="of strangers: 0.01, 0.02, "
                     "0.05 or 0.1 (default: 0.05)")
    sub.add_argument("--model", metavar="FILE_OR_RUN", help="weights, or a run of 10_voice_training (default: the "
                     "model that ships)")
    sub.add_argument("--json", action="store_true", help="as JSON, with all candidates")


def identify(options):
    """Enrols, asks, prints. Returns 1 if a file was left out."""
    from speakerlib.experiments.calibration import threshold_constants
    from speakerlib.identification import SpeakerIdentifier

    _check(options)
    with _warnings_in_one_line():
        people = SpeakerIdentifier.load(options.model, options.people)
        if people.weights.calibration:
            threshold_constants(people.weights.calibration, options.false_acceptance)
        left_out = _enrol(people, options.enrol)
        if options.save:
            print(f"saved: {people.save(options.save, options.keep_audio)}", file=sys.stderr)
        found = {}
        for clip in options.clips:
            try:
                found[clip] = _ask(people, clip, options)
            except (ValueError, OSError) as error:
                left_out.append(str(error))
                print(f"left out: {error}", file=sys.stderr)
    _show(found, options)
    if left_out:
        files = sum(len(files) - 1 for files in options.enrol) + len(options.clips)
        print(f"{len(left_out)} of {files} files left out.", file=sys.stderr)
    return 1 if left_out else 0


def _check(options):
    if lonely := [words[0] for words in options.enrol if len(words) < 2]:
        raise ValueError(f"--enrol {lonely[0]!r} has no file. Give a name and one or more clips: --enrol NAME FILE ...")
    if not options.enrol and not options.people:
        raise ValueError("nobody is enrolled. Give --enrol NAME FILE ..., or --people FILE; 'speakerlib identify "
                         "--help' has examples.")
    if not options.clips and not options.save:
        raise ValueError("no clip to ask about. Put clips before --enrol, or after `--`; or write who is enrolled with "
                         "--save FILE.")
    if options.keep_audio and not options.save:
        raise ValueError("--keep-audio keeps the clips beside the file of --save, which is not given.")
    if options.timeline and not (0.5 <= options.window <= 30 and 0.05 <= options.hop <= options.window):
        raise ValueError(f"--window {options.window:g} --hop {options.hop:g}: expected 0.5 to 30 s, and a hop of "
                         "0.05 s up to the window.")


def _enrol(people, given):
    """Enrols all; returns why files were left out."""
    left_out = []
    for name, *files in given:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* clips left out: ")  # said one by one below
            table = people.enrol(name, files)
        for row in table[~table["used"]].to_dict("records"):
            left_out.append(row["reason"])
            print(f"left out of {name!r}: {row['reason']}", file=sys.stderr)
    return left_out


def _ask(people, clip, options):
    if options.timeline:
        return people.timeline(clip, options.window, options.hop, false_acceptance=options.false_acceptance)
    return people.identify(clip, false_acceptance=options.false_acceptance)


def _show(found, options):
    import json

    if options.json:
        records = [{"clip": clip, **_record(answer)} for clip, answer in found.items()]
        print(json.dumps(records, indent=1, ensure_ascii=False))
    elif options.timeline:
        for clip, table in found.items():
            print(clip)
            for row in table.to_dict("records"):
                print(f"  {_clock(row['start'])} to {_clock(row['end'])}  {_share(row['probability'])}  {row['name']}")
    elif found:
        width = max(4, *(len(clip) for clip in found))
        names = max(4, *(len(answer.name) for answer in found.values()))
        print(f"{'clip':<{width}}  {'name':<{names}}  probability  next")
        for clip, answer in found.items():
            others = answer.table[answer.table["name"] != answer.name].to_dict("records")
            after = f"{others[0]['name']} ({_share(others[0]['probability']).strip()})" if others else ""
            print(f"{clip:<{width}}  {answer.name:<{names}}  {_share(answer.probability):>11}  {after}")


def _record(answer):
    if hasattr(answer, "table"):
        return {"name": answer.name, "probability": _number(answer.probability), "seconds": round(answer.seconds, 2),
                "false_acceptance": answer.false_acceptance, "candidates": _rows(answer.table)}
    return {"turns": _rows(answer)}


def _rows(table):
    return [{name: _number(value) if isinstance(value, float) else value for name, value in row.items()}
            for row in table.to_dict("records")]


def _number(value):
    return None if value != value else round(float(value), 4)


def _share(probability):
    return " " * 6 if probability != probability else f"{probability:6.1%}"


def _clock(seconds):
    return f"{int(seconds // 60):3d}:{seconds % 60:04.1f}"


class _warnings_in_one_line:
    """Within it, warnings are a line on stderr, without the place in the code that gave them."""

    def __enter__(self):
        self.context = warnings.catch_warnings()
        self.context.__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)

    def __exit__(self, *error):
        return self.context.__exit__(*error)

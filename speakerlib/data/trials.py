"""Trial lists: pairs of utterances, each of one speaker (a target) or of two, matched to a corpus' rows."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from speakerlib.data.audio import AUDIO_SUFFIXES
from speakerlib.data.patterns import ID_COLUMNS, utterance_keys

_LABELS = {"1": 1, "0": 0, "target": 1, "nontarget": 0}
_EXPECTED = "a label (1: same speaker, 0: another), an enrolment and a test utterance, with spaces or tabs between"


def read_trials(path):
    """Reads a list of lines `label enrolment test`, VoxCeleb1's veri_test.txt for one, in its order.

    Returns the columns label (int8: 1 target, 0 non-target), enrolment and test (as written). The label may also be
    target or nontarget, and stand last, as in Kaldi's lists. Blank lines are passed over. Raises FileNotFoundError,
    or ValueError with the line if one is not of this form, and if there is none.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no trial list {path}; expected a text file of lines `label enrolment test`.")
    try:  # a fourth column shows lines that are too long
        fields = pd.read_csv(path, sep=r"\s+", header=None, names=range(4), dtype="str", quoting=3, engine="c",
                             keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}); expected {_EXPECTED}.") from error
    except pd.errors.ParserError:
        fields = None
    if fields is None or fields[2].isna().any() or fields[3].notna().any():
        _refuse_line(path, lambda words: len(words) != 3, f"{_EXPECTED} (3 words)")
    if not len(fields):
        raise ValueError(f"{path} holds no trial; expected lines of {_EXPECTED}.")
    first, last = fields[0].isin(_LABELS), fields[2].isin(_LABELS)
    if first.all() and last.all():
        raise ValueError(f"{path}: the first and the last word of every line are labels, such as "
                         f"{' '.join(fields.iloc[0, :3])!r}; expected utterances, such as id10001/<video>/00001.wav.")
    label, enrolment, test = (2, 0, 1) if last.all() else (0, 1, 2)
    if not (first.all() or last.all()):
        place = 0 if first.sum() >= last.sum() else 2
        _refuse_line(path, lambda words: words[place] not in _LABELS, f"{_EXPECTED}; labels are {', '.join(_LABELS)}")
    return pd.DataFrame({"label": fields[label].map(_LABELS).astype("int8"), "enrolment": fields[enrolment],
                         "test": fields[test]})


def match_trials(trials, corpus, missing="refuse"):
    """Rows of corpus.table for each trial: columns enrolment_row, test_row (int64) and label, in the list's order.

    An utterance is found by its last three parts, speaker/session/utterance, whatever folders come before and
    whatever its suffix; in a corpus without sessions, by its last two. If utterances are missing: ValueError with how
    many of how many, or, with missing="drop", their trials are left out and the counts printed. ValueError too if
    no target or no non-target would remain, or if a label contradicts the corpus: 1 for two of its speakers, 0 for one.
    """
    if missing not in ("refuse", "drop"):
        raise ValueError(f"missing={missing!r}: expected 'refuse' or 'drop'.")
    codes, names = pd.factorize(pd.concat([trials["enrolment"], trials["test"]], ignore_index=True))
    rows = _find_rows(pd.Series(names, dtype="str"), corpus.table)
    enrolment, test = rows[codes].reshape(2, -1)
    there = (enrolment >= 0) & (test >= 0)
    matched = pd.DataFrame({"enrolment_row": enrolment, "test_row": test, "label": trials["label"].to_numpy()})
    speaker = pd.factorize(corpus.table["speaker"].to_numpy()[rows])[0][codes].reshape(2, -1)  # what is absent: any's
    wrong = there & ((speaker[0] == speaker[1]) != (matched["label"] == 1).to_numpy())
    if there.all():
        _refuse_labels(trials, corpus, matched, wrong)
        return matched
    absent = names[rows < 0]
    table = corpus.table
    said = (f"corpus {corpus.name!r} lacks {len(absent):,} of the {len(names):,} utterances of the trial list, and so "
            f"{(~there).sum():,} of its {len(trials):,} trials. Missing: {', '.join(absent[:3])}"
            f"{', ...' if len(absent) > 3 else ''}; there: {'/'.join(table[ID_COLUMNS].iloc[0])}, for one")
    left = matched[there].reset_index(drop=True)
    if left["label"].nunique() < 2:
        raise ValueError(f"{said}. The {len(left):,} trials that remain are not of both kinds (targets and "
                         "non-targets), so they cannot be scored. Is it the list of another corpus?")
    if missing == "refuse":
        raise ValueError(f"{said}. Get and import the missing audio; or use another list; or give missing='drop' "
                         f"(--drop-missing) to go on with {len(left):,} trials, a result that must say so: it is not "
                         "the list's.")
    _refuse_labels(trials, corpus, matched, wrong)
    print(f"{said}. Going on with {len(left):,} trials: {left['label'].sum():,} targets, "
          f"{(left['label'] == 0).sum():,} non-targets.")
    return left


def describe_trials(trials):
    """Counts of a list: a dict with trials, targets, non_targets, utterances and speakers."""
    names = pd.Series(pd.concat([trials["enrolment"], trials["test"]]).unique(), dtype="str")
    speaker, session, _ = _parts(names)
    targets = int(trials["label"].sum())
    return {"trials": len(trials), "targets": targets, "non_targets": len(trials) - targets, "utterances": len(names),
            "speakers": int(speaker.where(speaker != "", session).nunique())}


def _refuse_labels(trials, corpus, matched, wrong):
    """Raises for labels that contradict the speakers (wrong: (trials,)), or that are all alike."""
    def line(place):
        return repr(" ".join(map(str, trials.iloc[place][["label", "enrolment", "test"]])))

    if wrong.any():
        place = int(wrong.argmax())
        one, two = corpus.table["speaker"].to_numpy()[matched[["enrolment_row", "test_row"]].iloc[place]]
        raise ValueError(f"{wrong.sum():,} of the {len(trials):,} trials contradict the speakers of corpus "
                         f"{corpus.name!r}, such as {line(place)}: " + (f"0, but both are of {one!r}" if one == two else
                         f"1, but they are of {one!r} and {two!r}") + ". Expected 1 for one speaker, 0 for two. Mend "
                         "the list, or check that it is this corpus' and that its labels are not the other way round.")
    if trials["label"].nunique() < 2:
        kind, other = ("targets", "non-targets") if trials["label"].iloc[0] == 1 else ("non-targets", "targets")
        raise ValueError(f"the {len(trials):,} trials of the list are {kind} alone, such as {line(0)}; expected some "
                         f"{other} too, without which there are no error rates. Use the whole list.")


def _find_rows(names, table):
    """Row of each utterance name in a corpus' table, -1 where there is none: int64 (names,)."""
    keys = pd.Index(utterance_keys(table))
    speaker, session, utterance = _parts(names)
    rows = keys.get_indexer(speaker + "/" + session + "/" + utterance)
    without_session = keys.get_indexer(session + "/1/" + utterance)  # as a scan names what has no session
    return np.where(rows >= 0, rows, without_session).astype(np.int64)


def _parts(names):
    """The last three parts of each name, the suffix taken off, as three series; "" for what it does not have."""
    suffixes = "|".join(suffix[1:] for suffix in AUDIO_SUFFIXES)
    stems = names.str.replace(rf"(?i)\.(?:{suffixes})$", "", regex=True)
    parts = ("///" + stems).str.rsplit("/", n=3, expand=True)
    return parts[1], parts[2], parts[3]


def _refuse_line(path, is_wrong, expected):
    """Raises for the first line whose words are wrong: found again, since the parser does not count blank lines."""
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if (words := re.findall(r"[^ \t\n]+", line)) and is_wrong(words):
                raise ValueError(f"{path}, line {number}: {line.strip()[:200]!r}; expected {expected}. Mend the line, "
                                 "or check that this is a trial list.")
    raise ValueError(f"{path} cannot be read as a trial list; expected {expected}.")

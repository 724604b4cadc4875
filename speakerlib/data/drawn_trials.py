"""Trial lists of our own for a corpus without a published one: drawn by a seed, cut to length, saved and hashed."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from speakerlib.data.clips import Clips, cut_clips, whole_clips
from speakerlib.data.files import atomic_path
from speakerlib.data.patterns import utterance_keys

_NAMED = ["label", "enrolment", "test"]
_CUT = ["test_start", "test_frames"]  # in frames; a list without them tests whole utterances
_FORMS = {"label": "[01]", "test_start": r"\d{1,9}", "test_frames": r"[1-9]\d{0,8}"}


def draw_trials(table, per_speaker=100, rule="utterance", seed=0):
    """Target and non-target trials of each speaker, per_speaker of both: columns enrolment_row, test_row, label.

    table: columns speaker, session, utterance, its index being rows of the corpus (one split of corpus.table). A
    target trial is two utterances of the speaker (rule="utterance", as Kye et al. 2020), or of two of its sessions
    ("session"); a non-target trial one of the speaker and any one of the others. No trial comes twice, so a speaker
    with few utterances has fewer; that is printed. Raises ValueError if fewer than two speakers have a target trial.
    """
    if rule not in ("utterance", "session"):
        raise ValueError(f"rule={rule!r}: expected utterance or session, what a target trial never shares.")
    if int(per_speaker) != per_speaker or per_speaker < 1:
        raise ValueError(f"per_speaker={per_speaker!r}: expected a whole number of at least 1.")
    table = table.sort_values(["speaker", "session", "utterance"])
    rows = table.index.to_numpy(dtype=np.int64)
    speakers = pd.factorize(table["speaker"])[0]
    groups = pd.factorize(table["session"])[0] if rule == "session" else np.arange(len(rows))
    first = np.searchsorted(speakers, np.arange(speakers.max(initial=-1) + 2))
    parts, few = [], 0
    random = np.random.default_rng(seed)
    for begin, end in zip(first[:-1], first[1:]):
        one, other = np.nonzero(groups[begin:end, None] != groups[None, begin:end])
        if not len(one):  # nothing to be recognised by
            few += 1
            continue
        few += len(one) < per_speaker
        chosen = random.choice(len(one), min(per_speaker, len(one)), replace=False)
        parts.append((rows[begin + one[chosen]], rows[begin + other[chosen]], np.ones(len(chosen), np.int8)))
        others = len(rows) - (end - begin)
        count = min(per_speaker, others * (end - begin))
        one, other = np.divmod(random.choice(others * (end - begin), count, replace=False), max(others, 1))
        other += (end - begin) * (other >= begin)
        parts.append((rows[begin + one], rows[other], np.zeros(count, np.int8)))
    if len(parts) < 4:
        raise ValueError(f"{len(first) - 1} speakers, of whom {len(parts) // 2} have two utterances that share no "
                         f"{rule}: trials need at least 2 of them. Use a larger split, or another rule.")
    if few:
        print(f"{few} of {len(first) - 1} speakers have fewer than {per_speaker} pairs that share no {rule}: their "
              "trials are as many as there are.")
    enrolment, test, label = (np.concatenate(part) for part in zip(*parts))
    return pd.DataFrame({"enrolment_row": enrolment, "test_row": test, "label": label})


def cut_tests(trials, frames, length, seed=0):
    """The same trials with the test side cut to `length` frames: columns test_start and test_frames beside.

    frames: (utterances,), the length of each row of the corpus. Each trial has a cut of its own. An utterance that is
    shorter is repeated: test_start is 0 and test_frames is more than it has.
    """
    clips = cut_clips(trials["test_row"].to_numpy(), frames, length, seed)
    first = np.searchsorted(clips.clip, np.arange(len(trials)))
    return trials.assign(test_start=clips.start[first], test_frames=np.int64(length))


def trial_clips(trials, frames):
    """(enrolment Clips, test Clips, enrolment (trials,), test (trials,)): each distinct side once, and whose it is."""
    frames = np.asarray(frames, dtype=np.int64)
    enrolled, enrolment = np.unique(trials["enrolment_row"], return_inverse=True)
    if _CUT[0] not in trials:
        tested, test = np.unique(trials["test_row"], return_inverse=True)
        return whole_clips(enrolled, frames), whole_clips(tested, frames), enrolment, test
    (row, start, length), test = np.unique(trials[["test_row", *_CUT]].to_numpy(np.int64).T, axis=1,
                                           return_inverse=True)
    if ((start + length > frames[row]) & (start > 0)).any():
        raise ValueError("a test is cut beyond the end of its utterance: the list was made with another front end or "
                         "of other audio. Draw it again.")
    counts = -(-length // frames[row])
    counts[start > 0] = 1
    clip = np.repeat(np.arange(len(row)), counts)
    before = (np.arange(len(clip)) - np.repeat(np.cumsum(counts) - counts, counts)) * frames[row[clip]]
    pieces = np.minimum(frames[row[clip]], length[clip] - before)
    return whole_clips(enrolled, frames), Clips(clip, row[clip], start[clip], pieces), enrolment, test.ravel()


def save_trials(trials, corpus, path):
    """Writes a list as csv (label, enrolment, test, and the cut) by its utterances' names; returns its digest."""
    keys = utterance_keys(corpus.table).to_numpy()
    named = pd.DataFrame({"label": trials["label"], "enrolment": keys[trials["enrolment_row"]],
                          "test": keys[trials["test_row"]], **{name: trials[name] for name in _CUT if name in trials}})
    text = named.to_csv(index=False, lineterminator="\n")
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return _digest(text)


def load_trials(path, corpus, digest=None):
    """A list that save_trials wrote, its utterances found again in the corpus' rows.

    digest: what it has to have. Raises FileNotFoundError, or ValueError for another digest, what is no such list, and
    utterances that the corpus lacks.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no trial list {path}; save_trials writes one.")
    if digest is not None and (found := _digest(path.read_text(encoding="utf-8"))) != digest:
        raise ValueError(f"{path} has the digest {found}, expected {digest}: it is another list, or was changed. Draw "
                         "it again with the same seed.")
    try:
        named = pd.read_csv(path, dtype="str", keep_default_na=False)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is not a trial list as save_trials writes it: {error}") from error
    if named.columns.tolist() not in ([*_NAMED], [*_NAMED, *_CUT]):
        raise ValueError(f"{path} has the columns {', '.join(named.columns)[:200]}; expected {', '.join(_NAMED)}, and "
                         f"where tests are cut {', '.join(_CUT)}. A list of lines without a header is for read_trials.")
    for name, form in _FORMS.items():
        if name in named and (wrong := ~named[name].str.fullmatch(form)).any():
            row = int(wrong.argmax())
            raise ValueError(f"{path}, trial {row + 1}: {name} is {named[name][row][:50]!r}; expected a label of 1 or "
                             "0, and frames. Draw the list again.")
    if not len(named):
        raise ValueError(f"{path} holds no trial. Draw the list again.")
    keys = pd.Index(utterance_keys(corpus.table))
    sides = {side: keys.get_indexer(named[side]) for side in ("enrolment", "test")}
    absent = sorted({name for side, rows in sides.items() for name in named[side][rows < 0]})
    if absent:
        raise ValueError(f"corpus {corpus.name!r} lacks {len(absent):,} utterances of {path}, such as "
                         f"{', '.join(absent[:3])}; it has {keys[0]}, for one. Is it the list of another corpus?")
    return pd.DataFrame({"enrolment_row": sides["enrolment"], "test_row": sides["test"],
                         "label": named["label"].astype("int8"),
                         **{name: named[name].astype("int64") for name in _CUT if name in named}})


def _digest(text):
    return sha256(text.encode()).hexdigest()[:16]

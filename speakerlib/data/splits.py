"""Divides speakers into train, validation and test: no speaker is ever in two of them."""

from pathlib import Path

import numpy as np
import pandas as pd

SPLITS = ["train", "validation", "test"]
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.3  # of the speakers


def assign_splits(table, seed=0, split_file=None, chosen=None):
    """Split of each row of a corpus table, by its speaker alone.

    From split_file, a csv with the columns speaker and split, when given; or as `chosen` ({speaker: split}, see
    folder_splits); otherwise drawn by `seed`: 60 % of the speakers train, 10 % validation, 30 % test, at least two
    of each from six speakers on.
    Raises ValueError for fewer than three speakers, and for a file that lacks one or leaves a split empty; only a
    corpus of nothing but test speakers, to evaluate with, is let through, and that is printed.
    """
    check_splits(table, seed, split_file)
    speakers = sorted(table["speaker"].unique())
    if split_file is not None:
        chosen = _read_splits(split_file, speakers)
    chosen = chosen or _draw_splits(speakers, seed)
    return table["speaker"].map(chosen).astype("str").rename("split")


def folder_splits(table, folder, seed=0):
    """{speaker: split} for a tree whose top folders tell, such as VoxCeleb2's dev/ and test/; None for another one.

    table: a scan's of `folder`. The speakers in test/ are test, those in train/ train; dev/ is validation beside a
    train/, and otherwise, as in VoxCeleb, all that is not test. VoxCeleb2's archives, unpacked into one folder, make
    dev/aac/ and, of the test speakers, aac/: there, aac/ is test. Without a validation folder, 10 % of the training
    speakers become it, by `seed`. None, and a line printed, if a speaker is in two of the folders.
    """
    top = table["path"].str.slice(len(str(folder).rstrip("/")) + 1).str.partition("/")[0]
    if set(top.unique()) == {"dev", "aac"}:
        top = top.replace("aac", "test")
    names = set(top.unique())
    train = "train" if "train" in names else "dev"
    validation = "dev" if train == "train" and "validation" not in names else "validation"
    if not {train, "test"} <= names <= {train, validation, "test"} or (table["speaker"] == top).any():
        return None
    places = pd.DataFrame({"speaker": table["speaker"], "top": top}).drop_duplicates().set_index("speaker")["top"]
    if not places.index.is_unique:
        print(f"{folder}: {places.index.duplicated().sum()} speakers are in more than one of "
              f"{', '.join(sorted(names))}: the splits are drawn by seed instead.")
        return None
    chosen = places.map({train: "train", validation: "validation", "test": "test"}).to_dict()
    speakers = sorted(speaker for speaker, split in chosen.items() if split == "train")
    if validation not in names:
        held_out = max(1, round(VALIDATION_SHARE * len(speakers)))
        order = np.random.default_rng(seed).permutation(len(speakers))
        chosen.update((speakers[position], "validation") for position in order[:held_out])
    return chosen


def check_splits(table, seed=0, split_file=None):
    """Raises what assign_splits would raise whichever files turn out to be unusable: for use before decoding."""
    num_speakers = table["speaker"].nunique()
    if num_speakers < len(SPLITS):
        raise ValueError(f"{num_speakers} speakers cannot be divided into {', '.join(SPLITS)}: expected at "
                         f"least {len(SPLITS)}, and 6 for two of each. Add speakers.")
    if seed < 0:
        raise ValueError(f"seed={seed}: expected a whole number of at least 0.")
    if split_file is not None:
        chosen = _read_list(split_file).set_index("speaker")["split"]
        speakers = table["speaker"].unique()
        there = set(chosen[chosen.index.isin(speakers)])
        if there and "test" in set(chosen) - there:  # without train, the others may turn out to be unusable
            raise ValueError(_what_is_empty(split_file, ["test"], chosen, speakers))


def _draw_splits(speakers, seed):
    at_least = min(2, len(speakers) // 3)
    num_validation = max(round(VALIDATION_SHARE * len(speakers)), at_least)
    num_test = max(round(TEST_SHARE * len(speakers)), at_least)
    order = np.random.default_rng(seed).permutation(len(speakers))
    names = ["validation"] * num_validation + ["test"] * num_test
    names += ["train"] * (len(speakers) - len(names))
    return {speakers[position]: name for position, name in zip(order, names, strict=True)}


def _read_list(split_file):
    """The file's table, with one row a speaker and the split of each known."""
    if not Path(split_file).is_file():
        raise FileNotFoundError(f"there is no split file {split_file}; expected a csv with the columns speaker and "
                                "split. Check the path.")
    try:
        listed = pd.read_csv(split_file, dtype="str", keep_default_na=False)
    except ValueError as error:  # empty, not text, or rows of different lengths
        raise ValueError(f"{split_file} is not a csv with the columns speaker and split ({str(error).strip()}). "
                         "Write one line a speaker, such as id10001,train.") from error
    if not {"speaker", "split"} <= set(listed.columns):
        raise ValueError(f"{split_file} has the columns {', '.join(listed)}; expected speaker and split.")
    wrong = listed[~listed["split"].isin(SPLITS)]
    if len(wrong):
        raise ValueError(f"{split_file} puts speaker {wrong['speaker'].iloc[0]!r} into split "
                         f"{wrong['split'].iloc[0]!r}; expected one of {', '.join(SPLITS)}.")
    if listed["speaker"].duplicated().any():
        twice = listed["speaker"][listed["speaker"].duplicated()].iloc[0]
        raise ValueError(f"{split_file} names speaker {twice!r} more than once.")
    return listed


def _read_splits(split_file, speakers):
    listed = _read_list(split_file)
    chosen = dict(zip(listed["speaker"], listed["split"], strict=True))
    absent = [speaker for speaker in speakers if speaker not in chosen]
    if absent:
        raise ValueError(f"{split_file} says nothing of {len(absent)} of the corpus' {len(speakers)} "
                         f"speakers, such as {absent[0]!r}. Add them, or use another file or corpus name.")
    unknown = sorted(set(chosen) - set(speakers))
    if unknown:
        print(f"{split_file} names {len(unknown)} speakers not in the corpus, such as {unknown[0]!r}.")
    filled = {chosen[speaker] for speaker in speakers}
    empty = [name for name in SPLITS if name in set(chosen.values()) - filled]
    if empty and filled == {"test"}:
        print(f"All {len(speakers)} speakers are test speakers by {split_file}: nothing can be trained on this corpus, "
              "it serves for evaluation alone.")
    elif empty:
        raise ValueError(_what_is_empty(split_file, empty, chosen, speakers))
    return chosen


def _what_is_empty(split_file, empty, chosen, speakers):
    return (f"{split_file} leaves {' and '.join(empty)} without speakers: {len(set(chosen.keys()) - set(speakers))} of "
            f"the {len(chosen)} it names are not in the corpus. Is it the split of another corpus? Add the speakers, "
            "or import under another name to have the splits drawn by seed.")

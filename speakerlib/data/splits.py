"""Divides speakers into train, validation and test: no speaker is ever in two of them."""

from pathlib import Path

import numpy as np
import pandas as pd

SPLITS = ["train", "validation", "test"]
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.3  # of the speakers


def assign_splits(table, seed=0, split_file=None):
    """Split of each row of a corpus table, by its speaker alone.

    From split_file, a csv with the columns speaker and split, when given; otherwise drawn by `seed`: 60 % of
    the speakers train, 10 % validation, 30 % test, at least two of each from six speakers on.
    Raises ValueError for fewer than three speakers, and for a file that lacks one or leaves a split empty.
    """
    check_splits(table, seed, split_file)
    speakers = sorted(table["speaker"].unique())
    chosen = _draw_splits(speakers, seed) if split_file is None else _read_splits(split_file, speakers)
    return table["speaker"].map(chosen).astype("str").rename("split")


def check_splits(table, seed=0, split_file=None):
    """Raises what assign_splits would raise whichever files turn out to be unusable: for use before decoding."""
    num_speakers = table["speaker"].nunique()
    if num_speakers < len(SPLITS):
        raise ValueError(f"{num_speakers} speakers cannot be divided into {', '.join(SPLITS)}: expected at "
                         f"least {len(SPLITS)}, and 6 for two of each. Add speakers.")
    if seed < 0:
        raise ValueError(f"seed={seed}: expected a whole number of at least 0.")
    if split_file is not None:
        _read_list(split_file)


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
    empty = [name for name in SPLITS if name in set(chosen.values()) and
             not any(chosen[speaker] == name for speaker in speakers)]
    if empty:
        raise ValueError(f"{split_file} leaves {' and '.join(empty)} without speakers: {len(unknown)} of the "
                         f"{len(chosen)} it names are not in the corpus. Is it the split of another corpus?")
    return chosen

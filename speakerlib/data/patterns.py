"""Finds the utterances in a folder of audio, and reads speaker, session and utterance from their paths."""

import os
import re
from pathlib import Path

import pandas as pd

from speakerlib.data.audio import AUDIO_SUFFIXES

ID_COLUMNS = ["speaker", "session", "utterance"]
CONTAINERS = {"aac", "audio", "clips", "dev", "flac", "m4a", "mp3", "opus", "speech", "test", "train", "wav"}


def scan(folder, pattern=None):
    """Table with the columns speaker, session, utterance, path of the audio in `folder`, sorted by them.

    pattern, such as "{speaker}/{session}/{utterance}.flac", "{word}/{speaker}_nohash_{take}.wav" or
    "{speaker}/{utterance}.*", describes the end of a file's path: any folders may come before it, {a field}
    and * stand for anything but a slash, a field that comes twice has to be the same twice, and fields of
    other names become part of the utterance. Without {session}, all of a speaker is session "1". Without a
    pattern, it is inferred from the tree (see infer_pattern). Hidden files are left out. The pattern used is
    in the table's attrs.

    Raises FileNotFoundError or NotADirectoryError for the folder; ValueError if it holds no audio, if nothing
    matches, if there is one speaker only, or if two files get the same names.
    """
    folder = Path(folder).expanduser().resolve()
    found = list_audio(folder, pattern)
    pattern = pattern or infer_pattern(found, folder)
    matcher, fields = compile_pattern(pattern)
    rows, unmatched = [], []
    for path in found:
        match = matcher.fullmatch(path)
        if match:
            rows.append((*_ids(match.groupdict(), fields, path), os.path.join(folder, path)))
        else:
            unmatched.append(path)
    if not rows:
        raise ValueError(f"the pattern {pattern!r} matches none of the {len(found)} audio files in {folder}, "
                         f"such as {found[0]}. Give a pattern that describes this path.")
    if unmatched:
        print(f"{len(unmatched)} of {len(found)} audio files in {folder} do not match {pattern!r} and are "
              f"left out, such as {unmatched[0]}.")
    return make_table(rows, folder, pattern)


def make_table(rows, folder, pattern):
    """A scan's table of rows (speaker, session, utterance, absolute path); raises as scan does for their names."""
    table = pd.DataFrame(rows, columns=[*ID_COLUMNS, "path"], dtype="str")
    table = table.sort_values([*ID_COLUMNS, "path"], ignore_index=True)
    _check_ids(table, folder, pattern)
    table.attrs["pattern"] = pattern
    return table


def utterance_keys(table, between="/"):
    """speaker/session/utterance of each row of a table, as a Series: no name holds a slash."""
    return table["speaker"] + between + table["session"] + between + table["utterance"]


def list_audio(folder, pattern=None):
    """Sorted relative paths of the audio in `folder`, and of files with the suffix that the pattern names."""
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}; expected one that holds audio. Check the path.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder of audio files")
    suffixes = {*AUDIO_SUFFIXES, os.path.splitext(pattern or "")[1].lower()} - {""}
    found, seen, num_files = [], set(), 0
    for here, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads round in a circle
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        num_files += len(files)
        inside = os.path.relpath(here, folder)
        found += [name if inside == "." else f"{inside}/{name}".replace(os.sep, "/") for name in files
                  if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes]
    if not found:
        raise ValueError(f"there is no audio in {folder}: {num_files} files, none of them named "
                         f"{', '.join('*' + suffix for suffix in sorted(suffixes))}. Give the folder that holds "
                         "the speakers' files.")
    return sorted(found)


def infer_pattern(paths, folder="the folder"):
    """The pattern of a tree, told by its depth: VoxCeleb's, LibriSpeech's, {speaker}/{session}/{utterance} or
    {speaker}/{utterance}, below any folders such as wav/ or speech/. ValueError if it cannot be told.
    """
    parts = [path.split("/") for path in paths]
    if len({len(part) for part in parts}) > 1:  # VoxCeleb2's archives make dev/aac/ and aac/
        parts = [_below_containers(part) for part in parts]
    depths = {len(part): path for part, path in zip(parts, paths, strict=True)}
    ask = "Give a pattern, such as {speaker}/{session}/{utterance}.wav or {speaker}_{utterance}.wav."
    if len(depths) > 1:
        few, many = min(depths), max(depths)
        raise ValueError(f"{folder} holds audio at different depths, such as {depths[few]} and "
                         f"{depths[many]}: which folder is a speaker cannot be told. {ask}")
    depth = next(iter(depths))
    if depth == 1:
        raise ValueError(f"{folder} holds audio without folders for the speakers, such as {paths[0]}. {ask}")
    above = {part[-3] for part in parts} if depth > 2 else set()
    if depth == 2 or (len(above) == 1 and next(iter(above)).lower() in CONTAINERS):
        return "{speaker}/{utterance}.*"
    if all(part[-1].startswith(f"{part[-3]}-{part[-2]}-") for part in parts):
        return "{speaker}/{session}/{speaker}-{session}-{utterance}.*"  # LibriSpeech
    return "{speaker}/{session}/{utterance}.*"


def _below_containers(parts):
    """The parts of a path without the folders such as dev/ or aac/ in front."""
    first = next((place for place, part in enumerate(parts) if part.lower() not in CONTAINERS), 0)
    return parts[first:]


def compile_pattern(pattern):
    """(regular expression for a whole path, names of the fields in order); ValueError without {speaker}."""
    fields, expression = [], []
    for field, star, literal in re.findall(r"\{(\w+)\}|(\*+)|([^{*]+|\{)", pattern.strip("/")):
        if field and not field.isidentifier():
            raise ValueError(f"the pattern {pattern!r} has a field {{{field}}}, not one like {{speaker}}.")
        if field in fields:
            expression.append(f"(?P={field})")
        elif field:
            fields.append(field)
            expression.append(f"(?P<{field}>[^/]+)")
        elif star:
            expression.append("[^/]*")
        elif set("{}") & set(literal):
            raise ValueError(f"the pattern {pattern!r} has a brace outside a field such as {{speaker}}.")
        else:
            expression.append(re.escape(literal))
    if "speaker" not in fields:
        raise ValueError(f"the pattern {pattern!r} does not say which part of a path is the {{speaker}}.")
    return re.compile("(?:.*/)?" + "".join(expression), re.IGNORECASE), fields


def _ids(values, fields, path):
    rest = [values[field] for field in fields if field not in ("speaker", "session")]
    utterance = "-".join(rest) or os.path.splitext(os.path.basename(path))[0]
    return values["speaker"], values.get("session", "1"), utterance


def _check_ids(table, folder, pattern):
    for column in ID_COLUMNS:
        for value in table[column].unique():
            if not value.isprintable() or value != value.strip():
                raise ValueError(f"{column} {value!r} in {folder} has spaces around it or characters that "
                                 "cannot be printed. Rename that file or folder.")
    speaker, first = table["speaker"].iloc[0], Path(table["path"].iloc[0]).relative_to(folder)
    if table["speaker"].nunique() == 1:
        raise ValueError(f"the {len(table)} audio files in {folder} are all of one speaker, {speaker!r}, "
                         f"under the pattern {pattern!r} (such as {first}); expected several. Give the "
                         "pattern that tells the speakers apart, or the folder that holds all of them.")
    twice = table[table.duplicated(ID_COLUMNS, keep=False)]
    if len(twice):
        speaker, _, utterance, path = twice.iloc[0]
        other = twice["path"].iloc[1]
        advice = "Put a field for what tells them apart into the pattern."
        if os.path.splitext(path)[0] == os.path.splitext(other)[0]:  # as a conversion leaves them
            advice = f"Give a pattern that ends in the suffix to take, {os.path.splitext(path)[1]} or " \
                     f"{os.path.splitext(other)[1]}."
        raise ValueError(f"{path} and {other} are both utterance {utterance!r} of speaker "
                         f"{speaker!r}: {len(twice)} of {len(table)} files share their names under the "
                         f"pattern {pattern!r}. {advice}")

"""A published manifest makes exactly its corpus, or says what is not there; the corpus of before survives a refusal."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from speakerlib.data.audio import write_audio
from speakerlib.data.corpora import find_corpus, import_corpus, open_corpus
from speakerlib.data.manifests import MANIFEST_COLUMNS, write_corpus_manifest
from speakerlib.data.splits import folder_splits


def noise(seed, num_samples=9600):
    return np.random.default_rng(seed).integers(-9000, 9000, num_samples).astype(np.int16)


def sha256(samples):
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()


def ids(corpus):
    return set(corpus.table[["speaker", "session", "utterance"]].itertuples(index=False, name=None))


@pytest.fixture
def source(tmp_path):
    """Five speakers in VoxCeleb's layout, one session of three utterances each."""
    for speaker in range(5):
        for utterance in range(3):
            write_audio(tmp_path / "vox" / f"id{speaker}" / "-5ybVB7lXoE" / f"{utterance:05d}.flac",
                        noise(3 * speaker + utterance))
    return tmp_path / "vox"


@pytest.fixture
def manifest(tmp_path):
    """Two utterances of each of four speakers, as scraping writes it."""
    lines = [f"id{speaker},-5ybVB7lXoE,{utterance:05d},1.0,1.6,9600,{sha256(noise(3 * speaker + utterance))}"
             for speaker in range(4) for utterance in range(2)]
    (tmp_path / "manifest.csv").write_text("\n".join([",".join(MANIFEST_COLUMNS), *lines]) + "\n")
    return tmp_path / "manifest.csv"


def test_a_corpus_is_restricted_to_exactly_its_manifest(data_folder, source, manifest, capsys):
    corpus = import_corpus(source, manifest=manifest, progress=False)
    assert ids(corpus) == {(f"id{speaker}", "-5ybVB7lXoE", f"{utterance:05d}") for speaker in range(4)
                           for utterance in range(2)}
    assert all(np.array_equal(corpus.waveforms.read(row), noise(3 * int(speaker[2:]) + int(utterance)))
               for row, (speaker, utterance) in enumerate(corpus.table[["speaker", "utterance"]].to_numpy()))
    said = capsys.readouterr().out
    assert "7 of 15 files are not in the manifest and are left out, such as" in said
    assert not (corpus.folder / "manifest_lacks.csv").exists()
    assert import_corpus(source, manifest=manifest, progress=False).fingerprint == corpus.fingerprint
    assert capsys.readouterr().out.count("corpus 'vox': 8 utterances") == 0  # opened, not made again


def test_the_record_tells_one_manifest_from_another_and_not_by_its_order(data_folder, source, manifest):
    record = json.loads((import_corpus(source, manifest=manifest, progress=False).folder / "corpus.json").read_text())
    lines = manifest.read_text().splitlines()
    manifest.write_text("\r\n".join([lines[0], *lines[:0:-1]]))
    again = import_corpus(source, manifest=manifest, progress=False)
    assert json.loads((again.folder / "corpus.json").read_text())["manifest"] == record["manifest"]
    manifest.write_text("\n".join(lines[:-1]))
    fewer = import_corpus(source, manifest=manifest, progress=False)
    assert json.loads((fewer.folder / "corpus.json").read_text())["manifest"] != record["manifest"]
    assert len(fewer.table) == 7 and not list(fewer.folder.glob("waveforms-*"))


def test_other_samples_are_refused_and_the_corpus_of_before_stays(data_folder, source, manifest):
    before = import_corpus(source, progress=False)
    write_audio(source / "id1" / "-5ybVB7lXoE" / "00001.flac", noise(99))
    (source / "id2" / "-5ybVB7lXoE" / "00000.flac").write_bytes(b"not audio")
    with pytest.raises(ValueError, match="of 8 utterances, 1 have other samples and 1 cannot be used, such as "
                       r"id1/-5ybVB7lXoE/00001 \(other samples\), id2/-5ybVB7lXoE/00000 \(unusable: .*"
                       "Nothing that was imported before has been replaced.*partial=True"):
        import_corpus(source, manifest=manifest, progress=False)
    after = open_corpus("vox")
    assert after.fingerprint == before.fingerprint and len(after.table) == 15 and len(after.skipped) == 0
    assert np.array_equal(after.waveforms.read(4), noise(4))


def test_absent_utterances_are_refused_before_anything_is_decoded(data_folder, source, manifest):
    (source / "id1" / "-5ybVB7lXoE" / "00001.flac").unlink()
    with pytest.raises(ValueError, match=r"of 8 utterances, 1 are absent, such as id1/-5ybVB7lXoE/00001 \(absent\)"):
        import_corpus(source, manifest=manifest, progress=False)
    assert not list(data_folder.rglob("shard-*"))


def test_a_part_of_a_manifest_is_taken_when_asked_for_and_what_lacks_is_listed(data_folder, source, manifest, capsys):
    import_corpus(source, progress=False)
    write_audio(source / "id1" / "-5ybVB7lXoE" / "00001.flac", noise(99))
    (source / "id2" / "-5ybVB7lXoE" / "00000.flac").unlink()
    (source / "id3" / "-5ybVB7lXoE" / "00001.flac").write_bytes(b"")
    capsys.readouterr()
    corpus = import_corpus(source, manifest=manifest, partial=True, progress=False)
    assert ("is a part of its manifest: of 8 utterances, " in (said := capsys.readouterr().out))
    assert all(f"1 {what}" in said for what in ("have other samples", "are absent", "cannot be used"))
    assert len(corpus.table) == 6 and len(corpus.skipped) == 1
    lacks = pd.read_csv(corpus.folder / "manifest_lacks.csv", dtype="str")
    assert lacks.to_numpy().tolist() == [["id1", "-5ybVB7lXoE", "00001", "other samples"],
                                         ["id2", "-5ybVB7lXoE", "00000", "absent"],
                                         ["id3", "-5ybVB7lXoE", "00001", "unusable: empty"]]
    row = corpus.table.index[(corpus.table["speaker"] == "id1") & (corpus.table["utterance"] == "00001")][0]
    assert np.array_equal(corpus.waveforms.read(row), noise(99))
    with pytest.raises(ValueError, match="of 8 utterances, 1 are absent"):  # a part is never taken for the whole
        import_corpus(source, manifest=manifest, progress=False)


def test_an_import_that_was_killed_before_its_table_goes_on(data_folder, source, manifest, monkeypatch):
    from speakerlib.data import corpora

    import_corpus(source, progress=False)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(corpora, "_put_in_place", lambda *places: 1 / 0)  # the import ends here
        import_corpus(source, manifest=manifest, progress=False)
    with pytest.raises(FileNotFoundError, match="only partly imported"):
        open_corpus("vox")
    corpus = import_corpus(source, manifest=manifest, progress=False)
    assert len(corpus.table) == 8 and not list(corpus.folder.glob("waveforms-*"))
    assert len(import_corpus(source, progress=False).table) == 15


def test_a_manifest_of_other_audio_is_refused_even_in_part(data_folder, source, manifest):
    manifest.write_text(manifest.read_text().replace("id", "xx"))
    with pytest.raises(ValueError, match="of 8 utterances, 8 are absent"):
        import_corpus(source, manifest=manifest, partial=True, progress=False)
    manifest.write_text(manifest.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="lists no utterance"):
        import_corpus(source, manifest=manifest, progress=False)


def test_leaving_the_manifest_out_again_is_said(data_folder, source, manifest, capsys):
    import_corpus(source, manifest=manifest, progress=False)
    assert len(find_corpus(source).table) == 15
    assert "was restricted to a manifest, and is now imported without one" in capsys.readouterr().out


def test_the_manifest_of_any_corpus_makes_it_again(data_folder, source, tmp_path):
    (source / "id4" / "-5ybVB7lXoE" / "00002.flac").write_bytes(b"not audio")
    corpus = import_corpus(source, progress=False)
    assert write_corpus_manifest(corpus, tmp_path / "mine.csv") == 14
    listed = pd.read_csv(tmp_path / "mine.csv", dtype="str")
    assert listed.columns.tolist() == MANIFEST_COLUMNS
    assert listed.iloc[4].tolist() == ["id1", "-5ybVB7lXoE", "00001", "0.0", "0.6", "9600", sha256(noise(4))]
    again = import_corpus(source, name="again", manifest=tmp_path / "mine.csv", progress=False)
    assert again.fingerprint == corpus.fingerprint


# A tree's own splits


def tree(folder, *paths):
    rows = [(path.split("/")[-3], path.split("/")[-2], path.split("/")[-1], str(folder / path)) for path in paths]
    return pd.DataFrame(rows, columns=["speaker", "session", "utterance", "path"], dtype="str")


def test_dev_and_test_folders_are_followed_as_voxceleb2_has_them(tmp_path):
    dev = [f"dev/aac/id{number:02d}/v/{clip}.m4a" for number in range(30) for clip in range(2)]
    test = [f"test/aac/id{number:02d}/v/1.m4a" for number in range(30, 34)]
    chosen = folder_splits(tree(tmp_path, *dev, *test), tmp_path)
    assert {speaker for speaker, split in chosen.items() if split == "test"} == {"id30", "id31", "id32", "id33"}
    held_out = {speaker for speaker, split in chosen.items() if split == "validation"}
    assert len(held_out) == 3 and len(chosen) == 34
    assert folder_splits(tree(tmp_path, *reversed(dev), *test), tmp_path) == chosen
    assert folder_splits(tree(tmp_path, *dev, *test), tmp_path, seed=1) != chosen
    unpacked = [path.removeprefix("test/") for path in test]  # as the archive of the test speakers has them
    assert folder_splits(tree(tmp_path, *dev, *unpacked), tmp_path) == chosen


def test_dev_beside_train_is_validation(tmp_path):
    table = tree(tmp_path, "train/a/v/1.wav", "train/b/v/1.wav", "dev/c/v/1.wav", "test/d/v/1.wav")
    assert folder_splits(table, tmp_path) == {"a": "train", "b": "train", "c": "validation", "d": "test"}


@pytest.mark.parametrize("paths", [
    ["a/v/1.wav", "b/v/1.wav", "c/v/1.wav"],
    ["dev/a/v/1.wav", "dev/b/v/1.wav", "dev/c/v/1.wav"],
    ["test/a/v/1.wav", "test/b/v/1.wav", "other/c/v/1.wav"],
    ["test/a/1.wav", "dev/b/1.wav", "train/c/1.wav"],  # here they are the speakers
])
def test_other_trees_are_split_by_seed(tmp_path, paths):
    assert folder_splits(tree(tmp_path, *paths), tmp_path) is None


def test_a_speaker_in_dev_and_test_is_told(tmp_path, capsys):
    table = tree(tmp_path, "dev/a/v/1.wav", "dev/b/v/1.wav", "test/a/v/2.wav")
    assert folder_splits(table, tmp_path) is None
    assert "1 speakers are in more than one of dev, test: the splits are drawn by seed" in capsys.readouterr().out


def test_an_imported_tree_keeps_its_own_splits(data_folder, tmp_path):
    for number in range(6):
        part = "test" if number > 3 else "dev"
        write_audio(tmp_path / "vox2" / part / "aac" / f"id{number}" / "v" / "1.flac", noise(number))
    corpus = import_corpus(tmp_path / "vox2", progress=False)
    split = corpus.table.set_index("speaker")["split"]
    assert split[["id4", "id5"]].tolist() == ["test", "test"]
    assert sorted(split[:4]) == ["train", "train", "train", "validation"]

"""The archives' commands, as a user types them: each names the next one, from the key to a corpus."""

import hashlib
import io
import os
import shlex
import zipfile

import av
import numpy as np
import pytest

from speakerlib.cli import main
from speakerlib.data.archives import download, listing
from speakerlib.data.corpora import open_corpus

ARCHIVES = {  # name: (folders inside, suffix, speakers), as the official ones
    "vox1_dev_wav": ("wav", "wav", range(10001, 10005)), "vox1_test_wav": ("wav", "wav", range(10270, 10272)),
    "vox2_dev_aac": ("dev/aac", "m4a", range(12, 17)), "vox2_test_aac": ("aac", "m4a", range(17, 19)),
}


def sound(suffix):
    """Bytes of an audio file of a second of noise."""
    content, codec = io.BytesIO(), {"m4a": "aac", "wav": "pcm_s16le"}[suffix]
    samples = np.random.default_rng(0).integers(-3000, 3000, (1, 16000), "int16")
    with av.open(content, "w", format={"m4a": "ipod"}.get(suffix, suffix)) as container:
        stream = container.add_stream(codec, rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return content.getvalue()


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Small archives in place of the official ones; {file: bytes} arrives as if from the server."""
    files, rows = {}, ["file,md5,whole"]
    for name, (above, suffix, numbers) in ARCHIVES.items():
        content, audio = io.BytesIO(), sound(suffix)
        with zipfile.ZipFile(content, "w") as archive:
            for number in numbers:
                archive.writestr(f"{above}/id{number:05d}/1zcIwhmdeo4/00001.{suffix}", audio)
        whole, half = content.getvalue(), len(content.getvalue()) // 2
        files[f"{name}.zip"] = whole
        rows.append(f"{name}.zip,{hashlib.md5(whole).hexdigest()},")
        for part, data in (("partaa", whole[:half]), ("partab", whole[half:])) if "dev" in name else ():
            files[f"{name}_{part}"] = data
            rows.append(f"{name}_{part},{hashlib.md5(data).hexdigest()},{name}.zip")
    (tmp_path / "small.csv").write_text("\n".join(rows) + "\n")
    table = listing.list_archives(tmp_path / "small.csv")

    def receive(get, file, part, md5, *rest):
        part.write_bytes(files[file])
        return md5

    monkeypatch.setattr(listing, "list_archives", lambda: table)
    monkeypatch.setattr(download, "_receive", receive)
    monkeypatch.setenv("VOXCELEB_KEY", "x")


def test_each_step_names_the_next_and_all_end_in_corpora(archives, data_folder, tmp_path, capsys):
    folder = tmp_path / "Vox Celeb"

    def follow(*arguments):
        """Runs a command; returns those that it names, as a shell would read them."""
        assert main(list(arguments)) == 0
        return [shlex.split(line.partition("Next: speakerlib ")[2]) for line in capsys.readouterr().out.splitlines()
                if "Next: " in line]

    [extract] = follow("archives", "download", *ARCHIVES, "--output", str(folder), "--url-template",
                       "http://127.0.0.1:9/get?key={key}&file={file}")
    first, second = follow(*extract)
    follow(*first)
    table = open_corpus("vox1").table  # by the split that the project keeps of VoxCeleb1
    assert len(table) == 6 and set(table["speaker"][table["split"] == "test"]) == {"id10270", "id10271"}
    follow("import", str(folder / "vox2"))  # it is recognised, too
    follow(*second)
    [third] = follow("archives", "convert", str(folder / "vox2"))
    follow(*third)
    table = open_corpus("vox2").table
    assert len(table) == 7 and {os.path.splitext(path)[1] for path in table["path"]} == {".flac"}
    assert set(table["speaker"][table["split"] == "test"]) == {"id00017", "id00018"}  # as VoxCeleb2's authors have it


@pytest.mark.parametrize("step", ["list", "download", "extract", "convert"])
def test_each_step_says_where_the_key_goes(step, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["archives", step, "--help"])
    said = capsys.readouterr().out
    assert "VOXCELEB_KEY" in said and f"speakerlib archives {step}" in said


def test_a_missing_address_is_told_with_the_option_that_takes_it(archives, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("VOXCELEB_URL", raising=False)
    assert main(["archives", "download", "vox1_dev_wav", "--output", str(tmp_path)]) == 2
    assert "--url-template" in capsys.readouterr().err

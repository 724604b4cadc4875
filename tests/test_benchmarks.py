"""The benchmarks run to their end, and keep what they found where it belongs. No time is asserted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent / "benchmarks"
ROOT = FOLDER.parents[1]
LISTED = re.search(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M).group(1).split()
SHARED = {"side_by_side", "material", "speech", "sparse_corpora", "extrapolation"}
APART = {"eer", "scale", "sweep_overhead", "mask_explorer", "gpu_training"}  # not part of make bench


@pytest.fixture
def harness(monkeypatch, tmp_path):
    """The module side_by_side, which writes below tmp_path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import side_by_side

    monkeypatch.setattr(side_by_side, "project_folder", lambda: tmp_path)
    return side_by_side


def test_make_bench_runs_every_script_or_says_why_not():
    there = {path.stem for path in FOLDER.glob("*.py")}
    assert set(LISTED) == there - SHARED - APART
    assert len(LISTED) == len(set(LISTED)) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_a_quick_run_prints_its_section_and_writes_nothing(name, tmp_path):
    kept = ROOT / "figures" / "benchmarks.md"
    before = kept.read_bytes() if kept.exists() else None
    environment = {**os.environ, "SPEAKERLIB_DATA": str(tmp_path / "data"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), "--quick"], env=environment, cwd=tmp_path,
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^## \w", done.stdout, re.M)
    assert re.search(r"^\| .+\|$", done.stdout, re.M)
    assert (kept.read_bytes() if kept.exists() else None) == before
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("torch")]


def test_sides_take_turns_and_warming_up_is_not_counted(harness):
    called = []
    times = harness.alternate({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3, 2)
    assert "".join(called) == "ab" * 5
    assert [len(seconds) for seconds in times.values()] == [3, 3]


def test_a_ratio_is_the_median_of_each_round_s(harness):
    table = harness.table({"slow": [2.0, 4.0, 30.0], "fast": [1.0, 1.0, 2.0]}, "slow", items=10, unit="clips")
    assert table.loc["fast", "ratio"] == 4.0
    assert table.loc["slow", "ratio"] == 1.0
    assert table.loc["fast", "clips/s"] == 10.0
    assert table.loc["fast", "lowest to highest"] == "2.00 to 15.0"


def test_a_section_replaces_its_own_and_leaves_the_others(harness, tmp_path, capsys):
    table = harness.table({"one side": [0.0125], "other": [1500.0]}, "one side")
    harness.write("Second", "It was so.", table)
    harness.write("First", "Short.")
    harness.write("Second", "It is so.", [table, table])
    harness.write("Third", "Not kept.", quick=True)
    text = (tmp_path / "figures" / "benchmarks.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == ["First", "Second"]
    assert "It is so." in text and "It was so." not in text
    assert text.count("| one side | 0.0125 |") == 2 and text.count("| other | 1,500 |") == 2
    assert "Not kept." in capsys.readouterr().out
    assert text.count("torch ") == 2  # each section names its machine


def test_the_page_s_arithmetic_is_what_a_reader_would_do_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import extrapolation

    corpus = {"speakers": 2, "utterances": 1200, "hours": 10, "suffix": "wav"}
    rates = {step: {"real_time": 100.0, "two_workers": 160.0, "efficiency": 0.8, "bytes": 1.0}
             for step in ("waveform store, from wav", *(f"{name}, {condition}" for name in ("compact", "boccio")
                          for condition in ("recorded", "changed, family I", "changed, family II")))}
    found = extrapolation.estimate(corpus, rates)
    assert set(found) == set(rates)
    store, boccio = found["waveform store, from wav"], found["boccio, recorded"]
    assert (store["core_hours"], store["two"]) == (0.1, 0.0625)
    assert store["gigabytes"] == 1.152  # 36,000 s x 16,000 samples x 2 bytes
    assert boccio["gigabytes"] == pytest.approx(11_400 * 77_056 / 1e9)  # 12,000 clips less half a clip an utterance
    assert boccio["core_hours"] == pytest.approx(11_400 * 3 / 3600 / 100)
    assert found["compact, recorded"]["gigabytes"] == pytest.approx((24_000 - 600) * 64 * 151 * 2 / 1e9)


def test_the_page_shows_the_sums_of_its_own_table(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import extrapolation

    speeds = iter(range(50, 1000, 30))
    rates = {f"waveform store, from {kind}": {"real_time": next(speeds), "two_workers": 900.0, "efficiency": 0.9}
             for kind in ("wav", "m4a")}
    rates |= {f"{name}, {how}": {"real_time": next(speeds), "two_workers": 300.0, "efficiency": 0.9}
              for name in ("compact", "boccio") for how in ("recorded", "changed, family I", "changed, family II")}
    text = extrapolation.page(rates, "a computer; commit 1234567", "an hour of speech")
    assert "extrapolation" in text and "commit 1234567" in text and "Not measured" in text
    for name, hours in (("VoxCeleb1", 352), ("VoxCeleb2", 2442)):
        lines = [line for line in text.split(f"## {name}")[1].split("## ")[0].splitlines() if line.startswith("| ")]
        cells = {line.split(" | ")[0].strip("| *"): [float(cell.strip("| *").replace(",", "") or "nan")
                                                    for cell in line.split(" | ")[1:]] for line in lines[2:]}
        store = cells[next(step for step in cells if step.startswith("waveform"))]
        assert store[3] == round(hours * 3600 * 32_000 / 1e9, 1)
        for front_end in ("compact", "boccio"):
            parts = [store, cells[f"{front_end}, recorded"], cells[f"{front_end}, changed, family I"]]
            total = cells[f"store and {front_end}, recorded and changed (I)"]
            assert total[0] == pytest.approx(sum(part[0] for part in parts), abs=0.02)
            assert total[3] == pytest.approx(sum(part[3] for part in parts), abs=0.2)
            per_clip = 77_056 / 3 if front_end == "boccio" else 64 * 151 * 2 / 1.5
            upper = hours * 3600 * per_clip / 1e9  # were no utterance to lose its end
            assert 0.7 * upper < cells[f"{front_end}, recorded"][3] < upper


def test_slopes_tell_flat_from_linear_and_worse(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import scale_figure

    sizes = [10_000, 33_000, 106_000, 346_000, 1_128_246]
    for power, name in ((0, "flat"), (1, "linear or less"), (2, "MORE THAN LINEAR")):
        steepness = scale_figure.slope(sizes, [0.1 * (size / 1e4) ** power for size in sizes])
        assert steepness == pytest.approx(power, abs=1e-9)
        assert scale_figure.called(steepness) == name


def test_a_section_of_a_page_replaces_its_own(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    from sparse_corpora import put_section

    page = tmp_path / "page.md"
    put_section(page, "# Top\n\nfirst")
    put_section(page, "## Part\n\n| a |")
    put_section(page, "# Top\n\nsecond\n")
    assert page.read_text() == "# Top\n\nsecond\n\n## Part\n\n| a |\n"


def test_sparse_corpora_are_read_as_the_workbook_reads_its_own(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("SPEAKERLIB_DATA", str(tmp_path))
    import numpy as np
    from sparse_corpora import make_table, write_corpus, write_frames

    from speakerlib.data.corpora import open_corpus
    from speakerlib.data.features import FeatureStore, segment_table

    table, lengths = make_table(20, 40, 1200, np.random.default_rng(0))
    write_corpus("made", table, lengths)
    corpus = open_corpus("made")  # checks the sizes of its shards, and their checksums
    assert corpus.table["speaker"].nunique() == 20 and (corpus.waveforms.lengths == lengths).all()
    assert not corpus.waveforms.read(1199).any()
    store = FeatureStore.open(write_frames("made", "boccio", 3.0))
    assert len(store) == len(segment_table(corpus, 3.0)) > 1200
    assert store.read([0, len(store) - 1]).shape == (2, 1, 256, 301)


def test_the_machine_is_described_and_not_named(harness):
    import platform

    text = harness.machine()
    assert "cores" in text and "GB" in text
    assert platform.node() not in text.split() and str(ROOT) not in text

"""The chapters as a story: each says what it is for, lists its sections, and leads to the one before and after."""

import json
import re

import pytest

from speakerlib.data.files import project_folder

PATHS = sorted((project_folder() / "notebooks").glob("*.ipynb"))
STEMS = [path.stem for path in PATHS]
CELLS = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in PATHS}
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
each_chapter = pytest.mark.parametrize("chapter", STEMS)


def prose(chapter):
    """The sources of a chapter's markdown cells."""
    return ["".join(cell["source"]) for cell in CELLS[chapter] if cell["cell_type"] == "markdown"]


def title(chapter):
    """`04 Pretraining ...`, as other chapters call it."""
    return prose(chapter)[0].splitlines()[0].removeprefix("# ").replace(" · ", " ")


@each_chapter
def test_a_chapter_opens_with_what_for_whom_from_what_and_how_long(chapter):
    assert len(PATHS) >= 11
    first, *rest = prose(chapter)[0].split("\n\n")
    assert re.fullmatch(rf"# {chapter[:2]} · [^\n]+", first)
    (shows,) = [paragraph for paragraph in rest if paragraph.startswith("**What it shows.** ")]
    assert re.search(r"\. For \w", shows)
    (needs,) = [paragraph for paragraph in rest if paragraph.startswith("**Needs** ")]
    assert "**Leaves behind** " in needs and re.search(r"\*\*Takes\*\* [^.]*(second|minute)", needs)


@each_chapter
def test_its_contents_are_its_sections_in_order(chapter):
    headings = [line[3:] for text in prose(chapter) for line in text.splitlines() if line.startswith("## ")]
    (contents,) = [part for part in prose(chapter)[0].split("\n\n") if part.startswith("**Contents:** ")]
    listed = LINK.findall(contents)
    assert [text for text, _ in listed] == headings and len(set(headings)) == len(headings) >= 4
    assert [target for _, target in listed] == ["#" + heading.replace(" ", "-") for heading in headings]


@each_chapter
def test_it_leads_to_its_neighbours_by_their_names_above_and_below(chapter):
    place = STEMS.index(chapter)
    neighbours = STEMS[max(place - 1, 0):place] + STEMS[place + 1:place + 2]
    way = prose(chapter)[0].rstrip().splitlines()[-1]
    assert dict(LINK.findall(way)) | {title(each): f"{each}.ipynb" for each in neighbours} == dict(LINK.findall(way))
    assert way.startswith("← ") == (place > 0) and way.endswith(" →") == (place < len(STEMS) - 1)
    assert CELLS[chapter][-1]["cell_type"] == "markdown"
    if place < len(STEMS) - 1:
        assert f"Next: [{title(STEMS[place + 1])}]({STEMS[place + 1]}.ipynb)" in prose(chapter)[-1]


@each_chapter
def test_its_links_lead_somewhere(chapter):
    for _, target in LINK.findall(re.sub(r"`[^`]*`", "", "\n".join(prose(chapter)))):
        assert target.startswith("#") or target.removesuffix(".ipynb") in STEMS, target


@each_chapter
def test_what_is_drawn_at_random_has_a_seed_that_is_seen(chapter):
    (parameters,) = [cell for cell in CELLS[chapter] if "parameters" in cell["metadata"].get("tags", ())]
    assert re.search(r"^seed = \d+", "".join(parameters["source"]), re.M) or "with seed 0" in prose(chapter)[0]


@pytest.mark.parametrize("chapter, equations, reference", [
    ("04_mae_pretraining", 2, "He et al. 2022"),
    ("05_protonet_training", 2, "Snell et al. 2017"),
    ("06_short_utterance_training", 3, "Kye et al. (2020"),
    ("07_verification_and_identification", 2, "Matějka et al. 2017"),
    ("10_voice_training", 2, "Wang et al. 2018"),
])
def test_losses_and_scores_are_equations_with_their_source(chapter, equations, reference):
    text = "\n".join(prose(chapter))
    assert len(re.findall(r"\$\$.+?\$\$", text, re.S)) >= equations and reference in text

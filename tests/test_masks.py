"""Masks: exact counts, whole units, uniform coverage, and the same draw for the same seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerlib.models.masks import MASKS, UNITS, draw_masks, unit_size

SIZES = st.tuples(st.integers(32, 260), st.integers(32, 310))


def draw(mask, batch, size, mask_ratio, seed=0, unit=None):
    return draw_masks(mask, batch, *size, mask_ratio, torch.Generator().manual_seed(seed), unit)


def units_of(clip, mels, frames):
    """The removed share of each unit of one clip (num_mels, num_frames), by loops; the last ones take the rest."""
    rows, columns = clip.shape[0] // mels, clip.shape[1] // frames
    tops = [row * mels for row in range(rows)] + [clip.shape[0]]
    lefts = [column * frames for column in range(columns)] + [clip.shape[1]]
    return [clip[tops[i]:tops[i + 1], lefts[j]:lefts[j + 1]].float().mean().item()
            for i in range(rows) for j in range(columns)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(UNITS)), SIZES, st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_every_clip_loses_exactly_the_asked_number_of_whole_units(mask, size, mask_ratio, seed):
    mels, frames = unit_size(mask, *size)
    units = (size[0] // mels) * (size[1] // frames)
    if not 0 < round(mask_ratio * units) < units:
        with pytest.raises(ValueError, match=f"{units} {mask}"):
            draw(mask, 3, size, mask_ratio, seed)
        return
    masks = draw(mask, 3, size, mask_ratio, seed)
    assert masks.shape == (3, 1, *size) and masks.dtype == torch.bool
    for clip in masks[:, 0]:
        shares = units_of(clip, mels, frames)
        assert len(shares) == units and set(shares) == {0.0, 1.0}  # units are disjoint and never cut
        assert sum(shares) == round(mask_ratio * units)


@pytest.mark.parametrize(("mask_ratio", "strips", "boxes"),
                         [(0.55, 16, 88), (0.65, 20, 104), (0.75, 22, 120), (0.85, 26, 136), (0.95, 28, 152)])
def test_the_counts_and_sizes_are_the_published_ones(mask_ratio, strips, boxes):
    clip = draw("strips", 1, (256, 301), mask_ratio)[0, 0]
    assert (clip == clip[:1]).all()  # over all mels
    columns = clip[0].float()
    assert sum(columns[10 * i:10 * i + 10 if i < 29 else 301].mean() == 1 for i in range(30)) == strips
    assert sum(units_of(draw("boxes", 1, (256, 301), mask_ratio)[0, 0], 16, 30)) == boxes


@pytest.mark.parametrize("mask", MASKS)
def test_every_place_is_removed_equally_often(mask):
    share = draw(mask, 4000, (64, 151), 0.6).float().mean(dim=(0, 1))
    expected = share.mean()  # four times the standard error of a share of 4,000
    assert (share - expected).abs().max() < 4 * (0.25 / 4000) ** 0.5 + 0.03 * (mask == "mixed")


@pytest.mark.parametrize("mask", MASKS)
def test_the_generator_alone_decides(mask):
    torch.manual_seed(1)
    first = draw(mask, 4, (64, 151), 0.5, seed=7)
    torch.manual_seed(2)
    assert torch.equal(first, draw(mask, 4, (64, 151), 0.5, seed=7))
    assert not torch.equal(first, draw(mask, 4, (64, 151), 0.5, seed=8))
    assert not torch.equal(first[0], first[1])  # each clip has its own


def test_mixed_masks_are_of_all_kinds():
    strips = (draw("mixed", 60, (64, 151), 0.5)[:, 0] == draw("mixed", 60, (64, 151), 0.5)[:, 0, :1]).all((1, 2))
    assert 8 < strips.sum() < 35  # a third of them


def test_units_may_have_another_size():
    clip = draw("boxes", 1, (64, 151), 0.5, unit=(8, 20))[0, 0]
    assert sum(units_of(clip, 8, 20)) == 28
    assert (unit_size("strips", 64, 151, (8, 20))) == (64, 20)  # strips span all mels


@pytest.mark.parametrize("mask_ratio", [0, 1, -0.1, 1.5, float("nan"), 0.01, 0.99])
def test_ratios_that_remove_nothing_or_everything_are_refused(mask_ratio):
    with pytest.raises(ValueError, match=r"a clip has 20 boxes, and from 1 to 19"):
        draw("boxes", 1, (64, 151), mask_ratio)


def test_unknown_masks_and_units_too_large_are_refused():
    with pytest.raises(ValueError, match="'stripes': expected one of strips, boxes, patches, mixed"):
        draw("stripes", 1, (64, 151), 0.5)
    with pytest.raises(ValueError, match="16 mels x 30 frames do not fit into 64 mels x 20"):
        draw("boxes", 1, (64, 20), 0.5)

"""What may become of a pretrained encoder: blocks stay or learn slower, and statistics come from where it is said."""

from types import SimpleNamespace

import pytest
import torch

from speakerlib.experiments.fine_tuning import (
    block_of,
    check_fine_tuning,
    freeze,
    hold_statistics,
    parameter_groups,
    take_statistics,
)
from speakerlib.models.encoders import ENCODERS, ConvEncoder


def encoder(seed=0):
    torch.manual_seed(seed)
    return ConvEncoder(64, 64)


def settings(**changed):
    plain = {"encoder": "conv6", "init": "run", "frozen_blocks": 0, "norm_statistics": "batch"}
    return SimpleNamespace(**{**plain, **changed})


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_belongs_to_a_block_in_order(name):
    built = ENCODERS[name](64, 151)
    numbers = list(block_of(built).values())
    assert numbers == sorted(numbers) and set(numbers) == set(range(len(built.blocks)))


@pytest.mark.parametrize("frozen", [0, 1, 3, 5])
def test_frozen_blocks_keep_their_weights_and_the_others_learn(frozen):
    model = encoder()
    before = {name: value.clone() for name, value in model.named_parameters()}
    freeze(model, frozen)
    optimizer = torch.optim.Adam(parameter_groups(model, 0.01, 1.0))
    model(torch.randn(8, 1, 64, 64)).square().sum().backward()
    optimizer.step()
    for name, value in model.named_parameters():
        if name.endswith("conv.bias"):  # the normalisation behind it takes it away: no gradient but rounding
            continue
        assert torch.equal(value, before[name]) == (block_of(model)[name] < frozen), name


def test_blocks_learn_slower_the_nearer_they_are_to_the_input():
    rates = [group["lr"] for group in parameter_groups(encoder(), 1e-3, 0.5)]
    assert rates == pytest.approx([1e-3 * 0.5**power for power in (5, 4, 3, 2, 1, 0)])
    assert sum(p.numel() for group in parameter_groups(encoder(), 1, 1) for p in group["params"]) == 134_688


def test_statistics_are_those_of_the_clips_and_stay_when_held():
    model, clips = encoder(), torch.randn(4, 6, 1, 64, 64) * 3 + 1
    weights = {name: value.clone() for name, value in model.named_parameters()}
    conv = model.blocks[0].conv
    first = torch.nn.functional.conv2d(clips.flatten(0, 1), conv.weight, conv.bias, padding=1)
    take_statistics(model.eval(), clips)
    norm = model.blocks[0].norm
    torch.testing.assert_close(norm.running_mean, first.mean(dim=(0, 2, 3)))
    within = torch.stack([part.var(dim=(0, 2, 3)) for part in first.split(6)]).mean(dim=0)
    torch.testing.assert_close(norm.running_var, within)
    assert not model.training and norm.momentum == 0.1
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())

    held = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    hold_statistics(model)
    model(torch.randn(6, 1, 64, 64) * 9)
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("changed, message", [
    ({"frozen_blocks": 6}, "has 6 blocks.*Use 0 to 5"),
    ({"frozen_blocks": 1, "init": "scratch"}, "would keep random weights"),
    ({"norm_statistics": "pretrained", "init": "scratch"}, "there are none"),
])
def test_what_cannot_be_followed_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        check_fine_tuning(encoder(), settings(**changed))
    check_fine_tuning(encoder(), settings(frozen_blocks=5, norm_statistics="pretrained"))


def test_statistics_of_an_encoder_without_batch_norm_are_refused():
    with pytest.raises(ValueError, match="has no BatchNorm"):
        check_fine_tuning(SimpleNamespace(blocks=[1, 2], modules=list), settings(norm_statistics="unlabelled"))

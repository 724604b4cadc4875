"""Residual networks: their sizes, their gradients, and what is read from the authors' checkpoints."""

import math
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speakerlib.models.encoders import count_parameters
from speakerlib.models.resnet import RESNETS, STRIDE, ResNetEncoder, load_kye_checkpoint
from speakerlib.models.short_utterance_objectives import ShortUtteranceObjective


class TheirBlock(nn.Module):
    """A residual block with the names and the place of the stride that torchvision and the authors have."""

    def __init__(self, incoming, channels, stride, bottleneck):
        super().__init__()
        outgoing = channels * 4 if bottleneck else channels
        sizes = [(incoming, channels, 1), (channels, channels, 3), (channels, outgoing, 1)] if bottleneck else [
            (incoming, channels, 3), (channels, channels, 3)]
        self.count, self.downsample = len(sizes), None
        for place, (before, after, size) in enumerate(sizes, 1):
            step = stride if place == (2 if bottleneck else 1) else 1
            self.add_module(f"conv{place}", nn.Conv2d(before, after, size, step, size // 2, bias=False))
            self.add_module(f"bn{place}", nn.BatchNorm2d(after))
        if stride != 1 or incoming != outgoing:
            self.downsample = nn.Sequential(nn.Conv2d(incoming, outgoing, 1, stride, bias=False),
                                            nn.BatchNorm2d(outgoing))

    def forward(self, values):
        inner = values
        for place in range(1, self.count + 1):
            inner = getattr(self, f"bn{place}")(getattr(self, f"conv{place}")(inner))
            inner = F.relu(inner) if place < self.count else inner
        return F.relu(inner + (values if self.downsample is None else self.downsample(values)))


class TheirNetwork(nn.Module):
    """The state dict, and the computation, of the network in the authors' checkpoints."""

    def __init__(self, name, num_speakers=7, width=1):
        super().__init__()
        bottleneck, counts = RESNETS[name]
        net = self.pretrained = nn.Module()
        net.conv1, net.bn1 = nn.Conv2d(1, int(32 * width), 7, 1, 3, bias=False), nn.BatchNorm2d(int(32 * width))
        incoming = int(32 * width)
        for stage, (channels, count) in enumerate(zip((32, 64, 128, 256), counts), 1):
            blocks, channels = [], int(channels * width)
            for place in range(count):
                blocks.append(TheirBlock(incoming, channels, 2 if stage > 1 and place == 0 else 1, bottleneck))
                incoming = channels * (4 if bottleneck else 1)
            net.add_module(f"layer{stage}", nn.Sequential(*blocks))
        net.avg_bn = nn.BatchNorm1d(incoming)
        self.fc1 = nn.Parameter(torch.randn(incoming, incoming) / 16)
        self.weight = nn.Parameter(torch.randn(num_speakers, incoming))
        for module in self.modules():  # statistics that a swap of two layers would show
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)

    def forward(self, frames):
        net = self.pretrained
        values = F.relu(net.bn1(net.conv1(frames)))
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            values = stage(values)
        return F.linear(F.relu(net.avg_bn(values.mean(dim=(2, 3)))), self.fc1)


def save(path, network, **options):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    torch.save({"epoch": 12, "state_dict": network.state_dict(), "optimizer": optimizer.state_dict()}, path, **options)
    return path


@pytest.mark.parametrize("name, dim, parameters", [
    # The sizes follow from the layers: He et al.'s counts of blocks, half their channels, a 7 x 7 x 1 stem, and a head
    # of dim BatchNorm values twice and dim x dim.
    ("resnet18", 256, 2_861_792), ("resnet34", 256, 5_390_688), ("resnet50", 1024, 6_940_128),
    ("resnet101", 1024, 11_701_216), ("resnet152", 1024, 15_623_648)])
def test_every_depth_has_the_size_that_its_layers_add_up_to(name, dim, parameters):
    encoder, theirs = ResNetEncoder(name), TheirNetwork(name, num_speakers=1)
    assert encoder.dim == dim
    assert count_parameters(encoder) == count_parameters(theirs) - dim == parameters
    assert encoder.eval()(torch.randn(1, 1, 40, 100)).shape == (1, dim)


@pytest.mark.parametrize("width, dim", [(0.25, 64), (0.5, 128), (2.0, 512)])
def test_width_multiplies_every_channel(width, dim):
    encoder = ResNetEncoder("resnet18", width=width)
    assert encoder.dim == dim and encoder.head.weight.shape == (dim, dim)
    assert encoder.conv1.out_channels == 32 * width
    ratio = count_parameters(encoder) / count_parameters(ResNetEncoder("resnet18"))
    assert ratio == pytest.approx(width ** 2, rel=0.05)


@pytest.mark.parametrize("frames", [STRIDE, 9, 100, 151, 199, 731])
def test_segments_of_every_length_from_the_stride_on_give_an_embedding(frames):
    encoder = ResNetEncoder("resnet18", width=0.25)
    assert encoder(torch.randn(2, 1, 40, frames)).shape == (2, 64)


@pytest.mark.parametrize("shape", [(2, 1, 40, 7), (2, 1, 64, 100), (2, 40, 100), (2, 2, 40, 100)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"built for \(batch, 1, 40, frames\) with at least 8 frames"):
        ResNetEncoder("resnet18", width=0.25)(torch.randn(shape))


@pytest.mark.parametrize("wrong, message", [
    ({"name": "resnet35"}, "'resnet35': expected one of resnet18, resnet34"), ({"width": 0.0}, "width=0.0"),
    ({"width": float("nan")}, "width=nan"), ({"num_mels": 4}, "at least 8")])
def test_sizes_that_leave_nothing_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ResNetEncoder(**wrong)


def test_the_average_is_over_all_that_is_left_and_the_head_is_linear():
    """In eval mode, without the stages' say: an embedding is head(relu(norm(mean)))."""
    encoder = ResNetEncoder("resnet18", width=0.25).eval()
    encoder.stages = nn.Identity()
    encoder.head_norm, encoder.head = nn.BatchNorm1d(8).eval(), nn.Linear(8, 3, bias=False)
    frames = torch.randn(2, 1, 40, 50)
    before = torch.relu(encoder.norm1(encoder.conv1(frames)))
    mean = before.mean(dim=(2, 3)) / math.sqrt(1 + 1e-5)
    assert torch.allclose(encoder(frames), mean @ encoder.head.weight.T, atol=1e-5)


# A strided 1 x 1 convolution of few channels corrupts memory in its gradient (channels_last, oneDNN 3.12): a crash
# would take the other tests along, so the network is trained in a process of its own.

TRAIN = """
import torch
from speakerlib.models.resnet import ResNetEncoder
torch.set_num_threads(2)
torch.manual_seed(0)
plain = ResNetEncoder("resnet18", width=0.25)
frames = torch.randn(8, 1, 40, 100)
fast = ResNetEncoder("resnet18", width=0.25)
fast.load_state_dict(plain.state_dict())
fast = fast.to(memory_format=torch.channels_last)
for _ in range(3):
    for encoder in (plain, fast):
        encoder.zero_grad()
        encoder(frames).square().mean().backward()
    for (name, one), two in zip(plain.named_parameters(), fast.parameters()):
        apart = (one.grad - two.grad).norm() / one.grad.norm()
        assert apart < 0.05, (name, apart)  # batch normalisation adds up less exactly there; damage is far larger
print("the same")
"""


@pytest.mark.slow
def test_gradients_of_a_narrow_network_survive_channels_last():
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "the same"), done.stderr[-500:]


def train(encoder, steps, way=5, frames=64, learning_rate=0.05):
    """Losses of prototypical + global classification on one fixed episode of made-up speakers."""
    torch.manual_seed(0)
    encoder.train()
    voices = 3 * torch.randn(way, 1, 1, 40, 1)
    support, query = (voices + torch.randn(way, each, 1, 40, length) for each, length in ((1, frames), (2, 32)))
    objective = ShortUtteranceObjective("prototypical", way, encoder.dim)
    parameters = [*encoder.parameters(), *objective.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, nesterov=True)
    losses = []
    for _ in range(steps):
        embeddings = [encoder(part.flatten(0, 1)).unflatten(0, (way, -1)) for part in (support, query)]
        loss = objective(*embeddings, torch.arange(way)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)
    return losses


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_narrow_network_learns_a_fixed_episode(name):
    losses = train(ResNetEncoder(name, width=0.25), steps=12)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_the_full_resnet34_learns_a_fixed_episode():
    losses = train(ResNetEncoder("resnet34"), steps=10)
    assert losses[-1] < 0.5 * losses[0]


# The authors' checkpoints


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_checkpoint_gives_the_embeddings_of_the_network_that_saved_it(tmp_path, name, options):
    torch.manual_seed(1)
    theirs = TheirNetwork(name)
    path = save(tmp_path / "checkpoint_012.pth", theirs, **options)
    encoder, speakers, epoch = load_kye_checkpoint(path, name)
    frames = torch.randn(3, 1, 40, 100)
    with torch.no_grad():
        assert torch.allclose(encoder(frames), theirs.eval()(frames), rtol=1e-4, atol=1e-5)
    assert torch.equal(speakers, theirs.weight) and epoch == 12
    assert not encoder.training


def test_a_checkpoint_of_data_parallel_and_of_an_old_torch_is_read(tmp_path):
    theirs = TheirNetwork("resnet18")
    state = OrderedDict((f"module.{name}", value) for name, value in theirs.state_dict().items()
                        if not name.endswith("num_batches_tracked"))
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {}}, tmp_path / "old.pth")
    encoder, _, _ = load_kye_checkpoint(tmp_path / "old.pth", "resnet18")
    frames = torch.randn(2, 1, 40, 80)
    assert torch.allclose(encoder(frames), theirs.eval()(frames), rtol=1e-4, atol=1e-5)


def test_every_mismatch_is_named(tmp_path):
    theirs = TheirNetwork("resnet18")
    theirs.fc1 = nn.Parameter(torch.randn(256, 128))
    theirs.extra = nn.Parameter(torch.zeros(1))
    del theirs.pretrained.avg_bn, theirs.weight
    with pytest.raises(ValueError, match="does not fit resnet18") as caught:
        load_kye_checkpoint(save(tmp_path / "other.pth", theirs), "resnet18")
    for part in ("head_norm.weight is missing", "extra is unknown", "weight (one row a speaker) is missing",
                 "head.weight has shape (256, 128), expected (256, 256)", "one of resnet18, resnet34"):
        assert part in str(caught.value)


def test_a_checkpoint_of_another_depth_is_refused_with_a_few_names(tmp_path):
    path = save(tmp_path / "checkpoint.pth", TheirNetwork("resnet18"))
    with pytest.raises(ValueError, match=r"does not fit resnet34: stages.0.2.convs.0.weight is missing.*and \d+ more"):
        load_kye_checkpoint(path, "resnet34")


@pytest.mark.parametrize(("name", "width"), [("resnet18", 1), ("resnet34", 0.25), ("resnet34", 2), ("resnet50", 0.125),
                                             ("resnet101", 0.25), ("resnet152", 0.0625)])
def test_depth_and_width_are_those_of_the_checkpoint(tmp_path, name, width):
    torch.manual_seed(0)
    theirs = TheirNetwork(name, width=width)
    encoder, _, _ = load_kye_checkpoint(save(tmp_path / "checkpoint.pth", theirs))
    assert (encoder.name, encoder.width, encoder.dim) == (name, width, theirs.fc1.shape[0])
    frames = torch.randn(2, 1, 40, 60)
    with torch.no_grad():
        assert torch.allclose(encoder(frames), theirs.eval()(frames), rtol=1e-3, atol=1e-4)


def test_blocks_that_no_resnet_has_are_refused(tmp_path):
    theirs = TheirNetwork("resnet18", width=0.25)
    theirs.pretrained.layer2.append(TheirBlock(16, 16, 1, False))
    with pytest.raises(ValueError, match=r"fits no ResNet: its 4 stages have 2, 3, 2, 2 blocks.*resnet34: 3, 4, 6, 3"):
        load_kye_checkpoint(save(tmp_path / "checkpoint.pth", theirs))
    torch.save({"epoch": 1, "state_dict": {"weight": torch.zeros(3, 4)}, "optimizer": {}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="fits no ResNet: its 4 stages have 0, 0, 0, 0 blocks"):
        load_kye_checkpoint(tmp_path / "other.pth")
    theirs = TheirNetwork("resnet18", width=0.25)
    theirs.pretrained.layer1[1] = TheirBlock(8, 16, 1, False)
    with pytest.raises(ValueError, match=r"not fit resnet18: .*stages.0.1.convs.0.weight has shape \(16, 8, 3, 3\)"):
        load_kye_checkpoint(save(tmp_path / "odd.pth", theirs))


class Harmful:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 1, "state_dict": Harmful(), "optimizer": {}}, "bad.pth")
    with pytest.raises(ValueError, match="cannot be read as weights alone.*was not run"):
        load_kye_checkpoint("bad.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 torn"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "torn.pth").write_bytes(content)
    with pytest.raises(ValueError, match="torn.pth cannot be read as weights alone"):
        load_kye_checkpoint(tmp_path / "torn.pth")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_kye_checkpoint(tmp_path / "absent.pth")


def test_a_file_of_other_tensors_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"holds \['weights'\]; expected epoch, state_dict and optimizer"):
        load_kye_checkpoint(tmp_path / "other.pth")

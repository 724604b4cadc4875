"""ResNets of Kye et al. (2020): residual networks over a segment of any length, with their channels and head."""

import pickle
import re
from pathlib import Path

import torch
from torch import nn

from speakerlib.models.norms import BatchNorm2d

RESNETS = {  # name: (bottleneck blocks, blocks of each stage), as He et al. 2016, table 1
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
CHANNELS = (32, 64, 128, 256)
EXPANSION = 4  # of a bottleneck's channels
STRIDE = 8  # frames, and mels, that become one before the average


class ResNetEncoder(nn.Module):
    """A convolution 7 x 7 without stride or pooling, four stages, the average over all that is left, BatchNorm, ReLU
    and a square linear map without bias, whose output is the embedding.

    forward: (batch, 1, num_mels, frames), from 8 frames on -> (batch, dim), dim = 256 (1024 for bottlenecks) * width.
    width multiplies every number of channels. Raises ValueError for an unknown name, and for a width or num_mels that
    leaves nothing.
    """

    def __init__(self, name="resnet34", num_mels=40, width=1.0):
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"encoder={name!r}: expected one of {', '.join(RESNETS)}.")
        if not 1 / CHANNELS[0] <= width <= 8:
            raise ValueError(f"width={width!r}: expected 1/{CHANNELS[0]} to 8; 1 has {CHANNELS[0]} to {CHANNELS[-1]} "
                             "channels, 0.25 a quarter of that.")
        if num_mels < STRIDE:
            raise ValueError(f"num_mels={num_mels}: the network needs at least {STRIDE}. Use a front end with more.")
        bottleneck, counts = RESNETS[name]
        channels = [round(width * each) for each in CHANNELS]
        self.name, self.num_mels, self.width = name, int(num_mels), width
        self.conv1 = nn.Conv2d(1, channels[0], kernel_size=7, padding=3, bias=False)
        self.norm1 = BatchNorm2d(channels[0])
        self.stages = nn.Sequential()
        incoming = channels[0]
        for number, (each, count) in enumerate(zip(channels, counts)):
            outgoing = each * EXPANSION if bottleneck else each
            strides = [2 if number else 1] + [1] * (count - 1)
            self.stages.append(nn.Sequential(*(
                ResidualBlock(outgoing if place else incoming, each, outgoing, stride, bottleneck)
                for place, stride in enumerate(strides))))
            incoming = outgoing
        self.dim = incoming
        self.head_norm = nn.BatchNorm1d(self.dim)
        self.head = nn.Linear(self.dim, self.dim, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.xavier_uniform_(self.head.weight)

    def forward(self, frames):
        if frames.ndim != 4 or frames.shape[1:3] != (1, self.num_mels) or frames.shape[3] < STRIDE:
            raise ValueError(f"The encoder was built for (batch, 1, {self.num_mels}, frames) with at least {STRIDE} "
                             f"frames, its stride, and got {tuple(frames.shape)}. Use longer segments, or build it "
                             "with the front end of these features.")
        values = self.stages(torch.relu(self.norm1(self.conv1(frames))))  # (batch, dim, mels / 8, frames / 8)
        return self.head(torch.relu(self.head_norm(values.flatten(2).mean(dim=2))))


class ResidualBlock(nn.Module):
    """Two convolutions 3 x 3, or 1 x 1, 3 x 3, 1 x 1 for a bottleneck, beside a shortcut (He et al. 2016, fig. 5).

    The stride is that of the first convolution 3 x 3. Where the shape changes the shortcut is a convolution 1 x 1.
    """

    def __init__(self, incoming, channels, outgoing, stride, bottleneck):
        super().__init__()
        shapes = [(incoming, channels, 1, 1), (channels, channels, 3, stride), (channels, outgoing, 1, 1)]
        if not bottleneck:
            shapes = [(incoming, channels, 3, stride), (channels, outgoing, 3, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, size, step, size // 2, bias=False)
                                   for before, after, size, step in shapes)
        self.norms = nn.ModuleList(BatchNorm2d(after) for _, after, _, _ in shapes)
        self.stride, self.shortcut = stride, nn.Identity()
        if stride != 1 or incoming != outgoing:
            self.shortcut = nn.Sequential(nn.Conv2d(incoming, outgoing, 1, bias=False), BatchNorm2d(outgoing))

    def forward(self, values):
        inner = values
        for place, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            inner = norm(conv(torch.relu(inner) if place else inner))
        # The stride is taken here, not by the convolution 1 x 1: the same numbers, but oneDNN 3.12 writes past its
        # buffer in the gradient of a strided one of few channels in channels_last (uxlfoundation/oneDNN issue 6035).
        return torch.relu(inner + self.shortcut(values[:, :, ::self.stride, ::self.stride]))


def load_kye_checkpoint(path, encoder=None):
    """(encoder in eval mode, speaker weights (speakers, dim), epochs trained) of a checkpoint of the authors' code.

    path: a file {epoch, state_dict, optimizer} written by torch.save, also by DataParallel; only tensors are read from
    it, and no code in it is run. encoder: a name of RESNETS, of full width; None finds depth and width by the blocks
    and channels there. Raises FileNotFoundError; ValueError if it is something else, if no ResNet has these blocks, or
    for names that are missing, unknown or of another shape, all of them named.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; expected a file such as checkpoint_100.pth, as the "
                                "authors' train.py saves it.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read as weights alone ({reason}); expected a checkpoint by torch.save "
                         "that holds tensors and numbers only. It was not run.") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        seen = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path} holds {seen}; expected epoch, state_dict and optimizer.")
    found = {our_name(name): value for name, value in checkpoint["state_dict"].items()}
    speakers = found.pop("weight", None)
    module = ResNetEncoder(encoder) if encoder else _encoder_of(path, found)
    _require_fit(path, module.name, found, speakers, module)
    module.load_state_dict({**module.state_dict(), **found})
    return module.eval(), speakers, checkpoint.get("epoch")


def our_name(name):
    """The name that a parameter of the authors' network has in ResNetEncoder; `weight` is the speakers'."""
    name = re.sub(r"^(module\.)?(pretrained\.)?", "", name)
    name = re.sub(r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.", name)
    name = re.sub(r"(?<=\.)(conv|bn)(\d)\.", lambda match: f"{_KINDS[match[1]]}.{int(match[2]) - 1}.", name)
    for theirs, ours in _NAMES.items():
        name = re.sub(theirs, ours, name)
    return name


def _encoder_of(path, found):
    """An encoder of the depth and width that these names and shapes have; ValueError if there is none."""
    blocks = {match.groups() for name in found if (match := re.match(r"stages\.(\d+)\.(\d+)\.convs\.0\.weight$", name))}
    counts = tuple(sum(stage == str(number) for stage, _ in blocks) for number in range(len(CHANNELS)))
    last = f"stages.{len(CHANNELS) - 1}.0.convs"
    shape = (f"{last}.2.weight" in found, counts)
    channels = (*_shape(found.get(f"{last}.0.weight")), 0)[0]
    name = next((name for name, each in RESNETS.items() if each == shape), None)
    if name is None or not 1 / CHANNELS[0] <= channels / CHANNELS[-1] <= 8:
        raise ValueError(f"{path} fits no ResNet: its 4 stages have {', '.join(map(str, counts))} "
                         f"{'bottleneck ' if shape[0] else ''}blocks, the last of {channels} channels (here "
                         f"{CHANNELS[-1]} times a width of 1/{CHANNELS[0]} to 8); expected the blocks of one of " +
                         "; ".join(f"{name}: {', '.join(map(str, each))}" for name, (_, each) in RESNETS.items()) + ".")
    return ResNetEncoder(name, width=channels / CHANNELS[-1])


_KINDS = {"conv": "convs", "bn": "norms"}
_NAMES = {r"^bn1\.": "norm1.", r"^avg_bn\.": "head_norm.", r"^fc1$": "head.weight", r"\.downsample\.": ".shortcut."}


def _require_fit(path, encoder, found, speakers, module):
    """ValueError that names whatever is missing, unknown or of another shape."""
    expected = module.state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}  # torch 0.4.0 had none
    faults = [f"{name} is missing" for name in expected if name not in found and name not in counters]
    faults += [f"{name} is unknown" for name in found if name not in expected]
    faults += [f"{name} has shape {_shape(found[name])}, expected {tuple(value.shape)}"
               for name, value in expected.items() if name in found and _shape(found[name]) != tuple(value.shape)]
    if speakers is None:
        faults.append("weight (one row a speaker) is missing")
    elif len(_shape(speakers)) != 2 or speakers.shape[1] != module.dim:
        faults.append(f"weight has shape {_shape(speakers)}, expected (speakers, {module.dim})")
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(f"{path} does not fit {encoder}: {'; '.join(faults[:8])}{more}. It has to be a checkpoint "
                         f"of the authors' code, of the encoder that is named, if one is: one of {', '.join(RESNETS)}.")


def _shape(value):
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()

"""The encoder of chapter 09: a small residual network over clips of any length, that hears each at several warps."""

import torch
from torch import nn
from torch.nn import functional

from speakerlib.models.norms import BatchNorm2d

POOLINGS = ("attentive", "mean")
CHANNELS, WIDTH = (16, 24, 32, 48), 88
WARPS = (0.9, 1.0, 1.11)  # times all frequencies
STRIDES = ((1, 1), (2, 1), (2, 2), (1, 1))  # of the blocks, in mels and frames; the stem has halved both


class VoiceEncoder(nn.Module):
    """Stem, four residual blocks with squeeze and excitation, attentive mean and deviation over time, a linear map.

    forward: (batch, 1, num_mels, frames), any number of frames, each mel's mean over them removed ->
    (batch, dim), float32, not normalised. Pooling is over frames alone (attentive statistics, Okabe et al. 2018), so
    that nothing is tied to a length. channels: of the four blocks; width: of what is pooled; pooling: "attentive", or
    "mean" (every frame counts alike). 132,804 parameters with the defaults.
    """

    def __init__(self, num_mels=64, channels=CHANNELS, width=WIDTH, dim=128, pooling="attentive"):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}: expected one of {', '.join(POOLINGS)}.")
        self.num_mels, self.channels, self.width, self.dim = int(num_mels), tuple(channels), int(width), int(dim)
        self.pooling = pooling
        self.stem = nn.Conv2d(1, channels[0], kernel_size=5, stride=2, padding=2, bias=False)
        self.stem_norm = BatchNorm2d(channels[0])
        pairs = zip((channels[0], *channels[:-1]), channels, STRIDES, strict=True)
        self.blocks = nn.Sequential(*(ResidualBlock(*pair) for pair in pairs))
        bands = -(-self.num_mels // 2)
        for stride, _ in STRIDES:
            bands = -(-bands // stride)
        self.bands_to_width = nn.Conv1d(channels[-1] * bands, width, kernel_size=1, bias=False)
        self.width_norm = nn.BatchNorm1d(width)
        if pooling == "attentive":
            self.attention = nn.Sequential(nn.Conv1d(width, 32, 1), nn.Tanh(), nn.Conv1d(32, width, 1))
        self.pooled_norm = nn.BatchNorm1d(2 * width)
        self.embedding = nn.Linear(2 * width, dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(dim, affine=False)

    def forward(self, frames):
        if frames.ndim != 4 or frames.shape[1:3] != (1, self.num_mels):
            raise ValueError(f"The encoder was built for (batch, 1, {self.num_mels}, frames) and got "
                             f"{tuple(frames.shape)}. Build it with the front end of these features.")
        bands = self.blocks(functional.relu(self.stem_norm(self.stem(frames)))).flatten(1, 2)  # (batch, C * bands, T)
        values = functional.relu(self.width_norm(self.bands_to_width(bands))).float()  # (batch, width, T)
        return self.embedding_norm(self.embedding(self.pooled_norm(self._pooled(values))).float())

    def _pooled(self, values):
        """Mean and deviation over frames: (batch, width, T) -> (batch, 2 * width)."""
        if self.pooling == "attentive":
            weights = self.attention(values).float().softmax(dim=2)
        else:
            weights = torch.full_like(values, 1 / values.shape[2])
        mean = (weights * values).sum(dim=2)
        deviation = ((weights * values.square()).sum(dim=2) - mean.square()).clamp_min(1e-5).sqrt()
        return torch.cat([mean, deviation], dim=1)


class WarpedEncoder(nn.Module):
    """An encoder of voices that hears each clip with its frequencies lowered, as they are, and raised.

    Who is alike as they are, and also as smaller and as larger people, is more surely the same person. forward:
    (batch, 1, num_mels, frames), each mel's mean over them removed -> (batch, warps * dim), of unit length: the
    encoder's embeddings of unit length side by side. warps: factors, an odd number of them with 1 in the middle;
    matrices: (warps, num_mels, num_mels), of each factor that of speakerlib.data.speeds.warp_matrix. (In training such
    warps are vocal tract length perturbation, Jaitly and Hinton 2013.)
    """

    def __init__(self, encoder, warps, matrices):
        super().__init__()
        self.encoder, self.warps = encoder, tuple(warps)
        self.register_buffer("matrices", torch.as_tensor(matrices, dtype=torch.float32))
        self.num_mels, self.dim = encoder.num_mels, len(matrices) * encoder.dim

    def forward(self, frames):
        if frames.ndim != 4 or frames.shape[1:3] != (1, self.num_mels):
            return self.encoder(frames)  # which says what it expects
        parts = [functional.normalize(self.encoder(matrix @ frames), dim=1) for matrix in self.matrices]
        return torch.cat(parts, dim=1) / len(parts) ** 0.5

    def once(self, embeddings):
        """What the encoder alone makes of the clips, of embeddings (clips, warps * dim) of this one."""
        return embeddings.unflatten(1, (len(self.matrices), -1))[:, len(self.matrices) // 2]


class ResidualBlock(nn.Module):
    """Two convolutions 3 x 3 with batch normalisation, channels weighed by their means, and a way round."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = BatchNorm2d(out_channels)
        squeezed = max(8, out_channels // 4)
        self.squeeze, self.excite = nn.Linear(out_channels, squeezed), nn.Linear(squeezed, out_channels)
        if stride == (1, 1) and in_channels == out_channels:
            self.way_round = nn.Identity()
        else:
            self.way_round = nn.Sequential(nn.AvgPool2d(stride, stride, ceil_mode=True),
                                           nn.Conv2d(in_channels, out_channels, 1, bias=False),
                                           BatchNorm2d(out_channels))

    def forward(self, x):
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        gates = torch.sigmoid(self.excite(functional.relu(self.squeeze(y.mean(dim=(2, 3))))))
        return functional.relu(y * gates[:, :, None, None] + self.way_round(x))

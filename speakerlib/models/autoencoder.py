"""Masked autoencoders: networks that fill in what was removed from a spectrogram, and so train an encoder."""

import torch
from torch import nn
from torch.nn import functional as F

from speakerlib.models.encoders import CHANNELS, ConvEncoder
from speakerlib.models.norms import BatchNorm2d
from speakerlib.models.objectives import reconstruction_loss
from speakerlib.models.targets import check_target, to_target
from speakerlib.models.transformer import (
    WIDTH,
    Block,
    TransformerEncoder,
    initialise,
    sine_positions,
    spread,
    standardise,
)

DECODER_WIDTH, DECODER_DEPTH = 48, 2


def build_autoencoder(encoder, num_mels, num_frames, normalisation="corrected", target="clip"):
    """A new autoencoder around the encoder of that name, for clips of (1, num_mels, num_frames).

    It is called as model(frames, mask, clean=None) and returns (loss, reconstruction, mask), all of the clip's shape:
    frames is what it sees where mask is False; clean is what it has to predict where mask is True, for an input that
    went through a channel (default: frames). The reconstruction is in the target's units (see targets.from_target).
    Its part `encoder` has the names and shapes of build_encoder(encoder, num_mels, num_frames). normalisation: see
    reconstruction_loss; target: see to_target. Raises ValueError for an unknown name and a clip too small.
    """
    if encoder not in AUTOENCODERS:
        raise ValueError(f"encoder={encoder!r}: expected one of {', '.join(AUTOENCODERS)}.")
    return AUTOENCODERS[encoder](num_mels, num_frames, normalisation, target)


class ConvAutoencoder(nn.Module):
    """Work A's encoder, and a decoder that mirrors it with the encoder's own pooling positions (Boccio).

    Each decoder block is max-unpooling, ReLU, normalisation and a transposed convolution 3 x 3; the last one ends
    in one channel. `encoder` is a ConvEncoder, with the names and shapes that chapter 05 trains on.
    normalisation: see reconstruction_loss; target: see to_target.
    """

    def __init__(self, num_mels, num_frames, normalisation="corrected", target="clip"):
        super().__init__()
        check_target(target)
        self.normalisation, self.target = normalisation, target
        self.encoder = ConvEncoder(num_mels, num_frames)
        mirrored = list(zip(CHANNELS, (1, *CHANNELS[:-1])))[::-1]  # (64, 64), ..., (16, 1)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.ReLU(), BatchNorm2d(before), nn.ConvTranspose2d(before, after, 3, padding=1))
            for before, after in mirrored)

    def forward(self, frames, mask, clean=None):
        """(loss, reconstruction, mask) of frames (batch, 1, mels, frames); mask, of the same shape: True is removed.

        The encoder sees 0 where frames were removed: the quietest of `boccio`, the mean of `compact`. clean: what to
        predict, where that is not frames.
        """
        values, kept = frames.masked_fill(mask, 0), []
        for block in self.encoder.blocks:
            before = block.relu(block.norm(block.conv(values)))
            values, indices = F.max_pool2d(before, block.pool.kernel_size, return_indices=True)
            kept.append((indices, before.shape))
        for block, (indices, shape) in zip(self.decoder, reversed(kept)):
            values = block(F.max_unpool2d(values, indices, 2, output_size=shape))
        wanted = to_target(frames if clean is None else clean, self.target)
        return reconstruction_loss(values, wanted, mask, self.normalisation), values, mask


class TransformerAutoencoder(nn.Module):
    """A transformer that reads visible patches only, and a lighter one that fills in the others (He et al. 2022).

    `encoder` is a TransformerEncoder, which sees a patch if nothing of it was removed; the decoder gets its tokens, a
    learnt token in place of each other patch, and the positions of all. With masks of patches nothing is lost by
    that; strips and boxes cut through patches, and take all that they touch from the encoder's sight, while the
    loss still counts what was removed alone. A clip of which no patch is whole is predicted from nothing.
    normalisation: see reconstruction_loss; target: see to_target.
    """

    def __init__(self, num_mels, num_frames, normalisation="corrected", target="clip"):
        super().__init__()
        check_target(target)
        self.normalisation, self.target = normalisation, target
        self.encoder = encoder = TransformerEncoder(num_mels, num_frames)
        self.narrow = nn.Linear(WIDTH, DECODER_WIDTH)
        self.removed_token = nn.Parameter(0.02 * torch.randn(DECODER_WIDTH))
        self.register_buffer("positions", sine_positions(*encoder.grid, DECODER_WIDTH), persistent=False)
        self.decoder = nn.ModuleList(Block(DECODER_WIDTH) for _ in range(DECODER_DEPTH))
        self.norm = nn.LayerNorm(DECODER_WIDTH)
        self.predict = nn.Linear(DECODER_WIDTH, encoder.inside.shape[1])
        for part in (self.narrow, self.decoder, self.predict):
            initialise(part)

    def forward(self, frames, mask, clean=None):
        """(loss, reconstruction, mask) of frames (batch, 1, mels, frames); mask, of the same shape: True is removed.

        clean: what to predict, where that is not frames.
        """
        self.encoder.check(frames)
        visible = ~(self.encoder.patches(mask.float()) > 0).any(dim=2)  # (batch, patches)
        shown = self.encoder.clips(visible[..., None].float().expand(-1, -1, self.encoder.inside.shape[1]))
        values, mean, deviation = standardise(frames, shown)
        tokens, places, seen = self.encoder.tokens(self.encoder.patches(values), visible)
        tokens = torch.where(seen[..., None], self.narrow(tokens), self.removed_token)
        filled = self.removed_token.to(tokens.dtype).expand(*visible.shape, -1)
        tokens = filled.scatter(1, spread(places, DECODER_WIDTH), tokens) + self.positions
        for block in self.decoder:
            tokens = block(tokens)
        reconstruction = self.encoder.clips(self.predict(self.norm(tokens)).float())
        if self.target != "patch_normalised":  # in the scale of what was seen
            reconstruction = reconstruction * deviation + (mean if self.target == "clip" else 0)
        wanted = to_target(frames if clean is None else clean, self.target)
        return reconstruction_loss(reconstruction, wanted, mask, self.normalisation), reconstruction, mask


AUTOENCODERS = {"conv6": ConvAutoencoder, "transformer": TransformerAutoencoder}  # by the name of the encoder

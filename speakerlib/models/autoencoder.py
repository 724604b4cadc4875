"""The masked autoencoder of work A: fills in what was removed from a spectrogram, and so trains an encoder."""

from torch import nn
from torch.nn import functional as F

from speakerlib.models.encoders import CHANNELS, ConvEncoder
from speakerlib.models.objectives import reconstruction_loss


class ConvAutoencoder(nn.Module):
    """Work A's encoder, and a decoder that mirrors it with the encoder's own pooling positions (Boccio).

    Each decoder block is max-unpooling, ReLU, normalisation and a transposed convolution 3 x 3; the last one ends
    in one channel. `encoder` is a ConvEncoder, with the names and shapes that chapter 05 trains on.
    normalisation: see reconstruction_loss.
    """

    def __init__(self, num_mels, num_frames, normalisation="corrected"):
        super().__init__()
        self.normalisation = normalisation
        self.encoder = ConvEncoder(num_mels, num_frames)
        mirrored = list(zip(CHANNELS, (1, *CHANNELS[:-1])))[::-1]  # (64, 64), ..., (16, 1)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.BatchNorm2d(before), nn.ConvTranspose2d(before, after, 3, padding=1))
            for before, after in mirrored)

    def forward(self, frames, mask):
        """(loss, reconstruction, mask) of frames (batch, 1, mels, frames); mask, of the same shape: True is removed.

        The encoder sees 0 where frames were removed: the quietest of `boccio`, the mean of `compact`.
        """
        values, kept = frames.masked_fill(mask, 0), []
        for block in self.encoder.blocks:
            before = block.relu(block.norm(block.conv(values)))
            values, indices = F.max_pool2d(before, block.pool.kernel_size, return_indices=True)
            kept.append((indices, before.shape))
        for block, (indices, shape) in zip(self.decoder, reversed(kept)):
            values = block(F.max_unpool2d(values, indices, 2, output_size=shape))
        return reconstruction_loss(values, frames, mask, self.normalisation), values, mask

"""A small transformer over the patches of a spectrogram: an encoder that reads only what is visible of a clip."""

import torch
from torch import nn
from torch.nn import functional as F

from speakerlib.models.masks import UNITS

PATCH_MELS, PATCH_FRAMES = UNITS["patches"]
WIDTH, DEPTH, HEADS = 56, 3, 4  # about as many parameters as ConvEncoder


class TransformerEncoder(nn.Module):
    """Three transformer blocks over patches of 16 x 16 (Dosovitskiy et al. 2021; for audio Huang et al. 2022).

    forward: (batch, 1, num_mels, num_frames) -> (batch, dim), the mean over time of the patches after the last
    normalisation, one row of patches after the other (Niizumi et al. 2022), so that what is low and what is high stays
    apart: dim = 56 * (num_mels // 16), 224 for 64 mels. The grid of patches is that of masks.py, whose last row and
    column take what is left over: every value belongs to one patch, and the narrower ones are filled up with 0 to the
    size of the widest. Each clip is first brought to mean 0 and deviation 1 over what is visible of it, whatever the
    front end's scale is (`boccio` has bytes). Positions are sines and cosines of row and column, fixed. 135,856
    parameters for 64 x 151, 141,232 for 256 x 301.
    Raises ValueError if the clip is smaller than one patch.
    """

    def __init__(self, num_mels, num_frames):
        super().__init__()
        if num_mels < PATCH_MELS or num_frames < PATCH_FRAMES:
            raise ValueError(
                f"The encoder cuts its input into patches of {PATCH_MELS} mels x {PATCH_FRAMES} frames and needs at "
                f"least one; this front end gives {num_mels} mels and {num_frames} frames a segment. Use a front end "
                "with more mels, or longer segments.")
        self.num_mels, self.num_frames = int(num_mels), int(num_frames)
        self.grid = self.num_mels // PATCH_MELS, self.num_frames // PATCH_FRAMES
        self.dim = WIDTH * self.grid[0]
        self.widest = PATCH_MELS + self.num_mels % PATCH_MELS, PATCH_FRAMES + self.num_frames % PATCH_FRAMES
        self.embed = nn.Linear(self.widest[0] * self.widest[1], WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("positions", sine_positions(*self.grid, WIDTH), persistent=False)
        self.register_buffer("inside", self._inside(), persistent=False)
        initialise(self)

    def forward(self, frames):
        self.check(frames)
        visible = torch.ones(len(frames), len(self.positions), dtype=torch.bool, device=frames.device)
        tokens, _, _ = self.tokens(self.patches(standardise(frames)[0]), visible)  # (batch, patches, width)
        return tokens.unflatten(1, self.grid).mean(dim=2).flatten(1)  # (batch, rows * width)

    def tokens(self, patches, visible):
        """What the visible ones of patches (batch, patches, values) become: (tokens, places, seen).

        tokens: (batch, count, width), count being the largest number of visible patches of a clip; places: (batch,
        count), which patches they are; seen: (batch, count), False where a clip has fewer and the token means nothing.
        """
        count = max(1, int(visible.sum(dim=1).max()))
        places = visible.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
        seen = visible.gather(1, places)
        tokens = self.embed(patches.gather(1, spread(places, patches.shape[-1]))) + self.positions[places]
        # a token that means nothing is looked at by itself alone
        allowed = None if seen.all() else seen[:, None, None] | torch.eye(count, dtype=torch.bool, device=seen.device)
        for block in self.blocks:
            tokens = block(tokens, allowed)
        return self.norm(tokens), places, seen

    def patches(self, values):
        """(batch, 1, mels, frames) -> (batch, patches, values), row by row."""
        # windows of the widest patch overlap the next patch, which is taken out again
        return F.unfold(values, self.widest, stride=(PATCH_MELS, PATCH_FRAMES)).transpose(1, 2) * self.inside

    def clips(self, patches):
        """The way back: (batch, patches, values) -> (batch, 1, mels, frames)."""
        return F.fold((patches * self.inside).transpose(1, 2), (self.num_mels, self.num_frames), self.widest,
                      stride=(PATCH_MELS, PATCH_FRAMES))

    def check(self, frames):
        """ValueError for frames of another size."""
        if frames.shape[1:] != (1, self.num_mels, self.num_frames):
            raise ValueError(
                f"The encoder was built for (batch, 1, {self.num_mels}, {self.num_frames}) and got "
                f"{tuple(frames.shape)}. Build it with the front end and segment length of these features.")

    def _inside(self):
        """(patches, values), bool: which values of a window belong to its patch; only the last ones have all."""
        mels, frames = (torch.full((count, widest), True) for count, widest in zip(self.grid, self.widest))
        mels[:-1, PATCH_MELS:], frames[:-1, PATCH_FRAMES:] = False, False
        return (mels[:, None, :, None] & frames[None, :, None, :]).reshape(self.grid[0] * self.grid[1], -1)


class Block(nn.Module):
    """Attention, then two linear layers, each after a layer normalisation and added to what came in."""

    def __init__(self, width):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm, self.widen = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, tokens, allowed=None):
        """(batch, count, width) -> the same; allowed (batch, 1, count, count): True where a token sees another."""
        batch, count, width = tokens.shape
        shaped = self.attention(self.attention_norm(tokens)).reshape(batch, count, 3, HEADS, width // HEADS)
        query, key, value = shaped.permute(2, 0, 3, 1, 4)  # (batch, heads, count, width / heads)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        tokens = tokens + self.project(attended.transpose(1, 2).reshape(batch, count, width))
        return tokens + self.narrow(F.gelu(self.widen(self.mlp_norm(tokens))))


def standardise(frames, visible=None):
    """(values, mean, deviation): frames (batch, 1, mels, frames) at mean 0 and deviation 1 over each clip's visible.

    visible: bool, of the same shape; nothing else is looked at. mean, deviation: (batch, 1, 1, 1); 0 and 1 where
    nothing is visible. In float32.
    """
    frames = frames.to(torch.float32, memory_format=torch.contiguous_format)  # bytes may lie frames first
    visible = torch.ones_like(frames) if visible is None else visible.float()
    number = visible.sum(dim=(1, 2, 3), keepdim=True)
    mean = (frames * visible).sum(dim=(1, 2, 3), keepdim=True) / number.clamp(min=1)
    squares = ((frames - mean).square() * visible).sum(dim=(1, 2, 3), keepdim=True) / number.clamp(min=1)
    deviation = torch.where(number > 0, (squares + 1e-6).sqrt(), 1.0)
    return (frames - mean) / deviation, mean, deviation


def sine_positions(rows, columns, width):
    """(rows * columns, width): sines and cosines of the row in one half, of the column in the other half."""
    speeds = 10000 ** (-torch.arange(width // 4) / (width // 4))
    angles = [torch.arange(side)[:, None] * speeds for side in (rows, columns)]
    of_rows, of_columns = (torch.cat((angle.sin(), angle.cos()), dim=1) for angle in angles)
    return torch.cat((of_rows.repeat_interleave(columns, dim=0), of_columns.repeat(rows, 1)), dim=1)


def initialise(module):
    """Xavier's uniform weights and no biases in all linear layers (He et al. 2022, appendix A.1). In place."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


def spread(places, width):
    """places (batch, count) for gather and scatter of (batch, ., width)."""
    return places[..., None].expand(-1, -1, width)

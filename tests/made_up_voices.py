"""Voices without speech: each speaker is noise in bands of their own that swells and fades, so that a picture tells."""

import numpy as np
import torch

from speakerlib.data.front_ends import FRONT_ENDS
from speakerlib.experiments.checkpoints import save_weights
from speakerlib.experiments.voice_weights import VoiceWeights, voice_header, warped
from speakerlib.models.voice import VoiceEncoder

CALIBRATION = {"slope": [30.0, 0.0, 0.0], "offset": [-24.0, 0.0, 0.0],
               "thresholds": {"0.01": [0.9, 0.0, 0.0], "0.05": [0.8, 0.0, 0.0]}}


def voice(speaker, seconds=3.0, seed=0, rate=16000):
    """float32 (samples,): the voice of speaker 0, 1, 2, ..., another utterance for another seed."""
    random = np.random.default_rng([speaker, seed])
    count = round(seconds * rate)
    frequencies, time = np.fft.rfftfreq(count, 1 / rate), np.arange(count) / rate
    sound = 0.002 * random.normal(size=count)
    for band, centre in enumerate(np.random.default_rng(100 + speaker).uniform(200, 6000, 2)):
        noise = np.fft.irfft(np.fft.rfft(random.normal(size=count)) * (np.abs(frequencies - centre) < 150), count)
        sound = sound + noise / noise.std() * np.sin((5 + band) * time + random.uniform(0, 6)) ** 4
    return (0.1 * sound / sound.std()).astype(np.float32)


class Swelling(torch.nn.Module):
    """An encoder of these voices: how much each mel swells and fades, less the mean over mels."""

    dim, num_mels = 64, 64

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(64), requires_grad=False)

    def forward(self, frames):
        swelling = self.weight * frames[:, 0].std(dim=2)
        return swelling - swelling.mean(dim=1, keepdim=True)


def swelling_weights(calibration=CALIBRATION, digest="a" * 32):
    """VoiceWeights of Swelling, without a file."""
    from pathlib import Path

    return VoiceWeights(Path("made-up.safetensors"), Swelling().eval(), FRONT_ENDS["compact"], {}, calibration, digest)


def random_weights(path, seed=0, **facts):
    """Writes a file of a small encoder of voices with random weights. Returns the WarpedEncoder in eval mode."""
    torch.manual_seed(seed)
    encoder = VoiceEncoder(channels=(4, 4, 8, 8), width=12, dim=16)
    with torch.no_grad():
        encoder(torch.randn(16, 1, 64, 100))  # running statistics that are not those of the start
    encoder = warped(encoder, FRONT_ENDS["compact"]).eval()
    header = voice_header(encoder, "compact", corpus="made up", seed=seed) | facts
    header = {name: value for name, value in header.items() if value is not None}
    save_weights(encoder.encoder.state_dict(), path, header)
    return encoder

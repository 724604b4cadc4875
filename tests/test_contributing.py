"""What CONTRIBUTING.md adds as an example is known everywhere once its lines are there."""

import re
import subprocess
import sys

from speakerlib.data.files import project_folder

USE = """
from speakerlib.experiments.parameters import check_parameters, notebook_parameters
from speakerlib.models.encoders import build_encoder
from speakerlib.models.masks import draw_masks
from speakerlib.models.objectives import prototypical_loss
from speakerlib.models.short_utterance_objectives import episodic_loss

for notebook, name, value in (("05_protonet_training", "encoder", "mean_spectrum"),
                              ("06_short_utterance_training", "logits", "manhattan"),
                              ("04_mae_pretraining", "mask", "bands")):
    assert check_parameters({name: value}, notebook_parameters(notebook), notebook)[name] == value

torch.manual_seed(0)
encoder = build_encoder("mean_spectrum", 64, 151)
frames = 0.2 * torch.randn(3, 1, 1, 64, 1) + 0.5 * torch.randn(3, 8, 1, 64, 151)  # three voices, eight clips each
step, losses = torch.optim.Adam(encoder.parameters(), 0.01), []
for _ in range(20):
    embeddings = encoder(frames.flatten(0, 1)).reshape(1, 3, 8, 64)
    loss, accuracy, _ = prototypical_loss(embeddings[:, :, :4], embeddings[:, :, 4:])
    step.zero_grad(), loss.backward(), step.step()
    losses.append(loss.item())
assert losses[-1] < losses[0] and accuracy > 0.9

loss, accuracy = episodic_loss(embeddings[0, :, :4], embeddings[0, :, 4:], "manhattan")
distances = torch.stack([(embeddings[0, :, 4:].flatten(0, 1) - centre).abs().sum(dim=1)
                         for centre in embeddings[0, :, :4].mean(dim=1)], dim=1)
right = torch.arange(3).repeat_interleave(4)
assert torch.allclose(loss, -(-distances).log_softmax(dim=1)[torch.arange(12), right].mean(), atol=1e-4)

mask = draw_masks("bands", 5, 64, 151, 0.5, torch.Generator().manual_seed(0))
assert mask.shape == (5, 1, 64, 151) and (mask.all(dim=3) == mask.any(dim=3)).all()  # whole lines of mels
assert (mask[..., 0].reshape(5, 8, 8).all(dim=2).sum(dim=1) == 4).all()
print("all of it is known")
"""


def test_the_example_adds_an_encoder_an_objective_and_a_mask():
    text = (project_folder() / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block + USE], capture_output=True, text=True, cwd=project_folder())
    assert done.stdout == "all of it is known\n", done.stderr


def test_the_tables_are_where_it_says():
    text = (project_folder() / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = re.findall(r"`([A-Z]+)` in `([a-z_/]+\.py)`", text)
    assert {name for name, _ in told} == {"ENCODERS", "LOGITS", "UNITS", "STEPS", "NOTEBOOKS"}
    for name, place in told:
        path = project_folder() / (place if place.startswith("tests") else f"speakerlib/{place}")
        assert re.search(rf"^{name} = ", path.read_text(encoding="utf-8"), re.MULTILINE), place

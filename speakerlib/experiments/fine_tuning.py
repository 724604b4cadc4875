"""What may become of a pretrained encoder in training: frozen or slowed blocks, and whose statistics normalise it."""

import torch

BATCH, PRETRAINED, UNLABELLED = "batch", "pretrained", "unlabelled"  # norm_statistics
STATISTICS_CLIPS = 1024


def block_of(encoder):
    """Name of each of the encoder's parameters -> number of its block.

    What comes before the first block counts with it, what comes after the last with that.
    """
    numbers, last = {}, 0
    for name, _ in encoder.named_parameters():
        head, _, rest = name.partition(".")
        last = int(rest.split(".")[0]) if head == "blocks" else last
        numbers[name] = last
    return numbers


def check_fine_tuning(encoder, settings):
    """ValueError for settings that this encoder, or a start from random weights, cannot follow."""
    blocks = len(encoder.blocks)
    if settings.frozen_blocks and settings.init == "scratch":
        raise ValueError(f"frozen_blocks={settings.frozen_blocks} with init='scratch' would keep random weights. Use "
                         "frozen_blocks=0, or name a run of chapter 04 as init.")
    if settings.frozen_blocks >= blocks:
        raise ValueError(f"frozen_blocks={settings.frozen_blocks}: {settings.encoder} has {blocks} blocks, and one at "
                         f"least has to learn. Use 0 to {blocks - 1}.")
    if settings.norm_statistics != BATCH and not _norms(encoder):
        raise ValueError(f"norm_statistics={settings.norm_statistics!r}: {settings.encoder} has no BatchNorm. Use "
                         f"{BATCH!r}.")
    if settings.norm_statistics == PRETRAINED and settings.init == "scratch":
        raise ValueError("norm_statistics='pretrained' with init='scratch': there are none. Use 'batch' or "
                         "'unlabelled', or name a run of chapter 04 as init.")


def freeze(encoder, frozen_blocks):
    """The weights of the first blocks stay as they are. In place."""
    numbers = block_of(encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(numbers[name] >= frozen_blocks)


def parameter_groups(encoder, learning_rate, layer_decay):
    """Groups for an optimizer: the last block learns at learning_rate, each before it at layer_decay times that."""
    numbers, groups = block_of(encoder), {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(numbers[name], []).append(parameter)
    last = max(numbers.values())
    return [{"params": params, "lr": learning_rate * layer_decay ** (last - number)}
            for number, params in sorted(groups.items())]


def take_statistics(encoder, frames):
    """Gives each BatchNorm the mean and variance of these clips, in place; weights stay.

    frames: an iterable of (batch, 1, mels, frames), of equal batches; the statistics are means over them.
    """
    norms, was_training = _norms(encoder), encoder.training
    momenta = [norm.momentum for norm in norms]
    encoder.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    with torch.no_grad():
        for batch in frames:
            encoder(batch)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    encoder.train(was_training)


def hold_statistics(encoder):
    """BatchNorm uses the statistics it has and learns none; call at each step, since train() undoes it."""
    for norm in _norms(encoder):
        norm.eval()


def _norms(encoder):
    return [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]

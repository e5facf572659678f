"""Optimiser, learning rate and weight average, as the recipe says."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.swa_utils import AveragedModel

from semseg.core.checks import InputError
from semseg.models.base import SegmentationModel
from semseg.train.sections import OptimizerConfig, ScheduleConfig

Tensors = list[Tensor] | tuple[Tensor, ...]

RISE = 0.3
"""Share of the steps in which one_cycle rises (Smith & Topin, arXiv:1708.07120)."""

START, END = 1 / 25, 1 / 250_000
"""Factors of the learning rate at which one_cycle starts and ends."""


def build_optimizer(model: SegmentationModel, config: OptimizerConfig) -> Optimizer:
    """Return the optimiser over the trainable parameters.

    Parameters with one dimension or none (norms, biases, slopes) and those the network names in
    ``no_weight_decay()`` are not decayed. Each group keeps its highest rate in ``"peak_lr"``;
    :func:`set_lr` scales from it.

    Raises:
        InputError: ``head_lr_factor`` for a network without a trunk.
    """
    parts = model.parameter_groups()
    if config.head_lr_factor != 1 and not parts["encoder"]:
        raise InputError(
            f"optimizer.head_lr_factor is {config.head_lr_factor}, but {type(model).__name__} has "
            "no trunk to tell its head from; leave it out and change optimizer.lr"
        )
    groups = []
    named = dict(model.named_parameters())
    kept = {id(named[name]) for name in model.no_weight_decay()}
    for part, parameters in parts.items():
        lr = config.lr * (config.head_lr_factor if part == "head" else 1)
        trained = [p for p in parameters if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1 and id(p) not in kept]
        inside = {id(p) for p in decayed}
        others = [p for p in trained if id(p) not in inside]
        for chosen, decay in ((decayed, config.weight_decay), (others, 0.0)):
            if chosen:
                groups.append({"params": chosen, "lr": lr, "peak_lr": lr, "weight_decay": decay})
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    if config.name == "rmsprop":
        return RMSprop(groups, lr=config.lr, momentum=config.momentum)
    kind = AdamW if config.name == "adamw" else Adam
    return kind(groups, lr=config.lr, betas=(config.momentum, 0.999))


def lr_factor(config: ScheduleConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """Return the share of the highest learning rate that step ``step`` of 0 … steps-1 takes.

    A pure function, so that a resumed run has nothing to restore.

    Example:
        >>> config = ScheduleConfig(name="poly", power=1.0, warmup_steps=2)
        >>> [lr_factor(config, step, 6, 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if config.name == "one_cycle":
        rise = max(1.0, RISE * steps - 1)
        if step < rise:
            return _wave(START, 1.0, step / rise)
        return _wave(1.0, END, (step - rise) / max(1.0, steps - 1 - rise))
    warmup = config.warmup_steps or round((config.warmup_epochs or 0) * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if config.name == "constant":
        return 1.0
    if isinstance(config.step_epochs, tuple):
        falls = sum(step - warmup >= epochs * steps_per_epoch for epochs in config.step_epochs)
        return float(config.factor**falls)
    if config.step_epochs is not None:
        return config.factor ** int((step - warmup) / (config.step_epochs * steps_per_epoch))
    progress = (step - warmup) / max(1, steps - warmup)
    if config.name == "cosine":
        return _wave(1.0, 0.0, progress)
    return float((1 - progress) ** config.power)


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def build_average(model: nn.Module, decay: float | None) -> AveragedModel:
    """Return a copy of ``model`` that follows it.

    Its batch-norm statistics are averaged like its weights; counters are copied. With ``decay``
    ``None`` each update makes it equal to the model.
    """
    return AveragedModel(model, multi_avg_fn=_ramped_average(decay or 0.0), use_buffers=True)


def _ramped_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    @torch.no_grad()
    def average(mean: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = torch.as_tensor(count, dtype=torch.float32)
        # a young average would otherwise consist of the random initial weights; kept as a tensor,
        # so that nothing waits for the device
        weight = 1 - torch.clamp((1 + n) / (10 + n), max=decay)
        for a, b in zip(mean, current, strict=True):
            if a.is_floating_point():
                a.lerp_(b, weight.to(a.dtype))
            else:
                a.copy_(b)

    return average


def _wave(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

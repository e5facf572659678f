"""What a recipe may ask of the network before it is trained: norms, and memory for time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from semseg.core.checks import InputError
from semseg.models.base import SegmentationModel
from semseg.train.sections import LoopConfig


def adapt(model: SegmentationModel, config: LoopConfig, device: torch.device) -> SegmentationModel:
    """Return the network with the norms that the recipe wants; its tensors keep their names.

    Raises:
        InputError: norms are to be shared between processes without GPUs.
    """
    if config.sync_norm:
        if device.type != "cuda":
            raise InputError(
                f"train.sync_norm needs GPUs, this run computes on {device}; leave it out and "
                "give larger batches, or train.freeze_norm"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if config.freeze_norm:
        for norm in norms(model):
            for parameter in norm.parameters():
                parameter.requires_grad_(False)
        freeze_norms(model)
    return model


def takes_channels_last(model: nn.Module, config: LoopConfig, device: torch.device) -> bool:
    """Tell whether the network can be trained in the memory order N, H, W, C.

    On CPUs PyTorch gives wrong gradients, without a word, for the weights of convolutions that are
    depthwise and dilated, in bfloat16 and that order: seen in 2.15, off by more than their size.
    """
    if device.type != "cpu" or config.precision != "bf16":
        return True
    return not any(
        1 < module.groups == module.in_channels and max(module.dilation) > 1
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    )


def norms(model: nn.Module) -> Iterator[_BatchNorm]:
    """Return the batch norms."""
    return (module for module in model.modules() if isinstance(module, _BatchNorm))


def freeze_norms(model: nn.Module) -> None:
    """Let batch norms take their running statistics, and leave these as they are."""
    for norm in norms(model):
        norm.eval()


def recompute(model: SegmentationModel) -> int:
    """Let every block keep only its input, and compute its inside again in the backward pass.

    Chen et al. 2016 (arXiv:1604.06174). Gradients, statistics of norms and random draws are those
    of a plain pass. A block is the outermost module of a class that occurs twice or more.

    Returns:
        The number of blocks.

    Raises:
        InputError: no class occurs twice.
    """
    own = Counter(type(module) for module in model.modules() if _composed(module))
    blocks = list(_outermost(model, {kind for kind, count in own.items() if count > 1}))
    if not blocks:
        raise InputError(
            f"{type(model).__name__} has no repeated blocks to compute again; leave "
            "train.recompute out"
        )
    for block in blocks:
        block.forward = partial(_again, block, block.forward)
    return len(blocks)


def _composed(module: nn.Module) -> bool:
    """Tell whether a module is more than a container, and holds more than one layer."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return type(module) not in containers and sum(1 for _ in module.modules()) > 2


def _outermost(module: nn.Module, kinds: set[type]) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child) in kinds:
            yield child
        else:
            yield from _outermost(child, kinds)


def _again(block: nn.Module, forward: Any, *inputs: Any, **settings: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **settings)
    contexts = partial(_contexts, block)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **settings)


def _contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _counted_once(block)


@contextmanager
def _counted_once(block: nn.Module) -> Iterator[None]:
    """Keep norms from taking the same batch into their statistics a second time."""
    counting = [norm for norm in norms(block) if norm.training and norm.track_running_stats]
    momenta = [norm.momentum for norm in counting]
    for norm in counting:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(counting, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1

"""What a network costs and gives, computed without memory or time on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from semseg.models.base import MODELS, build


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one network for one image.

    Args:
        parameters: trainable parameters.
        flops: operations of one forward pass; a multiplication and an addition count 2.
        heads: shape ``(K, h, w)`` of each output of ``forward_heads``.
        output_stride: ratio of the padded image's height to that of the logits.
    """

    parameters: int
    flops: int
    heads: dict[str, tuple[int, ...]]
    output_stride: int


def summarize(name: str, size: tuple[int, int] | None = None, **settings: Any) -> Summary:
    """Count a network's parameters and operations.

    Args:
        name: registry name.
        size: height and width of the image; the paper's if ``None``.
        settings: fields of the network's config.

    Raises:
        UnknownNameError: no network of that name.
        SettingError: a setting the network does not have.

    Example:
        >>> summarize("unet", size=(64, 64), num_classes=5, width=8).heads["logits"][0]
        5
    """
    entry = MODELS[name]
    with torch.device("meta"):
        model = build(entry, settings).eval()
        images = torch.empty(1, model.config.in_channels, *(size or entry.paper_size))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        padded = model.pad(images)
        heads = model.forward_heads(padded)
    return Summary(
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops=counter.get_total_flops(),
        heads={key: tuple(value.shape[1:]) for key, value in heads.items()},
        output_stride=round(padded.shape[-2] / heads["logits"].shape[-2]),
    )

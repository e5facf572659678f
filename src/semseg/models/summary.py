"""What a network costs and gives, computed without memory or time on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from semseg.models.base import MODELS, Entry, SegmentationModel, build
from semseg.models.receptive_field import ReceptiveField

LENGTHS = (1536, 3072, 6144)
"""Sides of the images in which a receptive field is looked for; a larger one costs time."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one network for one image.

    Args:
        parameters: trainable parameters.
        flops: operations of one forward pass; a multiplication and an addition count 2.
        heads: shape ``(K, h, w)`` of each output of ``forward_heads``.
        output_stride: ratio of the image's height to that of the logits.
        receptive_field: height and width in pixels of what one score can depend on; ``None`` for
            the whole image.
    """

    parameters: int
    flops: int
    heads: dict[str, tuple[int, ...]]
    output_stride: int
    receptive_field: tuple[int, int] | None


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
    images = model.blank(size or entry.paper_size)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # the counter asks tensors for their place in a graph, which parts of a parameter lack here
    model.requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        padded = model.pad(images)
        heads = model.forward_heads(padded)
    return Summary(
        parameters=parameters,
        flops=counter.get_total_flops(),
        heads={key: tuple(value.shape[1:]) for key, value in heads.items()},
        output_stride=output_stride(model, padded, heads["logits"]),
        receptive_field=receptive_field(model),
    )


def output_stride(model: SegmentationModel, images: Tensor, logits: Tensor) -> int:
    """Return the ratio of the heights of ``images`` and ``logits``.

    Where it is no integer, that of a large image, where the rows that some networks add or lose at
    the border no longer count.
    """
    if model.takes == "clouds":
        return 1  # there is a score for every point
    height = images.shape[-2]
    if height % logits.shape[-2]:
        height = LENGTHS[-1]
        images = torch.empty(1, model.config.in_channels, height, height, device="meta")
        with torch.no_grad():
            logits = model.forward_heads(model.pad(images))["logits"]
    return round(height / logits.shape[-2])


def receptive_field(model: SegmentationModel) -> tuple[int, int] | None:
    """Return height and width of what one score can depend on; ``None`` for the whole image.

    The most of all places, of a model on the meta device in eval mode. A field of more than
    6000 pixels counts as the whole image.

    Example:
        >>> with torch.device("meta"):
        ...     model = build(MODELS["fcn_32s_vgg16"], {}).eval()
        >>> receptive_field(model)
        (404, 404)
    """
    found: tuple[int, int] | None = None
    if model.takes == "clouds":
        return found  # pixels are no measure there
    for side in LENGTHS:
        images = torch.empty(1, model.config.in_channels, side, side, device="meta")
        with torch.no_grad():
            padded = model.pad(images)
            with ReceptiveField(padded) as field:
                logits = model.forward_heads(padded)["logits"]
        found = field.of(logits)
        if found is not None or field.is_whole(logits):
            break
    return found


def in_words(field: tuple[int, int] | None, takes: str = "images") -> str:
    """Return a receptive field as a phrase."""
    whole = f"the whole {takes.removesuffix('s')}"
    return whole if field is None else f"{field[0]} x {field[1]} pixels"


def size_in_words(entry: Entry) -> str:
    """Return the size at which a network's cost is stated as a phrase.

    Example:
        >>> size_in_words(MODELS["unet"]), size_in_words(MODELS["point_transformer"])
        ('572 x 572 image', 'cloud of 80,000 points')
    """
    height, width = entry.paper_size
    if entry.takes == "clouds":
        return f"cloud of {height * width:,} points"
    return f"{height} x {width} image"

"""Batch normalisation's one demand on its input, checked where a network is deepest."""

from __future__ import annotations

from torch import Tensor

from semseg.core.checks import InputError


def check_batch_norm(owner: str, x: Tensor, stride: int, training: bool) -> None:
    """Refuse to train on one value per channel: its variance is zero, whatever the value.

    Args:
        owner: the network's name, for the message.
        x: ``(N, C, H, W)`` images or features.
        stride: of the smallest features that are normalised, relative to ``x``; sizes are rounded
            up, as strided convolutions do.
        training: whether batch statistics are in use.

    Raises:
        InputError: a single pixel is left of a single image in training.
    """
    count, _, height, width = x.shape
    if training and count == 1 and max(height, width) <= stride:
        raise InputError(
            f"{owner} cannot train on one image of this size: its deepest features are a single "
            "pixel, which batch normalisation turns into zeros; take two images or larger ones"
        )

"""Batch normalisation's one demand on its input, checked where a network is deepest."""

from __future__ import annotations

from torch import Tensor

from semseg.core.checks import InputError


def check_batch_norm(owner: str, x: Tensor, training: bool) -> None:
    """Refuse to train on one value per channel: its variance is zero, whatever the value.

    Args:
        owner: the network's name, for the message.
        x: ``(N, C, h, w)``, the features with the fewest pixels that are normalised.
        training: whether batch statistics are in use.

    Raises:
        InputError: ``N * h * w`` is 1 in training.
    """
    if training and x.numel() == x.shape[1]:
        raise InputError(
            f"{owner} cannot train on one image of this size: its deepest features are a single "
            "pixel, which batch normalisation turns into zeros; take two images or larger ones"
        )

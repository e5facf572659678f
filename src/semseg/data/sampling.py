"""Which images an epoch consists of, where some classes are rare."""

from __future__ import annotations

import torch
from torch import Tensor

from semseg.core.checks import InputError

Order = list[int]
"""Positions in the dataset, as many as it has samples."""


def class_uniform(presence: Tensor, generator: torch.Generator) -> Order:
    """Return the classes in turn, each by one of the images that show it.

    Every class that occurs comes equally often, and every image of a class once before any comes
    again (Zhu et al. 2019, arXiv:1812.01593, section 4.1, without its windows around the class).

    Args:
        presence: ``(n, K)`` bool: which classes each image shows.
        generator: of the draws.

    Raises:
        InputError: no class occurs anywhere.

    Example:
        >>> presence = torch.tensor([[True, False]] * 3 + [[True, True]])
        >>> order = class_uniform(presence, torch.Generator().manual_seed(0))
        >>> order.count(3) >= 2
        True
    """
    holders = [rows for rows in (column.nonzero()[:, 0] for column in presence.T) if len(rows)]
    if not holders:
        raise InputError("no image of the training split shows a class; check its masks")
    queues: list[Order] = [[] for _ in holders]
    order: Order = []
    while len(order) < len(presence):
        for i in torch.randperm(len(holders), generator=generator).tolist():
            if not queues[i]:
                mixed = torch.randperm(len(holders[i]), generator=generator)
                queues[i] = holders[i][mixed].tolist()
            order.append(queues[i].pop())
    return order[: len(presence)]


def repeat_rare(presence: Tensor, generator: torch.Generator) -> Order:
    """Return images as often as their rarest class asks for, in the end as many as there are.

    An image weighs ``max sqrt(1 / f)`` over its classes, f being the share of images that show the
    class: repeat-factor sampling (Gupta et al. 2019, arXiv:1908.03195, section 4.2) with threshold
    1. Its count is its share of all weights, rounded up or down by one draw for all images.

    Args:
        presence: ``(n, K)`` bool: which classes each image shows.
        generator: of the draws.

    Example:
        >>> presence = torch.tensor([[True, False]] * 8 + [[True, True]])
        >>> repeat_rare(presence, torch.Generator().manual_seed(0)).count(8)
        2
    """
    share = presence.float().mean(0).clamp(min=1 / max(1, len(presence)))
    weight = (presence * share.rsqrt()).amax(1).clamp(min=1.0).double()
    ends = weight.cumsum(0) * (len(presence) / weight.sum())
    marks = torch.arange(len(presence)) + torch.rand((), generator=generator).double()
    order = torch.searchsorted(ends, marks).clamp(max=len(presence) - 1)
    return order[torch.randperm(len(order), generator=generator)].tolist()


SAMPLINGS = {"class_uniform": class_uniform, "repeat_rare": repeat_rare}
"""Ways to choose, by name."""

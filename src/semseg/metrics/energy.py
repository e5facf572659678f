"""How far the answers of a network are from those of several people, as distributions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semseg.core.checks import InputError


def energy_distance(
    samples: Tensor,
    truths: Tensor,
    classes: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    ignore_id: int = 255,
) -> float:
    """Return the generalised energy distance of one image, squared.

    Kohl et al. 2018 (arXiv:1806.05034, equation 5): twice the mean distance of a sample and a
    truth, less that of two samples and that of two truths, each drawn by itself, so that a pair may
    be one answer twice. The distance of two answers is 1 less the mean IoU of the classes that are
    in either; it is 0 where none is in any. The score of a dataset is the mean over its images.

    Args:
        samples: ``(S, H, W)`` train ids that the network drew.
        truths: ``(T, H, W)`` train ids, one for each way to see the image.
        classes: that count: ``[1]`` for one structure before a background.
        weights: how often each truth is right; equally often if ``None``.
        ignore_id: of pixels that count nowhere if any truth has it there.

    Raises:
        InputError: no samples, no truths, another size, no classes, or other weights than one that
            is not negative for each truth.

    Example:
        >>> truths = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 1, 1]]])
        >>> energy_distance(truths, truths, [1])
        0.0
        >>> energy_distance(truths[:1], truths, [1])  # it has seen one way of two
        0.5
    """
    if samples.dim() != 3 or truths.dim() != 3 or samples.shape[1:] != truths.shape[1:]:
        raise InputError(
            "the energy distance takes samples (S, H, W) and truths (T, H, W), got "
            f"{tuple(samples.shape)} and {tuple(truths.shape)}"
        )
    if not len(samples) or not len(truths) or not len(classes):
        raise InputError(
            "the energy distance needs at least one sample, truth and class, got "
            f"{len(samples)}, {len(truths)} and {len(classes)}"
        )
    share = _shares(len(truths), weights)
    labelled = (truths != ignore_id).all(dim=0)
    answers = torch.cat([samples.to(truths.device), truths])[:, labelled]
    apart = distances(answers, classes).cpu()
    drawn = torch.full((len(samples),), 1 / len(samples), dtype=torch.float64)
    s = len(samples)
    between = drawn @ apart[:s, s:] @ share
    within = drawn @ apart[:s, :s] @ drawn + share @ apart[s:, s:] @ share
    return float(2 * between - within)


def distances(answers: Tensor, classes: Sequence[int]) -> Tensor:
    """Return ``(n, n)`` distances of answers ``(n, pixels)``, each 1 less a mean IoU."""
    total = torch.zeros(len(answers), len(answers), dtype=torch.float64, device=answers.device)
    found = torch.zeros_like(total)
    for index in classes:
        masks = (answers == index).double()
        both = masks @ masks.T
        sizes = both.diagonal()
        either = sizes[:, None] + sizes - both
        total += 1 - torch.where(either > 0, both / either.clamp_min(1), 1.0)
        found += either > 0
    return total / found.clamp_min(1)


def _shares(count: int, weights: Sequence[float] | None) -> Tensor:
    """Return the probability of each truth."""
    given = torch.tensor([1.0] * count if weights is None else list(weights), dtype=torch.float64)
    if len(given) != count or not bool((given >= 0).all()) or not given.sum() > 0:
        raise InputError(
            f"the energy distance takes one weight from 0 on for each of {count} truths, "
            f"got {list(weights or ())}"
        )
    return given / given.sum()

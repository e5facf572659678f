"""The loss of networks that predict a set of masks: match them with the segments, then compare.

Source:
    Cheng, Misra, Schwing, Kirillov, Girdhar. "Masked-attention Mask Transformer for Universal
    Image Segmentation." CVPR 2022. arXiv:2112.01527, sections 3.3 and 4.1. Details follow the
    authors' code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IGNORE = 255

LEAST = 1e-7
"""Of a score, so that its logarithm is finite."""

OVERSAMPLE, IMPORTANT = 3, 0.75
"""How many points are drawn for each that is kept, and the share kept for being uncertain."""


class Segments(NamedTuple):
    """The segments of one image: one per class that is in it."""

    classes: Tensor  # (S,)
    masks: Tensor  # (S, H, W), 0 or 1


class Weights(NamedTuple):
    """Of the terms in cost and loss, as the authors chose them."""

    classes: float = 2.0
    masks: float = 5.0
    dice: float = 5.0
    nothing: float = 0.1  # of queries that are matched with no segment
    points: int = 12544  # at which masks are compared


class Comparison(NamedTuple):
    """How logits of masks are compared with segments: a term for the masks, and one of overlap."""

    costs: Callable[[Tensor, Tensor, Weights], tuple[Tensor, Tensor]]
    """``(Q, h, w)`` and ``(S, H, W)`` to two of ``(Q, S)``, each mask with each segment."""

    terms: Callable[[Tensor, Tensor, Weights], tuple[Tensor, Tensor]]
    """``(M, h, w)`` and ``(M, H, W)`` to two means, each mask with its segment."""


def segments_of(target: Tensor, num_classes: int, dtype: torch.dtype) -> list[Segments]:
    """Return the segments of ``(N, H, W)`` train ids; where K = 1 the only one is that of id 1."""
    held = []
    for ids in target:
        present = ids.unique()
        present = present[present != IGNORE]
        if num_classes == 1:
            present = present[present == 1]
        masks = (ids[None] == present[:, None, None]).to(dtype)
        held.append(Segments(present - int(num_classes == 1), masks))
    return held


def assign(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each row the column of the cheapest assignment that uses no column twice.

    The Hungarian method with shortest augmenting paths; there are at least as many columns.

    Example:
        >>> assign(np.array([[1.0, 2.0, 9.0], [1.0, 5.0, 9.0]])).tolist()
        [1, 0]
    """
    rows, columns = cost.shape
    price_row, price_column = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)  # row that each column is given to
    for row in range(rows):
        distance, came = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, dtype=bool)
        i, reached, least = row, -1, 0.0
        while True:
            step = least + cost[i] - price_row[i] - price_column
            better = ~done & (step < distance)
            distance[better], came[better] = step[better], reached
            reached = int(np.argmin(np.where(done, np.inf, distance)))
            least = distance[reached]
            done[reached] = True
            if owner[reached] < 0:
                break
            i = owner[reached]
        passed = done & (owner >= 0)
        price_row[row] += least
        price_row[owner[passed]] += least - distance[passed]
        price_column[done] -= least - distance[done]
        while reached >= 0:  # give every column on the way to the row before it
            before = came[reached]
            owner[reached] = row if before < 0 else owner[before]
            reached = before
    chosen = np.empty(rows, dtype=np.int64)
    chosen[owner[owner >= 0]] = np.flatnonzero(owner >= 0)
    return chosen


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """Return ``(M, P)`` values of ``(M, h, w)`` maps at points ``(M or 1, P, 2)`` in [0, 1]."""
    grid = (2 * points - 1)[:, :, None].expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, :, 0]


def uncertain_points(masks: Tensor, count: int) -> Tensor:
    """Return ``(M, count, 2)`` points, most of them where logits ``(M, h, w)`` are near zero."""
    drawn = torch.rand(len(masks), OVERSAMPLE * count, 2, dtype=masks.dtype, device=masks.device)
    important = int(IMPORTANT * count)
    near = at_points(masks, drawn).abs().topk(important, dim=1, largest=False).indices
    chosen = drawn.gather(1, near[..., None].expand(-1, -1, 2))
    rest = torch.rand(len(masks), count - important, 2, dtype=masks.dtype, device=masks.device)
    return torch.cat([chosen, rest], dim=1)


def dice_costs(shares: Tensor, truth: Tensor) -> Tensor:
    """Return ``(Q, S)`` Dice losses of probabilities ``(Q, P)`` with all of ``(S, P)``."""
    overlap = 2 * shares @ truth.T
    return 1 - (overlap + 1) / (shares.sum(-1)[:, None] + truth.sum(-1)[None] + 1)


def dice_term(shares: Tensor, truth: Tensor) -> Tensor:
    """Return the mean Dice loss of probabilities ``(M, P)``, each with its own of ``(M, P)``."""
    overlap = 2 * (shares * truth).sum(-1)
    return (1 - (overlap + 1) / (shares.sum(-1) + truth.sum(-1) + 1)).mean()


def point_costs(masks: Tensor, truth: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return cross entropy and Dice at random points, the same for all masks."""
    points = torch.rand(1, weights.points, 2, dtype=masks.dtype, device=masks.device)
    got, want = at_points(masks, points), at_points(truth, points)
    positive, negative = F.softplus(-got), F.softplus(got)
    bce = (positive @ want.T + negative @ (1 - want).T) / weights.points
    return bce, dice_costs(got.sigmoid(), want)


def point_terms(masks: Tensor, truth: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return cross entropy and Dice at points of each mask, most where it is uncertain."""
    points = uncertain_points(masks.detach(), weights.points)
    got, want = at_points(masks, points), at_points(truth, points)
    return F.binary_cross_entropy_with_logits(got, want), dice_term(got.sigmoid(), want)


POINTS = Comparison(point_costs, point_terms)
"""That of Mask2Former."""


def matched(
    classes: Tensor,
    masks: Tensor,
    segments: Segments,
    weights: Weights,
    comparison: Comparison = POINTS,
) -> Tensor:
    """Return the query ``(S,)`` that each segment of an image is matched with.

    Args:
        classes: ``(Q, K + 1)`` logits.
        masks: ``(Q, h, w)`` logits.
        segments: of the image.
        weights: of the terms.
        comparison: of masks with segments.
    """
    with torch.no_grad():
        mask, dice = comparison.costs(masks, segments.masks, weights)
        right = classes.softmax(-1)[:, segments.classes]
        cost = weights.masks * mask + weights.dice * dice - weights.classes * right
        table = cost.T.double().nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
    return torch.as_tensor(assign(table[: cost.shape[0]]), device=masks.device)


def set_loss(
    classes: Tensor,
    masks: Tensor,
    segments: list[Segments],
    weights: Weights,
    comparison: Comparison = POINTS,
) -> dict[str, Tensor]:
    """Return the weighted terms ``"classes"``, ``"masks"`` and ``"dice"`` of one prediction.

    Args:
        classes: ``(N, Q, K + 1)`` logits; the last means nothing.
        masks: ``(N, Q, h, w)`` logits.
        segments: of each image, at any resolution; at most Q.
        weights: of the terms.
        comparison: of masks with segments.
    """
    n, queries, outputs = classes.shape
    wanted = torch.full((n, queries), outputs - 1, device=classes.device)
    got, want = [], []
    for i, each in enumerate(segments):
        if len(each.classes) == 0:
            continue
        chosen = matched(classes[i], masks[i], each, weights, comparison)
        wanted[i, chosen] = each.classes[: len(chosen)]
        got.append(masks[i, chosen])
        want.append(each.masks[: len(chosen)])
    share = torch.ones(outputs, dtype=classes.dtype, device=classes.device)
    share[-1] = weights.nothing
    terms = {"classes": F.cross_entropy(classes.transpose(1, 2), wanted, share)}
    if got:
        mask, dice = comparison.terms(torch.cat(got), torch.cat(want), weights)
        terms |= {"masks": mask, "dice": dice}
    else:
        terms["masks"] = terms["dice"] = 0 * masks.sum()
    return {name: getattr(weights, name) * term for name, term in terms.items()}


def total_loss(
    predictions: list[tuple[Tensor, Tensor]],
    target: Tensor,
    num_classes: int,
    size: tuple[int, int],
    weights: Weights,
    comparison: Comparison = POINTS,
) -> dict[str, Tensor]:
    """Return the terms summed over the ``(classes, masks)`` of every layer.

    Args:
        predictions: of each layer that is trained on.
        target: ``(N, H, W)`` train ids.
        num_classes: K.
        size: of the padded images, to which the masks belong.
        weights: of the terms.
        comparison: of masks with segments.
    """
    height, width = size
    padding = (0, width - target.shape[-1], 0, height - target.shape[-2])
    padded = F.pad(target, padding, value=IGNORE)
    segments = segments_of(padded, num_classes, predictions[0][1].dtype)
    terms = [set_loss(*each, segments, weights, comparison) for each in predictions]
    return {name: torch.stack([each[name] for each in terms]).sum() for name in terms[0]}


def semantic_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Return logits ``(N, K, h, w)`` whose order is that of the authors' scores.

    A class's score at a pixel is the sum over queries of the probability of the class times that
    of the mask; its logarithm makes softmax return the scores' shares. For K = 1 the score itself
    is taken as the probability.

    Masks that are all far from a pixel keep their order there: the largest of their probabilities
    is taken out of the sum as its logarithm, for their own values are below what float32, and the
    sigmoid of ONNX Runtime far earlier, can tell from zero.

    Args:
        classes: ``(N, Q, K + 1)`` logits; the last means nothing.
        masks: ``(N, Q, h, w)`` logits.
    """
    shares = classes.softmax(dim=-1)[..., :-1]
    masks = -F.softplus(-masks)  # logarithms of their probabilities
    largest = masks.amax(dim=1, keepdim=True)
    sums = torch.einsum("nqk,nqhw->nkhw", shares, (masks - largest).exp())
    scores = sums.clamp_min(LEAST).log() + largest
    if scores.shape[1] == 1:
        return scores - (1 - scores.exp()).clamp_min(LEAST).log()
    return scores

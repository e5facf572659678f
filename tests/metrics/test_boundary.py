"""Scores of borders against plain loops over pixels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semseg.core.checks import InputError
from semseg.metrics import BFScore, BoundaryIoU, ConfusionMatrix, Trimap
from semseg.metrics.boundary import border_band, contour
from tests.metrics.support import K, batch

IGNORE = 255


def eroded(mask: Tensor, times: int) -> Tensor:
    """Erode ``(N, H, W)`` masks by 3 x 3 pixels, one time after the other."""
    out = F.pad(mask.float(), (1, 1, 1, 1))
    for _ in range(times):
        out = F.pad(-F.max_pool2d(-out, 3, 1), (1, 1, 1, 1))
    return out[:, 1:-1, 1:-1] > 0


def stamped() -> tuple[Tensor, Tensor]:
    prediction, target, _ = batch()
    return torch.where(target == IGNORE, IGNORE, prediction), target


@pytest.mark.parametrize("width", [1, 2, 3, 9, 40])
def test_band_is_what_erosions_take_away(width: int) -> None:
    for labels in stamped():
        left = sum(eroded(labels == c, width) for c in (*range(K), IGNORE))
        assert torch.equal(border_band(labels, width), ~left.bool())


def test_boundary_iou_by_hand() -> None:
    target = torch.zeros(1, 7, 7).long()
    target[0, 1:6, 1:6] = 1
    prediction = torch.zeros(1, 7, 7).long()
    prediction[0, 1:6, 1:5] = 1
    metric = BoundaryIoU(2)
    metric.update(prediction, target)
    # class 1: rings of 16 and 14 pixels, of which 11 are in both; class 0: all its pixels, which
    # are 24 and 29
    assert metric.result()["per_class"] == pytest.approx([24 / 29, 11 / 19])
    assert metric.result()["boundary_iou"] == pytest.approx((24 / 29 + 11 / 19) / 2)


def lines(labels: Tensor) -> list[list[tuple[int, int]]]:
    """Contour pixels of each class of one image, by a loop."""
    height, width = labels.shape
    found: list[list[tuple[int, int]]] = [[] for _ in range(K)]
    for y in range(height):
        for x in range(width):
            beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            near = [int(labels[v, u]) for v, u in beside if 0 <= v < height and 0 <= u < width]
            own = int(labels[y, x])
            if own != IGNORE and any(other not in (own, IGNORE) for other in near):
                found[own].append((y, x))
    return found


def share(points: list[tuple[int, int]], of: list[tuple[int, int]], reach: float) -> float:
    near = [any(math.dist(p, q) <= reach for q in of) for p in points]
    return sum(near) / len(near)


@pytest.mark.parametrize("tolerance", [0.0075, 0.04])
def test_bf_score_against_a_loop(tolerance: float) -> None:
    metric = BFScore(K, tolerance=tolerance)
    metric.update(*batch())
    per_image, per_class = [], [[] for _ in range(K)]
    for guess, truth in zip(*stamped(), strict=True):
        pair = lines(guess), lines(truth)
        scores = []
        for label in range(K):
            held = (guess == label).any(), (truth == label).any()
            if not any(held):
                continue
            score = 0.0
            if all(held):
                reach = tolerance * math.hypot(24, 32)
                precision = share(pair[0][label], pair[1][label], reach)
                recall = share(pair[1][label], pair[0][label], reach)
                score = 2 * precision * recall / (precision + recall)
            scores.append(score)
            per_class[label].append(score)
        per_image.append(sum(scores) / len(scores))
    got = metric.result()
    assert got["bf_score"] == pytest.approx(sum(per_image) / 4)
    expected = [sum(s) / len(s) if s else None for s in per_class]
    assert got["per_class"] == [None if e is None else pytest.approx(e) for e in expected]


def test_a_class_without_contour() -> None:
    full, other = torch.zeros(1, 4, 4).long(), torch.ones(1, 4, 4).long()
    right, wrong = BFScore(2), BFScore(2)
    right.update(full, full)
    wrong.update(other, full)
    assert right.result()["bf_score"] == 1
    assert wrong.result()["bf_score"] == 0
    half = full.clone()
    half[:, 2:] = 1
    some = BFScore(2)
    some.update(half, full)
    assert some.result()["per_class"] == [0, 0]


def test_contour_is_that_of_the_loop() -> None:
    for labels in (x for pair in stamped() for x in pair):
        expected = torch.zeros_like(labels, dtype=torch.bool)
        for points in lines(labels):
            for y, x in points:
                expected[y, x] = True
        assert torch.equal(contour(labels[None], IGNORE)[0], expected)


@pytest.mark.parametrize("around", ["borders", "ignored"])
def test_trimap_against_a_loop(around: str) -> None:
    widths = (1, 3, 4, 40)
    metric = Trimap(K, widths=widths, around=around)
    prediction, target, _ = batch()
    metric.update(prediction, target)
    got = metric.result()
    for width, miou, accuracy in zip(widths, got["miou"], got["accuracy"], strict=True):
        matrix = ConfusionMatrix(K)
        for guess, truth in zip(prediction, target, strict=True):
            if around == "borders":
                centres, reach = [p for points in lines(truth) for p in points], width - 1
            else:
                centres, reach = (truth == IGNORE).nonzero().tolist(), width
            yx = truth.new_tensor(centres)
            pixels = (truth != IGNORE).nonzero()
            close = ((pixels[:, None] - yx) ** 2).sum(-1).amin(1) <= reach**2
            y, x = pixels[close].unbind(1)
            matrix.update(guess[y, x], truth[y, x])
        assert miou == pytest.approx(matrix.scores().miou)
        assert accuracy == pytest.approx(matrix.scores().accuracy)


@pytest.mark.parametrize("widths", [(), (0, 1), (2, 1), (1, 1)])
def test_trimap_widths_must_rise(widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="trimap widths must rise from 1 or more, got"):
        Trimap(2, widths=widths)

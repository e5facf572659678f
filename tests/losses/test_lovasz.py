"""Lovász losses: at the corners of the cube they are the Jaccard loss itself."""

from __future__ import annotations

import pytest
import torch

from semseg.losses import lovasz_hinge, lovasz_softmax
from semseg.metrics import ConfusionMatrix


def batch(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(max(2, classes), (2, 9, 8), generator=generator)
    target = torch.randint(max(2, classes), (2, 9, 8), generator=generator)
    target[0, :2] = 255
    return prediction, target


def test_softmax_of_certain_pixels_is_one_minus_miou() -> None:
    prediction, target = batch(4)
    logits = 100 * torch.nn.functional.one_hot(prediction, 4).movedim(-1, 1).double()
    matrix = ConfusionMatrix(4)
    matrix.update(prediction, target)
    expected = 1 - matrix.scores("gt").miou
    assert lovasz_softmax(logits, target).item() == pytest.approx(expected)


def test_hinge_of_certain_pixels_is_twice_the_jaccard_loss() -> None:
    # logits 1 and -1: hinges are 2 for wrong pixels and 0 for right ones
    prediction, target = batch(1)
    logits = (2.0 * prediction - 1)[:, None].double()
    losses = []
    for p, t in zip(prediction, target, strict=True):
        matrix = ConfusionMatrix(2)
        matrix.update(p, t)
        losses.append(1 - matrix.scores().iou[1])
    expected = 2 * sum(losses) / 2
    assert lovasz_hinge(logits, target).item() == pytest.approx(expected)


def test_an_image_without_labels_counts_as_zero() -> None:
    _, target = batch(3)
    logits = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(1)).double()
    alone = lovasz_softmax(logits[1:], target[1:], per_image=True)
    target[0] = 255
    got = lovasz_softmax(logits, target, per_image=True)
    torch.testing.assert_close(got, alone / 2)


def test_many_pixels_keep_their_own_slopes() -> None:
    """Steps of 1 / pixels near 1 vanish in float32, unless they are taken in float64."""
    pixels = 1_000_000
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 1, 1, pixels, generator=generator).requires_grad_()
    target = torch.ones(1, 1, pixels).long()
    lovasz_hinge(logits, target).backward()
    # every pixel is of the class: each one with a hinge moves the Jaccard loss by 1 / pixels
    slope = -logits.grad[logits < 1] * pixels
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=1e-4, atol=0)

"""Focal loss: its limits, its factors, and the form that detectors use."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.losses import LossTerm, build_criterion, cross_entropy, focal


def batch(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=generator)
    target = torch.randint(max(classes, 2), (2, 6, 7), generator=generator)
    target[0, :2] = 255
    return logits, target


@pytest.mark.parametrize("classes", [1, 3])
def test_without_focus_it_is_cross_entropy(classes: int) -> None:
    logits, target = batch(classes)
    torch.testing.assert_close(focal(logits, target, gamma=0), cross_entropy(logits, target))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_one_channel_equals_two_channels(gamma: float) -> None:
    logits, target = batch(1)
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    weight = torch.tensor([0.3, 2.0])
    torch.testing.assert_close(
        focal(logits, target, gamma=gamma, weight=weight),
        focal(two, target, gamma=gamma, weight=weight),
    )


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_class_by_class_it_is_the_detectors_loss(alpha: float | None, gamma: float) -> None:
    logits, target = batch(3)
    valid = target != 255
    truth = torch.nn.functional.one_hot(target.where(valid, 0), 3).movedim(-1, 1).float()
    given = -1 if alpha is None else alpha  # torchvision's word for no alpha
    each = sigmoid_focal_loss(logits, truth, alpha=given, gamma=gamma)
    expected = (each.sum(1) * valid).sum() / valid.sum()
    got = focal(logits, target, alpha=alpha, gamma=gamma, sigmoid=True)
    torch.testing.assert_close(got, expected)


def test_certain_pixels_have_a_finite_slope() -> None:
    logits = torch.tensor([[[[60.0]], [[-60.0]]]], requires_grad=True)
    focal(logits, torch.zeros(1, 1, 1).long(), gamma=0.5).backward()
    assert logits.grad.isfinite().all()


def test_alpha_with_a_softmax_is_refused() -> None:
    logits, target = batch(3)
    with pytest.raises(InputError, match="a softmax over 3 classes; give class weights"):
        focal(logits, target, alpha=0.25)


def test_a_recipe_sets_everything() -> None:
    logits, target = batch(3)
    settings = {"gamma": 1.5, "alpha": 0.3, "sigmoid": True, "class_weights": [1, 2, 3]}
    labels = LabelMap.from_names(["a", "b", "c"])
    got = build_criterion([LossTerm(name="focal", settings=settings)], labels)(logits, target)
    weight = torch.tensor([1.0, 2.0, 3.0])
    expected = focal(logits, target, gamma=1.5, alpha=0.3, sigmoid=True, weight=weight)
    torch.testing.assert_close(got, expected)

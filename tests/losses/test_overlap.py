"""Jaccard and Tversky: how they hang together, absent classes, and their settings."""

from __future__ import annotations

import pytest
import torch

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.losses import LossTerm, build_criterion, dice, focal_tversky, jaccard, tversky


def batch(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 6, 7, generator=generator)
    target = torch.randint(max(classes, 2), (2, 6, 7), generator=generator)
    target[0, :2] = 255
    return logits, target


@pytest.mark.parametrize("classes", [1, 3])
def test_tversky_holds_dice_and_jaccard(classes: int) -> None:
    logits, target = batch(classes)
    half = tversky(logits, target, false_positive=0.5, false_negative=0.5)
    torch.testing.assert_close(half, dice(logits, target))
    whole = tversky(logits, target, false_positive=1, false_negative=1)
    torch.testing.assert_close(whole, jaccard(logits, target))
    torch.testing.assert_close(focal_tversky(logits, target, gamma=1), tversky(logits, target))


@pytest.mark.parametrize("loss", [dice, jaccard, tversky, focal_tversky])
def test_absent_classes_are_left_out(loss) -> None:
    logits, target = batch()
    target[target == 2] = 255
    logits.requires_grad_()
    value = loss(logits, target)
    probability = logits.detach().softmax(1)
    valid = target != 255
    # the mean of the two classes present, each as one channel with these probabilities
    each = [
        loss(probability[:, c : c + 1].logit(), torch.where(valid, (target == c).long(), 255))
        for c in (0, 1)
    ]
    torch.testing.assert_close(value, sum(each) / 2)
    value.backward()
    assert logits.grad.isfinite().all()


def test_misses_cost_more_than_false_alarms() -> None:
    target = torch.tensor([[[1, 1, 0, 0]]])
    misses = torch.tensor([[[[9.0, -9, -9, -9]]]])
    alarms = torch.tensor([[[[9.0, 9, 9, -9]]]])
    assert tversky(misses, target) > tversky(alarms, target)
    swapped = {"false_positive": 0.7, "false_negative": 0.3}
    assert tversky(misses, target, **swapped) < tversky(alarms, target, **swapped)


@pytest.mark.parametrize("name", ["jaccard", "tversky", "focal_tversky"])
def test_sigmoid_takes_each_class_alone(name: str) -> None:
    logits, target = batch()
    target[target == 255] = 0
    labels = LabelMap.from_names(["a", "b", "c"])
    term = LossTerm(name=name, settings={"sigmoid": True})
    each = [
        build_criterion([LossTerm(name=name)], labels)(logits[:, [c]], (target == c).long())
        for c in range(3)
    ]
    torch.testing.assert_close(build_criterion([term], labels)(logits, target), sum(each) / 3)


def test_a_recipe_sets_the_weights() -> None:
    logits, target = batch()
    labels = LabelMap.from_names(["a", "b", "c"])
    settings = {"false_positive": 0.2, "false_negative": 0.9, "gamma": 2.0}
    got = build_criterion([LossTerm(name="focal_tversky", settings=settings)], labels)
    torch.testing.assert_close(got(logits, target), focal_tversky(logits, target, **settings))


def test_targets_that_fit_nothing_are_refused() -> None:
    logits, target = batch()
    with pytest.raises(InputError, match="jaccard takes logits"):
        jaccard(logits, target[:, 1:])
    message = r"tversky takes int64 targets \(N, H, W\), or \(N, K, H, W\) for classes that do not"
    with pytest.raises(InputError, match=message):
        tversky(logits, target[:, None])

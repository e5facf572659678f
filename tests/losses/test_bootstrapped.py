"""Bootstrapped cross entropy against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.losses import LossTerm, build_criterion
from semseg.losses.bootstrapped import bootstrapped_cross_entropy

LABELS = LabelMap.from_names(["a", "b", "c"])


def batch(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 6, 7, generator=generator)
    target = torch.randint(max(classes, 2), (2, 6, 7), generator=generator)
    target[0, :2] = 255
    return logits, target


@pytest.mark.parametrize("pixels", [1, 10, 27])
def test_it_is_the_mean_of_each_images_worst_pixels(pixels: int) -> None:
    logits, target = batch()
    probability = logits.softmax(1).clamp_min(1e-30).log()
    per_image = []
    for scores, truth in zip(probability, target, strict=True):
        losses = [
            -scores[truth[y, x], y, x].item() for y in range(6) for x in range(7) if truth[y, x] < 3
        ]
        per_image.append(sum(sorted(losses)[-pixels:]) / pixels)
    got = bootstrapped_cross_entropy(logits, target, pixels=pixels)
    assert got.item() == pytest.approx(sum(per_image) / 2, rel=1e-5)


def test_ignored_pixels_fill_up_with_zero_losses() -> None:
    logits, target = batch()
    target[:] = 255
    target[:, 0, 0] = 1
    each = F.cross_entropy(logits[:, :, 0, 0], target[:, 0, 0], reduction="none")
    got = bootstrapped_cross_entropy(logits, target, pixels=4)
    torch.testing.assert_close(got, each.mean() / 4)


def test_a_small_image_gives_all_its_pixels() -> None:
    logits, target = batch()
    target[target == 255] = 0
    want = F.cross_entropy(logits, target)
    torch.testing.assert_close(bootstrapped_cross_entropy(logits, target), want)


def test_one_channel_is_binary() -> None:
    logits, target = batch(classes=1)
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(
        bootstrapped_cross_entropy(logits, target, pixels=9),
        bootstrapped_cross_entropy(two, target, pixels=9),
    )


def test_gradient_reaches_the_worst_pixels_alone() -> None:
    logits, target = batch()
    logits.requires_grad_()
    bootstrapped_cross_entropy(logits, target, pixels=5).backward()
    touched = logits.grad.abs().sum(1) > 0
    assert touched.flatten(1).sum(1).tolist() == [5, 5]


def test_half_precision_is_summed_in_float32() -> None:
    logits, target = batch()
    got = bootstrapped_cross_entropy(logits.bfloat16(), target, pixels=5)
    want = bootstrapped_cross_entropy(logits.bfloat16().float(), target, pixels=5)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


def test_a_recipe_names_it() -> None:
    term = LossTerm(name="bootstrapped_cross_entropy", settings={"pixels": 5})
    logits, target = batch()
    got = build_criterion([term], LABELS)(logits, target)
    assert torch.equal(got, bootstrapped_cross_entropy(logits, target, pixels=5))
    with pytest.raises(ValueError, match="loss bootstrapped_cross_entropy: pixels is 0"):
        LossTerm(name="bootstrapped_cross_entropy", settings={"pixels": 0})


def test_shapes_that_do_not_fit_are_refused() -> None:
    logits, target = batch()
    with pytest.raises(InputError, match="bootstrapped_cross_entropy takes logits"):
        bootstrapped_cross_entropy(logits, target[:, 1:])

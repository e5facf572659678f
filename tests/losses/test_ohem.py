"""Mined cross entropy against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.losses import LossTerm, build_criterion
from semseg.losses.ohem import ohem_cross_entropy

LABELS = LabelMap.from_names(["a", "b", "c"])


def batch(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, classes, 6, 7, generator=generator)
    target = torch.randint(max(classes, 2), (2, 6, 7), generator=generator)
    target[0, :2] = 255
    return logits, target


@pytest.mark.parametrize("probability", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("least", [1, 30, 1000])
def test_by_the_authors_rule(probability: float, least: int) -> None:
    logits, target = batch()
    truth = logits.softmax(1).movedim(1, -1)[target != 255]
    sure = truth.gather(1, target[target != 255][:, None])[:, 0]
    # sorted, the threshold is the larger of the given one and of that of the least-th pixel
    ordered = sure.sort().values
    threshold = max(probability, ordered[min(least, len(ordered) - 1)].item())
    kept = sure[sure < threshold] if least < len(sure) else sure
    got = ohem_cross_entropy(logits, target, probability=probability, least=least)
    assert got.item() == pytest.approx(-kept.log().mean().item(), rel=1e-5)


def test_all_pixels_are_plain_cross_entropy() -> None:
    logits, target = batch()
    want = F.cross_entropy(logits, target, ignore_index=255)
    torch.testing.assert_close(ohem_cross_entropy(logits, target, probability=1.0), want)


def test_ignored_pixels_have_no_influence_and_a_batch_of_them_gives_zero() -> None:
    logits, target = batch()
    logits.requires_grad_()
    ohem_cross_entropy(logits, target, least=10).backward()
    assert not logits.grad.movedim(1, -1)[target == 255].any()
    target[:] = 255
    loss = ohem_cross_entropy(logits, target)
    loss.backward()
    assert loss.item() == 0


def test_one_channel_is_binary() -> None:
    logits, target = batch(classes=1)
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(
        ohem_cross_entropy(logits, target, least=5), ohem_cross_entropy(two, target, least=5)
    )


def test_gradient() -> None:
    logits, target = batch()
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ohem_cross_entropy(x, target, least=9), logits)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="ohem_cross_entropy"):
        ohem_cross_entropy(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5).long())


def test_a_recipe_can_ask_for_it() -> None:
    logits, target = batch()
    term = LossTerm(name="ohem_cross_entropy", settings={"probability": 0.5, "least": 7})
    got = build_criterion([term], LABELS)(logits, target)
    torch.testing.assert_close(got, ohem_cross_entropy(logits, target, probability=0.5, least=7))

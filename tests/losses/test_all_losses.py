"""What every loss promises: a value done by hand, and laws that hold for each name in the list."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semseg.core.labels import LabelMap
from semseg.losses import LOSSES, ClassCounts, LossTerm, build_criterion, list_losses

IGNORE = 255
NAMES = list_losses()
COUNTS = ClassCounts((10, 20, 40), (100, 100, 100))


def build(name: str, channels: int, **settings: Any) -> nn.Module:
    """Return a loss for a network with that many channels; one channel means two classes."""
    names = ["a", "b", "c"][: max(2, channels)]
    labels = LabelMap.from_names(names, ignore={IGNORE: "void"})
    return LOSSES[name](**settings).build(labels, COUNTS)


def batch(channels: int, side: int = 8) -> tuple[Tensor, Tensor]:
    """Return logits without ties and a target of patches, its first row ignored."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, channels, side, side, generator=generator, dtype=torch.float64)
    y, x = torch.arange(side)[:, None], torch.arange(side)
    target = ((y + 2 * x) // 5 % max(2, channels)).expand(2, -1, -1).clone()
    target[1] = target[1].flip(0)
    target[:, 0] = IGNORE
    return logits, target


# ---- two by two pixels, by hand ----------------------------------------------------------------

LOGITS = torch.tensor([[[[1.0, 0.0], [2.0, 9.0]], [[0.0, 3.0], [0.0, 0.0]]]])
TARGET = torch.tensor([[[0, 1], [1, IGNORE]]])


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


# probability of class 0 and of class 1 at the three labelled pixels
A = [sigmoid(1), sigmoid(-3), sigmoid(2)]
B = [1 - a for a in A]
TRUE = [A[0], B[1], B[2]]


def entropy(power: float = 0) -> float:
    return sum(-((1 - p) ** power) * math.log(p) for p in TRUE) / 3


def overlap(a: float, b: float, power: float = 1) -> float:
    first = A[0] / (A[0] + a * (A[1] + A[2]) + b * (1 - A[0]))
    second = (B[1] + B[2]) / (B[1] + B[2] + a * B[0] + b * (2 - B[1] - B[2]))
    return ((1 - first) ** power + (1 - second) ** power) / 2


def lovasz_softmax() -> float:
    # class 0, largest error first: a wrong pixel, the class's own, a wrong one; Jaccard loss
    # 1 - 1/2, 1 - 0/2, 1 - 0/3. Class 1: own, wrong, own; 1 - 1/2, 1 - 1/3, 1 - 0/3.
    first = 0.5 * A[2] + 0.5 * (1 - A[0])
    second = 0.5 * (1 - B[2]) + B[0] / 6 + (1 - B[1]) / 3
    return (first + second) / 2


def lovasz_hinge() -> float:
    # class 0: hinges 3 (wrong), 1 (wrong), 0 (own) with steps 1/2, 1/6, 1/3; class 1: hinges 1, 1
    # and -2, of which 2/3 of the Jaccard loss is reached by the first two
    return ((3 / 2 + 1 / 6) + 2 / 3) / 2


def rmi() -> float:
    # regions of one pixel; the ignored one counts as 0 in truth and probability
    truth, logits = ([1, 0, 0, 0], [0, 1, 1, 0]), ([1, 0, 2], [0, 3, 0])
    cross, bound = 0.0, 0.0
    for y, z in zip(truth, logits, strict=True):
        q = [*(sigmoid(v) for v in z), 0.0]
        cross -= sum(math.log(p if t else 1 - p) for p, t in zip(q[:3], y, strict=False))
        dy, dq = ([v - sum(values) / 4 for v in values] for values in (y, q))
        yy, qq = sum(v * v for v in dy), sum(v * v for v in dq)
        yq = sum(v * w for v, w in zip(dy, dq, strict=True))
        bound += 0.5 * math.log(yy - yq**2 / (qq + 5e-4) + 5e-4)
    return 0.5 * cross / (3 + 1) + 0.5 * bound


def hausdorff() -> float:
    # all distances to borders are 1, but sqrt(2) from pixel 2 to the predicted border of class 1
    first = 2 * ((1 - A[0]) ** 2 + A[1] ** 2 + A[2] ** 2)
    return (first + 2 * B[0] ** 2 + 2 * (1 - B[1]) ** 2 + 3 * (1 - B[2]) ** 2) / 6


HAND: dict[str, tuple[dict[str, Any], Callable[[], float]]] = {
    "bootstrapped_cross_entropy": (
        {"pixels": 2},
        lambda: -(math.log(B[2]) + math.log(A[0])) / 2,
    ),
    # a single object, so no gap weighs more
    "border_cross_entropy": ({}, entropy),
    "boundary": ({}, lambda: (A[1] + A[2] + B[0]) / 6),
    "cross_entropy": ({}, entropy),
    "dice": ({}, lambda: overlap(0.5, 0.5)),
    "focal": ({}, lambda: entropy(2)),
    "focal_tversky": ({}, lambda: overlap(0.3, 0.7, 3 / 4)),
    "hausdorff": ({}, hausdorff),
    "jaccard": ({}, lambda: overlap(1, 1)),
    "lovasz_hinge": ({}, lovasz_hinge),
    "lovasz_softmax": ({}, lovasz_softmax),
    "ohem_cross_entropy": ({"least": 1}, lambda: -math.log(B[2])),
    "rmi": ({"radius": 1, "stride": 1}, rmi),
    "tversky": ({}, lambda: overlap(0.3, 0.7)),
}


def test_every_loss_is_done_by_hand() -> None:
    assert sorted(HAND) == NAMES


@pytest.mark.parametrize("name", HAND)
def test_two_by_two_pixels(name: str) -> None:
    settings, expected = HAND[name]
    got = build(name, 2, **settings)(LOGITS, TARGET)
    assert got.item() == pytest.approx(expected(), rel=2e-5)


# ---- laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_ignored_pixels_have_no_influence(name: str, channels: int) -> None:
    loss = build(name, channels)
    logits, target = batch(channels)
    other = logits.clone()
    other[:, :, 0] = torch.randn(2, channels, 8, dtype=torch.float64) * 20
    logits.requires_grad_()
    value = loss(logits, target)
    assert value.item() == loss(other, target).item()
    (gradient,) = torch.autograd.grad(value, logits)
    assert not gradient[:, :, 0].any()
    assert gradient[:, :, 1:].any(1).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_all_ignored_gives_zero_and_zero_gradient(name: str, channels: int) -> None:
    logits = batch(channels)[0].float().requires_grad_()
    value = build(name, channels)(logits, torch.full((2, 8, 8), IGNORE))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradient_is_that_of_the_value(name: str, channels: int) -> None:
    loss = build(name, channels)
    logits, target = batch(channels)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(name: str, channels: int, dtype: torch.dtype) -> None:
    # 300 x 300 pixels: their count alone is beyond float16
    loss = build(name, channels)
    target = torch.arange(300).expand(1, 300, 300) // 150
    logits = torch.stack([2.0 * (target != c) - 0.5 for c in range(channels)], 1).to(dtype)
    value = loss(logits, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(logits.double(), target).item(), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_half_floats_stay_finite(name: str, channels: int, sign: int) -> None:
    # all right or all wrong, by as much as float16 can say
    _, target = batch(channels)
    known = target.clamp(max=2)
    classes = torch.arange(channels) if channels > 1 else torch.ones(1)
    right = known[:, None] == classes.view(1, -1, 1, 1)
    logits = (torch.where(right, 65504.0, -65504.0) * sign).half().requires_grad_()
    value = build(name, channels)(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_names_it(name: str) -> None:
    logits, target = batch(3)
    labels = LabelMap.from_names(["a", "b", "c"], ignore={IGNORE: "void"})
    criterion = build_criterion([LossTerm(name=name, weight=2.0)], labels, COUNTS)
    expected = 2 * build(name, 3)(logits, target)
    torch.testing.assert_close(criterion(logits, target), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_list_holds_no_second_copy_of_a_loss(name: str) -> None:
    """Each value differs from every other loss's on one batch, so no name is bound wrongly."""
    logits, target = batch(3)
    ordinary = {"ohem_cross_entropy": {"least": 9}, "bootstrapped_cross_entropy": {"pixels": 9}}
    value = build(name, 3, **ordinary.get(name, {}))(logits, target).item()
    for other in set(NAMES) - {name}:
        assert value != build(other, 3, **ordinary.get(other, {}))(logits, target).item(), other


# ---- classes that do not exclude each other ----------------------------------------------------

SEVERAL = sorted(
    set(NAMES)
    - {
        "bootstrapped_cross_entropy",
        "border_cross_entropy",
        "cross_entropy",
        "ohem_cross_entropy",
    }
)


@pytest.mark.parametrize("name", SEVERAL)
def test_one_label_of_several_is_one_channel(name: str) -> None:
    loss = build(name, 1)
    logits, target = batch(1)
    torch.testing.assert_close(loss(logits, target[:, None]), loss(logits, target))


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_ignored_pixels_may_be_anything(name: str, channels: int, value: float) -> None:
    loss = build(name, channels)
    logits, target = batch(channels)
    expected = loss(logits, target)
    logits[:, :, 0] = value
    logits.requires_grad_()
    assert loss(logits, target).item() == expected.item()
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", SEVERAL)
def test_labels_may_be_ignored_one_by_one(name: str) -> None:
    loss = build(name, 3)
    logits, _ = batch(3)
    generator = torch.Generator().manual_seed(5)
    target = torch.randint(2, logits.shape, generator=generator)
    target[:, 0, 2:5] = IGNORE
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    assert not gradient[:, 0, 2:5].any()
    assert gradient[:, 1, 2:5].any()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits, fast_mode=True)

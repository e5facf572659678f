from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semseg.core.checks import InputError, SettingError
from semseg.kernels import cross_entropy as kernel
from semseg.kernels import upsample, upsample_cross_entropy
from semseg.losses import cross_entropy
from tests.kernels.support import LargestTensor


@pytest.fixture(autouse=True)
def in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested are the strips, which so little would not take."""
    monkeypatch.setattr(kernel, "FEW", 0)


def case(classes: int, shape: tuple[int, int], size: tuple[int, int], seed: int = 0):
    torch.manual_seed(seed)
    logits = torch.randn(3, classes, *shape, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, classes, (3, *size))
    target[torch.rand(target.shape) < 0.2] = 255
    target[0, 0, 0] = 0  # never all ignored
    return logits, target


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss * 3, logits)[0]


@settings(deadline=None, max_examples=80)
@given(
    st.integers(2, 8),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.7]),
    st.sampled_from([1, 60, 400, 2**18]),
)
def test_loss_and_gradient_are_those_of_cross_entropy(
    classes, shape, size, align_corners, weighted, smoothing, strip
) -> None:
    logits, target = case(classes, shape, size)
    weight = torch.rand(classes, dtype=torch.float64) if weighted else None
    settings = {"weight": weight, "label_smoothing": smoothing}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsample, "STRIP", strip)
        ours = upsample_cross_entropy(logits, target, align_corners=align_corners, **settings)
    full = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    theirs = F.cross_entropy(full, target, ignore_index=255, **settings)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        gradient(ours, logits), gradient(theirs, logits), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_all_at_once_is_the_same(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = case(5, (8, 9), (33, 41))
    weight = torch.rand(5, dtype=torch.float64) if weighted else None
    wanted = upsample_cross_entropy(logits, target, (40, 48), weight=weight, label_smoothing=0.1)
    assert "UpsampleCrossEntropy" in type(wanted.grad_fn).__name__
    monkeypatch.setattr(kernel, "FEW", 2**20)
    got = upsample_cross_entropy(logits, target, (40, 48), weight=weight, label_smoothing=0.1)
    assert "UpsampleCrossEntropy" not in type(got.grad_fn).__name__
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(gradient(got, logits), gradient(wanted, logits))


@pytest.mark.parametrize("padded", [(40, 48), (33, 41), (8, 9)])
def test_target_covers_the_upper_left_part(padded: tuple[int, int]) -> None:
    logits, target = case(4, (8, 9), (min(33, padded[0]), min(41, padded[1])))
    ours = upsample_cross_entropy(logits, target, padded)
    full = F.interpolate(logits, padded, mode="bilinear")
    cropped = full[..., : target.shape[1], : target.shape[2]]
    theirs = F.cross_entropy(cropped, target, ignore_index=255)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits))


def test_it_is_the_loss_that_recipes_name() -> None:
    logits, target = case(5, (6, 7), (24, 28))
    weight = torch.tensor([1.0, 2.0, 0.0, 0.5, 3.0])
    full = F.interpolate(logits, (24, 28), mode="bilinear")
    for options in ({}, {"weight": weight, "label_smoothing": 0.1}):
        ours = upsample_cross_entropy(logits, target, **options)
        torch.testing.assert_close(ours, cross_entropy(full, target, **options))


@pytest.mark.parametrize("weight", [None, torch.zeros(4)])
def test_nothing_labelled_gives_zero(weight: Tensor | None) -> None:
    logits, target = case(4, (4, 4), (9, 9))
    target = torch.full_like(target, 255) if weight is None else target
    loss = upsample_cross_entropy(logits, target, weight=weight)
    assert loss.item() == 0
    assert gradient(loss, logits).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_follows_float32(dtype: torch.dtype) -> None:
    logits, target = case(150, (8, 8), (32, 32))
    low = logits.detach().to(dtype).requires_grad_()
    wanted_at = low.detach().double().requires_grad_()
    full = F.interpolate(wanted_at, (32, 32), mode="bilinear")
    wanted = F.cross_entropy(full, target, ignore_index=255)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = upsample_cross_entropy(low, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    got = torch.autograd.grad(loss, low)[0]
    assert got.dtype == dtype
    least = 6e-8 if dtype == torch.float16 else 1e-9
    torch.testing.assert_close(
        got.double(), gradient(wanted, wanted_at) / 3, rtol=2 * torch.finfo(dtype).eps + 1e-5,
        atol=least,
    )  # fmt: skip


def test_a_loss_scale_keeps_small_gradients_in_half_precision() -> None:
    logits = torch.zeros(2, 4, 8, 8, dtype=torch.float16)
    logits[:, 0] = 13  # the others' gradients are below what float16 holds
    logits.requires_grad_()
    loss = upsample_cross_entropy(logits, torch.zeros(2, 32, 32, dtype=torch.int64))
    scaled = torch.autograd.grad(loss * 2**16, logits)[0][:, 1:].double()
    wanted = torch.full_like(scaled, 2**16 * math.exp(-13) / (2 * 8 * 8))
    torch.testing.assert_close(scaled, wanted, rtol=0.02, atol=0)


def test_large_logits_neither_overflow_nor_vanish() -> None:
    logits = torch.tensor([[[[1e4, -1e4]], [[-1e4, 1e4]]]], requires_grad=True)
    target = torch.tensor([[[1, 1, 0, 0]]])
    loss = upsample_cross_entropy(logits, target)
    wanted = F.cross_entropy(F.interpolate(logits, (1, 4), mode="bilinear"), target)
    torch.testing.assert_close(loss, wanted)
    assert gradient(loss, logits).isfinite().all()


def test_memory_does_not_follow_the_size() -> None:
    logits = torch.randn(2, 40, 32, 32, requires_grad=True)
    target = torch.randint(0, 40, (2, 512, 512))
    with LargestTensor() as seen:
        upsample_cross_entropy(logits, target).backward()
    # the whole would be 84 MB; what is largest is a mask's worth or a strip
    assert seen.bytes <= max(4 * upsample.STRIP, target.numel() * 8)
    with LargestTensor() as plain:
        full = F.interpolate(logits, (512, 512), mode="bilinear")
        F.cross_entropy(full, target).backward()
    assert plain.bytes > 15 * seen.bytes


def test_without_need_there_is_no_gradient() -> None:
    logits, target = case(4, (4, 4), (16, 16))
    assert not upsample_cross_entropy(logits.detach(), target).requires_grad
    with torch.no_grad():
        assert not upsample_cross_entropy(logits, target).requires_grad


def test_gradient_can_be_taken_twice_but_not_of_itself() -> None:
    logits, target = case(4, (4, 4), (16, 16))
    loss = upsample_cross_entropy(logits, target)
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    again = torch.autograd.grad(loss, logits, create_graph=True)[0]
    assert torch.equal(first, again)
    with pytest.raises(InputError) as error:
        again.sum().backward()
    assert str(error.value) == (
        "upsample_cross_entropy has no second derivative; use F.interpolate and F.cross_entropy "
        "for a loss on gradients"
    )


class TestRefusals:
    def refused(self, logits: Tensor, target: Tensor, *args, **settings) -> str:
        with pytest.raises(InputError) as error:
            upsample_cross_entropy(logits, target, *args, **settings)
        return str(error.value)

    def test_texts(self) -> None:
        logits, target = torch.zeros(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.int64)
        name = "upsample_cross_entropy"
        assert self.refused(logits[:, :1], target) == (
            f"{name} takes at least 2 classes, got 1; enlarge the logits of a sigmoid channel and "
            "take the binary cross entropy"
        )
        assert self.refused(logits, target.float()) == (
            f"{name} takes int64 targets (N, H, W) for logits (N, K, h, w), got torch.float32 "
            "(1, 8, 8) for (1, 3, 4, 4)"
        )
        assert self.refused(logits, target[:, :0]) == "the target is empty, (1, 0, 8)"
        assert self.refused(logits, target + 7) == "the target holds id 7; wanted 0 … 2 or 255"
        assert self.refused(logits, target - 1) == "the target holds id -1; wanted 0 … 2 or 255"
        assert self.refused(logits, target, (8, 7)) == (
            f"{name} enlarges to (8, 7), which does not cover the target's (8, 8); give the size "
            "of the padded images"
        )
        assert self.refused(logits, target, weight=torch.ones(4)) == (
            f"{name} takes one weight per class, got (4,) for 3 classes"
        )
        assert self.refused(logits, target, label_smoothing=1.0) == (
            "label_smoothing must be in [0, 1), got 1.0"
        )

    def test_integer_logits(self) -> None:
        target = torch.zeros(1, 8, 8, dtype=torch.int64)
        with pytest.raises(SettingError, match="upsample_cross_entropy takes logits of a floating"):
            upsample_cross_entropy(torch.zeros(1, 3, 4, 4, dtype=torch.int64), target)

"""Hierarchical multi-scale attention: which scale is asked, and how scales are joined."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.hrnet_ocr_mscale import HRNetOCRMscale
from tests.models import support

TINY = {"width": 4, "modules": (1, 1, 1), "blocks": 1, "num_classes": 5}


def small(**settings: object) -> HRNetOCRMscale:
    model = support.fill(create_model("hrnet_ocr_mscale", **(TINY | settings)))
    assert isinstance(model, HRNetOCRMscale)
    return support.without_dropout(model)


def test_the_attention_is_all_that_is_added() -> None:
    with torch.device("meta"):
        model, alone = create_model("hrnet_ocr_mscale"), create_model("ocrnet_hrnet_w48")
    added = sum(p.numel() for p in model.attention.parameters())
    assert added == 9 * 512 * 256 + 512 + 9 * 256 * 256 + 512 + 256 == 1_770_752
    total = sum(p.numel() for p in model.parameters())
    assert total - added == sum(p.numel() for p in alone.parameters()) == 70_372_678
    convs = [m for m in model.attention.modules() if isinstance(m, nn.Conv2d)]
    assert [c.bias for c in convs] == [None] * 3
    assert isinstance(model.attention[-1], nn.Sigmoid)


def asked(model: HRNetOCRMscale, images: Tensor) -> list[tuple[int, int]]:
    """Return the sizes of images that the trunk sees."""
    seen = []
    hook = model.encoder.register_forward_pre_hook(
        lambda _, x: seen.append((x[0].shape[-2], x[0].shape[-1]))
    )
    model.forward_heads(images)
    hook.remove()
    return seen


def test_training_has_two_scales_and_prediction_all() -> None:
    model = small(scales=(2.0, 0.25, 1.0))
    images = support.image(2, 3, 64, 96)
    assert asked(model.eval(), images) == [(16, 24), (64, 96), (128, 192)]
    assert asked(model.train(), images) == [(32, 48), (64, 96)]


def test_scales_are_joined_from_the_finest_to_the_coarsest() -> None:
    model = small(scales=(0.5, 1.0, 2.0)).eval().double()
    images = support.image(1, 3, 64, 96).double()
    parts = {}
    for scale in (0.5, 1.0, 2.0):
        scaled = (
            images if scale == 1 else F.interpolate(images, scale_factor=scale, mode="bilinear")
        )
        scores, attention = model._at(scale, scaled if scale == 1 else images, attend=True)
        parts[scale] = scores[:, :5], attention
        assert scores.shape[-2:] == scaled.shape[-2:]
    half, whole, double = (parts[s] for s in (0.5, 1.0, 2.0))
    shrunk = F.interpolate(double[0], (64, 96), mode="bilinear")
    joined = whole[1] * whole[0] + (1 - whole[1]) * shrunk
    low, share = (F.interpolate(t, (64, 96), mode="bilinear") for t in (half[1] * half[0], half[1]))
    want = low + (1 - share) * joined
    heads = model.forward_heads(images)
    torch.testing.assert_close(heads["logits"], want)
    torch.testing.assert_close(heads["high"], whole[0])
    torch.testing.assert_close(heads["low"], F.interpolate(half[0], (64, 96), mode="bilinear"))
    model.logits_only = True
    torch.testing.assert_close(model.forward_heads(images)["logits"], want)


@pytest.mark.parametrize(("bias", "trusted"), [(60.0, "low"), (-60.0, "high")])
def test_attention_decides_between_neighbours(bias: float, trusted: str) -> None:
    model = small().train()
    last = model.attention[2]
    nn.init.constant_(last.weight, bias / 16)
    norm = model.attention[1][1]  # before it: the sum of positive features is what is weighted
    nn.init.zeros_(norm.weight)
    nn.init.ones_(norm.bias)
    heads = model.forward_heads(support.image(2, 3, 64, 96))
    torch.testing.assert_close(heads["logits"], heads[trusted], rtol=1e-4, atol=1e-4)


def test_the_four_losses_have_the_authors_weights() -> None:
    model = small().train()
    images = support.image(2, 3, 61, 96)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    assert {tuple(head.shape) for head in heads.values()} == {(2, 5, 61, 96)}
    terms = model.loss(heads, target, support.criterion)
    for name, weight in {"logits": 1, "aux": 0.4, "low": 0.05, "high": 0.05}.items():
        torch.testing.assert_close(terms[name], weight * support.criterion(heads[name], target))


def test_corners_do_not_stand_on_corners() -> None:
    model = small()
    assert not model.align_corners
    modules = [m for m in model.encoder.modules() if hasattr(m, "align_corners")]
    assert modules
    assert not any(m.align_corners for m in modules)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((1.0, 2.0), "are different numbers, 1 and one below 1 among them, got (1.0, 2.0)"),
        ((0.5, 2.0), "are different numbers, 1 and one below 1 among them, got (0.5, 2.0)"),
        ((0.5, 1.0, 1.0), "are different numbers, 1 and one below 1 among them, got (0.5, 1.0"),
        ((0.1, 1.0), "scales are from 0.25 to 4.0, got (0.1, 1.0)"),
        ((0.5, 1.0, 8.0), "scales are from 0.25 to 4.0, got (0.5, 1.0, 8.0)"),
    ],
)
def test_scales_that_cannot_be_are_refused(scales: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model("hrnet_ocr_mscale", scales=scales)


def test_one_small_image_in_training_is_refused_at_its_coarse_scale() -> None:
    model = small().train()
    with pytest.raises(InputError, match="HRNetOCRMscale cannot train on one image of this size"):
        model(support.image(1, 3, 64, 64))
    assert model(support.image(1, 3, 64, 66)).isfinite().all()

"""HRNetV2: four branches joined at the finest, and the head on them."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.hrnet import join
from tests.models import support

SMALL = {"width": 4, "modules": (1, 1, 1), "blocks": 1, "num_classes": 5}


@pytest.mark.parametrize(("classes", "parameters"), [(150, 65_953_830), (59, 65_888_219)])
def test_counts_of_the_authors_network(classes: int, parameters: int) -> None:
    with torch.device("meta"):
        model = create_model("hrnet_w48", num_classes=classes)
        head = sum(p.numel() for p in model.head.parameters())
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert head == (720 * 720 + 720) + 2 * 720 + (720 * classes + classes)


def test_features_are_joined_finest_first_between_pixel_centres() -> None:
    fine, coarse = support.image(1, 2, 5, 7), support.image(1, 3, 3, 4)
    got = join([fine, coarse], align_corners=False)
    assert torch.equal(got[:, :2], fine)
    want = F.interpolate(coarse, (5, 7), mode="bilinear", align_corners=False)
    assert torch.equal(got[:, 2:], want)
    assert not torch.allclose(join([fine, coarse], align_corners=True)[:, 2:], want)
    model = create_model("hrnet_w18", **SMALL)
    assert not model.align_corners
    modules = [m for m in model.encoder.modules() if hasattr(m, "align_corners")]
    assert not any(m.align_corners for m in modules)


@pytest.mark.parametrize(("size", "scores"), [((64, 96), (16, 24)), ((67, 98), (17, 25))])
def test_scores_stand_at_a_quarter_rounded_up(
    size: tuple[int, int], scores: tuple[int, int]
) -> None:
    model = create_model("hrnet_w48", **SMALL).eval()
    heads = model.forward_heads(support.image(1, 3, *size))
    assert heads.keys() == {"logits"}
    assert heads["logits"].shape == (1, 5, *scores)


def test_the_head_is_a_1x1_with_bias_norm_relu_and_classifier() -> None:
    torch.manual_seed(0)
    first, norm, act, last = create_model("hrnet_w48", width=16, modules=(1, 1, 1), blocks=1).head
    assert (first.kernel_size, first.in_channels, first.out_channels) == ((1, 1), 240, 240)
    assert first.bias is not None
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(act, nn.ReLU)
    assert last.out_channels == 19
    for conv in (first, last):
        assert conv.weight.std().item() == pytest.approx(0.001, rel=0.05)


def test_the_trunk_is_what_is_pretrained() -> None:
    model = create_model("hrnet_w48", **SMALL)
    groups = model.parameter_groups()
    assert len(groups["head"]) == len(list(model.head.parameters()))
    with pytest.raises(InputError, match=r"size \(width 4\) has no published weights"):
        model.load_pretrained()


def test_refusals() -> None:
    wanted = (
        "HRNet takes a width, blocks and three numbers of modules of at least 1, got width 0, "
        "blocks 4, modules (1, 4, 3)"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        create_model("hrnet_w48", width=0)
    model = create_model("hrnet_w48", **SMALL).train()
    wanted = (
        "HRNetV2 cannot train on one image of this size: its deepest features are a single pixel, "
        "which batch normalisation turns into zeros; take two images or larger ones"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        model(support.image(1, 3, 32, 32))
    assert model(support.image(1, 3, 32, 33)).isfinite().all()
    assert model(support.image(2, 3, 32, 32)).isfinite().all()

"""DeepLab v3 in cascade: rates that double from block to block."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.encoders.resnet_caffe import Bottleneck
from semseg.models import create_model
from tests.models import support

NAME = "deeplab_v3_cascade_resnet101"
SMALL = {"encoder": "test_resnet", "num_classes": 5}


def rates(stage: nn.Module) -> list[int]:
    return [unit.conv2.dilation[0] for unit in stage]


@pytest.mark.parametrize(
    ("settings", "block4", "added"),
    [
        ({}, [2, 4, 2], [[4, 8, 4], [8, 16, 8], [16, 32, 16]]),
        ({"output_stride": 8}, [4, 8, 4], [[8, 16, 8], [16, 32, 16], [32, 64, 32]]),
        ({"blocks": 1, "multi_grid": (1, 2, 4)}, [2, 4, 8], [[4, 8, 16]]),
        ({"blocks": 1, "multi_grid": None}, [1, 2, 2], [[4, 4, 4]]),
        ({"blocks": 0}, [2, 4, 2], []),
    ],
)
def test_rates_of_block4_and_after(
    settings: dict, block4: list[int], added: list[list[int]]
) -> None:
    """Figure 3 (b): 2, 4, 8, 16 at output stride 16, times the unit rates 1, 2, 1."""
    with torch.device("meta"):
        model = create_model(NAME, **settings)
    assert rates(model.encoder.trunk.layer4) == block4
    assert [rates(block) for block in model.cascade] == added


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model(NAME)
        shallow = create_model(NAME, encoder="resnet50")
    unit = 2048 * 512 + 9 * 512 * 512 + 512 * 2048 + 2 * (512 + 512 + 2048)
    trunk = 44_549_160 - (2048 * 1000 + 1000)  # torchvision's, less its classifier
    parts = [model.encoder, model.cascade, model.head]
    got = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert got == [trunk, 9 * unit, 2048 * 21 + 21]
    assert sum(p.numel() for p in shallow.parameters()) == 63_714_389


def test_added_units_are_those_of_the_trunk_with_identity_shortcuts() -> None:
    with torch.device("meta"):
        model = create_model(NAME)
    units = [unit for block in model.cascade for unit in block]
    assert len(units) == 9
    like = model.encoder.trunk.layer4[1]
    for unit in units:
        assert isinstance(unit, Bottleneck)
        assert isinstance(unit.downsample, nn.Identity)
        assert unit.conv1.weight.shape == like.conv1.weight.shape
        assert unit.conv2.weight.shape == like.conv2.weight.shape
        assert unit.conv3.weight.shape == like.conv3.weight.shape


def test_added_blocks_pass_a_signal_through_their_shortcuts() -> None:
    model = create_model(NAME, **SMALL).eval()
    for unit in (unit for block in model.cascade for unit in block):
        nn.init.zeros_(unit.conv3.weight)
    x = support.image(1, 96, 5, 6).abs()
    assert torch.equal(model.cascade(x), x)


def test_new_layers_start_as_documented() -> None:
    model = create_model(NAME, **SMALL)
    for conv in (m for m in model.cascade.modules() if isinstance(m, nn.Conv2d)):
        want = math.sqrt(2 / conv.weight[0].numel())
        assert conv.weight.std().item() == pytest.approx(want, rel=0.1)
    assert model.head.weight.std().item() == pytest.approx(0.88 * 0.01, rel=0.15)
    assert not model.head.bias.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": -1}, "DeepLabV3Cascade needs blocks >= 0, got -1"),
        ({"output_stride": 32}, "DeepLabV3Cascade has output_stride 16 or 8, got 32"),
        (
            {"encoder": "test_convnext"},
            "multi_grid sets the dilation of a ResNet's last units, and 'test_convnext' is none",
        ),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model(NAME, **settings)


def test_training_on_one_pixel_is_refused() -> None:
    model = create_model(NAME, **SMALL).train()
    with pytest.raises(InputError, match="DeepLabV3Cascade cannot train on one image of this size"):
        model.forward_heads(support.image(1, 3, 16, 16))

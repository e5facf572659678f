"""Xception39: its widths, its blocks, its refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.xception39 import Block
from tests.models import support


def test_features_and_count() -> None:
    encoder = build_encoder("xception39").eval()
    features = encoder(support.image(1, 3, 65, 97))
    assert [tuple(f.shape[1:]) for f in features] == [
        (8, 33, 49),
        (8, 17, 25),
        (64, 9, 13),
        (128, 5, 7),
        (256, 3, 4),
    ]
    assert encoder.channels == (8, 8, 64, 128, 256)
    assert encoder.strides == (2, 4, 8, 16, 32)
    assert [len(stage) for stage in encoder.stages] == [4, 8, 4]
    assert sum(p.numel() for p in encoder.parameters()) == 299_448


def test_each_separable_convolution_has_one_norm_after_both() -> None:
    block = Block(8, 16, stride=2)
    kinds = [type(m) for m in block.modules() if not list(m.children())]
    one = [nn.Conv2d, nn.Conv2d, nn.BatchNorm2d]
    assert kinds == [*one, *one, nn.ReLU, *one, nn.ReLU, *one]
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.groups, c.out_channels, c.stride[0]) for c in convs] == [
        (8, 8, 2),
        (1, 64, 1),
        (8, 8, 2),
        (1, 16, 1),
        (16, 16, 1),
        (1, 16, 1),
        (16, 16, 1),
        (1, 64, 1),
    ]


def test_a_block_without_its_branch_is_a_relu() -> None:
    block = Block(64, 16, stride=1).eval()
    nn.init.zeros_(block.branch[-1][-1].weight)
    x = support.image(1, 64, 5, 6)
    with torch.no_grad():
        assert torch.equal(block(x), x.clamp_min(0))


def test_refusals() -> None:
    with pytest.raises(InputError, match="'xception39' cannot have output_stride 16; use 32, or a"):
        build_encoder("xception39", output_stride=16)
    with pytest.raises(InputError, match="xception39 is no trunk with published weights; create"):
        build_encoder("xception39", pretrained=True)

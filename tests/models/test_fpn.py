"""FPN: a pyramid whose levels are enlarged in steps and added."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.encoder_decoder.fpn import Branch
from semseg.nn.init import toolbox_init_
from tests.models import support


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("fpn")
    assert count(model.encoder) == 25_557_032 - (2048 * 1000 + 1000)  # torchvision's ResNet-50
    assert count(model.pyramid) == 256 * (2048 + 1024 + 512 + 256) + 4 * 256
    first, later = 9 * 256 * 128 + 2 * 128, 9 * 128 * 128 + 2 * 128
    assert count(model.branches) == 4 * first + (2 + 1) * later
    assert count(model.head) == 128 * 21 + 21


def test_every_level_arrives_at_a_quarter_of_the_image() -> None:
    model = create_model("fpn", encoder="test_resnet", num_classes=2).eval()
    with torch.inference_mode():
        levels = model.pyramid(model.encoder(support.image(1, 3, 64, 96)))
        assert [tuple(level.shape) for level in levels] == [
            (1, 256, 2, 3),
            (1, 256, 4, 6),
            (1, 256, 8, 12),
            (1, 256, 16, 24),
        ]
        sizes = [level.shape[-2:] for level in levels]
        for i, (level, branch) in enumerate(zip(levels, model.branches, strict=True)):
            assert branch(level, sizes[i + 1 :]).shape == (1, 128, 16, 24)
        assert model.forward_heads(support.image(1, 3, 64, 96))["logits"].shape == (1, 2, 16, 24)
    assert [len(branch.convs) for branch in model.branches] == [3, 2, 1, 1]


def test_a_coarse_level_reaches_the_finest() -> None:
    model = create_model("fpn", encoder="test_resnet", num_classes=2).eval()
    features = [torch.zeros(1, c, 64 // s, 64 // s) for c, s in zip(*_facts(model), strict=True)]
    features[-1] += 1
    with torch.inference_mode():
        coarsest, *_, finest = model.pyramid(features)
    biases = sum(conv.bias for conv in model.pyramid.lateral[1:])
    want = coarsest[..., :1, :1] + biases[:, None, None]
    torch.testing.assert_close(finest, want.expand_as(finest))


def _facts(model: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return model.encoder.channels, model.encoder.strides


def test_a_branch_is_convolved_and_normalised_before_it_is_enlarged() -> None:
    branch = support.fill(Branch(1))
    x = support.image(1, 256, 4, 5)
    with torch.inference_mode():
        conv, norm, _ = branch.convs[0]
        want = F.relu(F.group_norm(conv(x), 32, norm.weight, norm.bias))
        want = F.interpolate(want, (8, 10), mode="bilinear", align_corners=True)
        torch.testing.assert_close(branch(x, [(8, 10)]), want)


def test_trunks_of_inexact_sizes_are_met() -> None:
    model = create_model("fpn", encoder="legacy_xception", num_classes=2).eval()
    with torch.inference_mode():
        assert model(support.image(1, 3, 96, 128)).shape == (1, 2, 96, 128)


def test_whole_channels_are_dropped() -> None:
    dropout = create_model("fpn", encoder="test_resnet").dropout
    assert isinstance(dropout, nn.Dropout2d)
    assert dropout.p == 0.2


def test_initial_values() -> None:
    conv, head = nn.Conv2d(64, 128, 3), nn.Conv2d(64, 128, 3)
    toolbox_init_(conv, head)
    assert conv.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (9 * 64)), rel=1e-3)
    assert not conv.bias.any()
    bound = math.sqrt(6 / (9 * 64 + 9 * 128))
    assert not head.bias.any()
    assert head.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    model = create_model("fpn", encoder="test_resnet")
    assert not any(conv.bias.any() for conv in (*model.pyramid.lateral, model.head))


def test_refusals() -> None:
    with pytest.raises(InputError, match="the decoder needs a feature at stride 32"):
        create_model("fpn", encoder="test_vit")
    model = create_model("fpn", encoder="test_resnet").train()
    with pytest.raises(InputError, match="FPN cannot train on one image of this size"):
        model(support.image(1, 3, 20, 32))

"""BiSeNet: two paths, attention by means, two auxiliary heads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.realtime.bisenet import (
    AttentionRefinement,
    BiSeNet,
    ContextPath,
    FeatureFusion,
    SpatialPath,
)
from tests.models import support

COUNTS = {  # trunk, pooled 1x1, attentions, head, one auxiliary head
    "bisenet_resnet18": (11_176_512, 65_792, 918_528, 148_819, 300_307),
    "bisenet_resnet101": (42_623_936, 262_400, 3_572_736, 595_219, 300_307),
    "bisenet_xception39": (299_448, 33_024, 476_160, 148_819, 150_163),
}


def count(*parts: nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


@pytest.fixture
def small() -> BiSeNet:
    return create_model("bisenet_resnet18", num_classes=5, encoder="test_resnet")


@pytest.mark.parametrize("name", COUNTS)
def test_count_of_the_parts(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    context = model.context
    got = (
        count(model.encoder),
        count(context.pooled),
        count(context.arm16, context.arm32),
        count(model.head),
        count(model.aux8),
    )
    assert got == COUNTS[name]
    assert count(model.aux16) == count(model.aux8)
    assert (count(model.spatial), count(model.fusion)) == (91_968, 197_120)
    assert count(context.refine16, context.refine32) == 295_424


def test_paths_meet_at_an_eighth_of_any_size(small: BiSeNet) -> None:
    images = support.image(2, 3, 72, 104)  # 9 x 13 at stride 8: halves are rounded up
    shapes = {k: tuple(v.shape[1:]) for k, v in small.eval().forward_heads(images).items()}
    assert shapes == {"logits": (5, 9, 13), "aux16": (5, 5, 7), "aux8": (5, 9, 13)}
    assert SpatialPath(3).eval()(images).shape == (2, 128, 9, 13)


def test_spatial_path_is_the_codes() -> None:
    convs = [m for m in SpatialPath(3).modules() if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0], c.out_channels) for c in convs] == [
        (7, 2, 64),
        (3, 2, 64),
        (3, 2, 64),
        (1, 1, 128),
    ]


def test_attention_scales_each_channel() -> None:
    arm, x = AttentionRefinement(4, 6).eval(), support.image(2, 4, 5, 7)
    with torch.no_grad():
        features = arm.conv(x)
        factor = torch.sigmoid(
            arm.attention[1](arm.attention[0](features.mean((2, 3))[..., None, None]))
        )
        torch.testing.assert_close(arm(x), features * factor)
        assert factor.shape == (2, 6, 1, 1)


def test_fusion_adds_its_attention() -> None:
    fusion = FeatureFusion(8, 8, reduction=4).eval()
    assert [m.out_channels for m in fusion.attention if isinstance(m, nn.Conv2d)] == [2, 8]
    nn.init.zeros_(fusion.attention[2].weight)  # sigmoid(0) = 0.5
    a, b = support.image(1, 8, 5, 7).chunk(2, dim=1)
    with torch.no_grad():
        torch.testing.assert_close(fusion(a, b), 1.5 * fusion.conv(torch.cat([a, b], 1)))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fusion.attention)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_context_is_enlarged_before_it_is_refined(mode: str) -> None:
    path = support.fill(ContextPath((4, 6), mode))
    x16, x32 = support.image(1, 4, 5, 7), support.image(1, 6, 3, 4)
    corners = {"align_corners": True} if mode == "bilinear" else {}
    with torch.no_grad():
        mean = path.pooled(x32.mean((2, 3), keepdim=True))
        first = path.refine32(F.interpolate(path.arm32(x32) + mean, (5, 7), mode=mode, **corners))
        both = F.interpolate(path.arm16(x16) + first, (9, 13), mode=mode, **corners)
        got = path(x16, x32, torch.Size((9, 13)))
        torch.testing.assert_close(got, (first, path.refine16(both)))


def test_prediction_needs_no_norm_and_no_auxiliary_head(small: BiSeNet) -> None:
    fused = small.eval().fuse()
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    assert count(fused.aux16, fused.aux8) == 0


def test_initial_weights(small: BiSeNet) -> None:
    conv = small.head[0][0]
    std = conv.weight.std().item()
    assert std == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02), "He's, by incoming nodes"
    assert small.head[1].bias.abs().max() > 0, "biases as PyTorch has them"


def test_all_three_heads_count_alike(small: BiSeNet) -> None:
    images = support.image(2, 3, 61, 90)
    target = support.target_for(images, 5)
    heads = small.train().forward_heads(small.pad(images))
    terms = small.loss(heads, target, support.criterion)
    for name in ("logits", "aux16", "aux8"):
        full = F.interpolate(heads[name], (64, 96), mode="bilinear", align_corners=True)
        want = support.criterion(full[..., :61, :90], target)
        torch.testing.assert_close(terms[name], want)
    assert len(terms) == 3


def test_refusals(small: BiSeNet) -> None:
    wanted = (
        "BiSeNet needs at least 2 images per step in training mode: the norm after its global "
        "pooling has one value per channel and image; use a batch size of 2 or more and drop an "
        "incomplete last batch"
    )
    with pytest.raises(InputError, match=wanted):
        small.train()(support.image(1, 3, 64, 64))
    with pytest.raises(InputError, match="head_width and aux_width >= 1, got 64 and 0"):
        create_model("bisenet_resnet18", aux_width=0)
    with pytest.raises(InputError, match="the decoder needs a feature at stride 32"):
        create_model("bisenet_resnet18", encoder="test_vit")

"""BiSeNet V2: two branches, gates between them, heads on every stage."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.realtime.bisenet_v2 import (
    BiSeNetV2,
    ContextEmbedding,
    GatherExpand,
    GuidedAggregation,
)
from tests.models import support


@pytest.fixture
def small() -> BiSeNetV2:
    return create_model("bisenet_v2", num_classes=5, head_width=8)


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("bisenet_v2")
    got = {k: sum(p.numel() for p in part.parameters()) for k, part in model.named_children()}
    assert got == {
        "detail": 519_232,
        "semantic": 1_159_504,
        "aggregation": 478_720,
        "head": 1_201_171,
        "aux": 37_475 + 112_211 + 374_291 + 1_348_883,
    }
    detail = 9 * (3 * 64 + 4 * 64 * 64 + 64 * 128 + 2 * 128 * 128) + 2 * (5 * 64 + 3 * 128)
    assert got["detail"] == detail


def test_sizes_of_the_stages(small: BiSeNetV2) -> None:
    images = support.image(2, 3, 64, 96)
    stages = [tuple(f.shape[1:]) for f in small.eval().semantic(images)]
    assert stages == [(16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3), (128, 2, 3)]
    assert small.detail(images).shape == (2, 128, 8, 12)
    heads = {k: tuple(v.shape[1:]) for k, v in small.forward_heads(images).items()}
    assert heads == {
        "logits": (5, 8, 12),
        "aux2": (5, 32, 48),
        "aux3": (5, 16, 24),
        "aux4": (5, 8, 12),
        "aux5": (5, 4, 6),
    }
    assert [head[3][0].out_channels for head in small.aux] == [16, 64, 256, 1024]


def test_blocks_by_stage(small: BiSeNetV2) -> None:
    strides = [[block.branch[1].stride[0] for block in stage] for stage in small.semantic.stages]
    assert strides == [[2, 1], [2, 1], [2, 1, 1, 1]]
    halving = GatherExpand(16, 32, stride=2)
    convs = [m for m in halving.branch.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.groups, c.stride[0]) for c in convs] == [
        (16, 16, 1, 1),
        (16, 96, 16, 2),
        (96, 96, 96, 1),
        (96, 32, 1, 1),
    ]
    kinds = [type(m) for m in halving.branch[1:]]
    assert kinds.count(nn.ReLU) == 1
    assert kinds[4] is nn.ReLU, "none between the two depthwise convolutions"


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_starts_as_its_shortcut(small: BiSeNetV2, stride: int) -> None:
    block = small.semantic.stages[2][2 - stride].eval()
    x = support.image(1, 128 if stride == 1 else 64, 6, 8)
    with torch.no_grad():
        torch.testing.assert_close(block(x), F.relu(block.shortcut(x)))


def test_initial_weights(small: BiSeNetV2) -> None:
    conv = small.detail[2][1][0]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    expand = small.semantic.stages[2][1].branch[1]
    std = expand.weight.std().item()
    assert std == pytest.approx((2 / (9 * 768)) ** 0.5, rel=0.05), "as if not depthwise"
    assert not small.head[-1].bias.any()


def test_embedding_adds_the_mean_everywhere() -> None:
    embedding, x = support.fill(ContextEmbedding()), support.image(2, 128, 4, 5)
    with torch.no_grad():
        mean = embedding.mean(embedding.norm(x.mean((2, 3))[..., None, None]))
        torch.testing.assert_close(embedding(x), embedding.conv(x + mean))


def test_each_branch_is_gated_by_the_other() -> None:
    layer = support.fill(GuidedAggregation())
    details, semantics = support.image(1, 128, 8, 12), support.image(1, 128, 2, 3)
    with torch.no_grad():
        gate = layer.semantic_fine(semantics).sigmoid()
        fine = layer.detail_fine(details) * gate.repeat_interleave(4, 2).repeat_interleave(4, 3)
        coarse = layer.detail_coarse(details) * layer.semantic_coarse(semantics).sigmoid()
        coarse = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
        torch.testing.assert_close(layer(details, semantics), layer.conv(fine + coarse))


def test_all_five_heads_count_alike(small: BiSeNetV2) -> None:
    images = support.image(2, 3, 60, 90)
    target = support.target_for(images, 5)
    heads = small.train().forward_heads(small.pad(images))
    terms = small.loss(heads, target, support.criterion)
    for name in ("logits", "aux2", "aux3", "aux4", "aux5"):
        full = F.interpolate(heads[name], (64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(terms[name], support.criterion(full[..., :60, :90], target))
    assert len(terms) == 5


def test_refusals(small: BiSeNetV2) -> None:
    wanted = (
        "BiSeNetV2 needs at least 2 images per step in training mode: the norm after its global "
        "pooling has one value per channel and image; use a batch size of 2 or more and drop an "
        "incomplete last batch"
    )
    with pytest.raises(InputError, match=wanted):
        small.train()(support.image(1, 3, 64, 64))
    with pytest.raises(InputError, match="BiSeNetV2 needs head_width >= 1, got 0"):
        create_model("bisenet_v2", head_width=0)

"""DANet: attention among pixels and among channels, and the trunk's multi-grid."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.danet import ChannelAttention, DANet, PositionAttention
from tests.models import support


def small() -> DANet:
    model = support.fill(create_model("danet", encoder="test_resnet", num_classes=5))
    assert isinstance(model, DANet)
    return model


def test_counts_by_hand() -> None:
    with torch.device("meta"):
        model = create_model("danet")
    head = sum(p.numel() for p in model.parameter_groups()["head"])
    into, out = 9 * 2048 * 512 + 1024, 9 * 512 * 512 + 1024
    attention = 2 * (512 * 64 + 64) + 513 * 512 + 1
    assert head == 2 * into + 2 * out + attention + 1 + 3 * 513 * 19 == 23_954_619


def test_the_last_stage_is_dilated_by_4_8_and_16() -> None:
    with torch.device("meta"):
        trunk = create_model("danet").encoder.trunk
    rates = [[unit.conv2.dilation[0] for unit in stage] for stage in (trunk.layer3, trunk.layer4)]
    assert rates == [[1] + [2] * 22, [4, 8, 16]]
    assert [unit.conv2.padding[0] for unit in trunk.layer4] == [4, 8, 16]


def test_pixels_gather_from_pixels_by_hand() -> None:
    attention = support.fill(PositionAttention(16)).double()
    nn.init.constant_(attention.gamma, 0.7)
    x = support.image(2, 16, 3, 5).double()
    got = attention(x)
    for image, out in zip(x, got, strict=True):
        query, key, value = (
            conv(image[None])[0].flatten(1)
            for conv in (attention.query, attention.key, attention.value)
        )
        share = (query.T @ key).softmax(dim=1)  # without a scale
        want = 0.7 * (value @ share.T).view(16, 3, 5) + image
        torch.testing.assert_close(out, want)


def test_channels_gather_from_those_unlike_them_by_hand() -> None:
    attention = ChannelAttention().double()
    nn.init.constant_(attention.gamma, 0.7)
    x = support.image(2, 6, 3, 5).double()
    got = attention(x)
    for image, out in zip(x, got, strict=True):
        maps = image.flatten(1)
        share = (-(maps @ maps.T)).softmax(dim=1)  # a constant per row changes nothing
        torch.testing.assert_close(out, 0.7 * (share @ maps).view(6, 3, 5) + image)


def test_attention_starts_at_nothing() -> None:
    x = support.image(1, 16, 4, 4)
    for attention in (PositionAttention(16), ChannelAttention()):
        assert torch.equal(attention(x), x)


def test_many_pixels_need_no_map_of_pixels_to_pixels() -> None:
    attention = support.fill(PositionAttention(16))
    with torch.inference_mode():  # 6,400 pixels: maps of 1.3 GB
        assert attention(support.image(1, 16, 80, 80)).isfinite().all()


def test_heads_and_their_losses() -> None:
    model = small()
    images = support.image(2, 3, 67, 90)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    assert {k: tuple(v.shape) for k, v in heads.items()} == dict.fromkeys(
        ("logits", "position", "channel"), (2, 5, 9, 12)
    )
    terms = model.loss(heads, target, support.criterion)
    for name, head in heads.items():
        full = F.interpolate(head, (67, 90), mode="bilinear", align_corners=True)
        torch.testing.assert_close(terms[name], support.criterion(full, target))
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.1] * 3


def test_logits_come_from_the_sum_of_both() -> None:
    model = small()
    images = support.image(1, 3, 64, 64)
    seen = {}
    for name in ("position_out", "channel_out"):
        model.get_submodule(name).register_forward_hook(
            lambda _, x, y, name=name: seen.__setitem__(name, y)
        )
    heads = model.forward_heads(images)
    want = model.head(seen["position_out"] + seen["channel_out"])
    assert torch.equal(heads["logits"], want)
    assert torch.equal(heads["channel"], model.channel(seen["channel_out"]))


def test_refusals() -> None:
    wanted = (
        "DANet cannot train on one image of this size: its deepest features are a single pixel, "
        "which batch normalisation turns into zeros; take two images or larger ones"
    )
    model = create_model("danet", encoder="test_resnet").train()
    with pytest.raises(InputError, match=re.escape(wanted)):
        model(support.image(1, 3, 8, 8))
    assert model(support.image(1, 3, 16, 8)).isfinite().all()
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("danet", encoder="densenet121")

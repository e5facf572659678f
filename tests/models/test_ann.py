"""ANN: attention to averages of regions, and its place in the network."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.ann import ANN, AsymmetricAttention, averages
from tests.models import support


def small() -> ANN:
    model = create_model("ann", encoder="test_resnet", num_classes=5)
    assert isinstance(model, ANN)
    return support.fill(model)


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_counts_of_the_authors_network() -> None:
    with torch.device("meta"):
        model = create_model("ann")
    assert count(model) - count(model.aux) == 62_964_435
    assert count(model.aux) == 9 * 1024 * 512 + 512 + 2 * 512 + 513 * 19 == 4_729_875
    key = 1025 * 256 + 2 * 256
    query = 2049 * 256 + 2 * 256
    assert count(model.fusion.attention) == key + query + 1025 * 256 + 257 * 2048
    assert count(model.context.attention) == 2 * 513 * 256 + 2 * 256 + 257 * 512
    trunk = model.encoder.trunk
    rates = [[unit.conv2.dilation[0] for unit in stage] for stage in (trunk.layer3, trunk.layer4)]
    assert rates == [[1] + [2] * 22, [2, 4, 4]]


# ---- attention ---------------------------------------------------------------------------------


def test_averages_of_1_9_36_and_64_regions() -> None:
    x = support.image(1, 2, 24, 48)
    got = averages(x)
    assert got.shape == (1, 2, 1 + 9 + 36 + 64)
    torch.testing.assert_close(got[..., 0], x.mean(dim=(2, 3)))
    torch.testing.assert_close(got[..., 2], x[..., :8, 16:32].mean(dim=(2, 3)))
    torch.testing.assert_close(got[..., 109], x[..., 21:, 42:].mean(dim=(2, 3)))


@pytest.mark.parametrize("shared", [False, True])
def test_attention_by_hand(shared: bool) -> None:
    attention = support.fill(AsymmetricAttention(6, 6 if shared else 8, shared)).double()
    low, high = 0.2 * support.image(2, 6, 5, 7).double(), 0.2 * support.image(2, 8, 5, 7).double()
    high = low if shared else high
    got = attention(low, high)
    key, value = averages(attention.key(low)), averages(attention.value(low))
    query = (attention.key if shared else attention.query)(high).flatten(2)
    for n in range(2):
        share = (query[n].T @ key[n] / 256**0.5).softmax(dim=1)
        assert share.shape == (35, 110)
        assert share.max() < 0.9, "more than one average counts"
        want = attention.out((value[n] @ share.T).view(1, 256, 5, 7))[0]
        torch.testing.assert_close(got[n], want)


def test_attention_starts_at_nothing() -> None:
    x = support.image(1, 6, 5, 7)
    assert not AsymmetricAttention(6, 6, shared=True)(x, x).any()


def test_a_megapixel_needs_no_map_of_pixels_to_pixels() -> None:
    attention = support.fill(AsymmetricAttention(16, 16))
    x = support.image(1, 16, 129, 129)
    with torch.inference_mode():
        assert attention(x, x).isfinite().all()


# ---- network -----------------------------------------------------------------------------------


def test_the_last_stage_asks_the_one_before() -> None:
    model = small()
    seen = {}
    for name in ("fusion.attention", "fusion.join", "context.join"):
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, x, name=name: seen.__setitem__(name, x)
        )
    images = support.image(1, 3, 64, 64)
    model(images)
    *_, third, fourth = model.encoder(images)
    low, high = seen["fusion.attention"]
    assert torch.equal(low, third)
    assert torch.equal(high, fourth)
    gathered = model.fusion.attention(third, fourth)
    assert torch.equal(seen["fusion.join"][0], torch.cat([gathered, fourth], dim=1))
    pixels = model.reduce(model.fusion(third, fourth))
    assert torch.equal(seen["context.join"][0][:, 512:], pixels)
    assert [type(layer) for layer in model.fusion.join] == [
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Dropout2d,
    ]


def test_scores_stand_at_stride_8_with_one_pixel_more() -> None:
    model = small()
    images = support.image(2, 3, 64, 96)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    assert heads["logits"].shape == heads["aux"].shape == (2, 5, 9, 13)
    terms = model.loss(heads, target, support.criterion)
    full = F.interpolate(heads["aux"], (64, 96), mode="bilinear", align_corners=True)
    torch.testing.assert_close(terms["aux"], 0.4 * support.criterion(full, target))
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.05] * 3


def test_refusals() -> None:
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("ann", encoder="densenet121")
    wanted = (
        "ANN cannot train on one image of this size: its deepest features are a single pixel, "
        "which batch normalisation turns into zeros; take two images or larger ones"
    )
    model = small().train()
    with pytest.raises(InputError, match=re.escape(wanted)):
        model(support.image(1, 3, 8, 8))
    assert model(support.image(2, 3, 16, 16)).isfinite().all()

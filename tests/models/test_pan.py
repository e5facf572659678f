"""PAN: pyramid attention, global attention, and where the dilation of its trunk begins."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.encoder_decoder.pan import GlobalAttention, PyramidAttention
from tests.models import support


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def dilations(stage: nn.Module) -> list[int]:
    return [
        c.dilation[0] for c in stage.modules() if isinstance(c, nn.Conv2d) if c.kernel_size[0] > 1
    ]


# ---- dilation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "want"), [(True, [2, 2, 2, 2]), (False, [1, 2, 2, 2])])
def test_the_setting_decides(first: bool, want: list[int]) -> None:
    with torch.device("meta"):
        model = create_model("pan", encoder="resnet18", dilate_first=first)
    assert dilations(model.encoder.trunk.layer4) == want
    assert dilations(model.encoder.trunk.layer3) == [1, 1, 1, 1]


def test_the_record_has_the_first_block_dilated() -> None:
    record = json.loads((support.EXPECTED / "pan.json").read_text())
    assert record["settings"]["dilate_first"]
    assert "PAN('resnet18'" in record["origin"], "not the one with tu-, which is timm's"


# ---- decoder -----------------------------------------------------------------------------------


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("pan")
    assert count(model.encoder) == 25_557_032 - (2048 * 1000 + 1000)  # torchvision's ResNet-50
    image = middle = 2048 * 32 + 32 + 2 * 32
    down = (49 * 2048 + 1) + (25 + 1) + (9 + 1) + 3 * 2
    across = (49 + 1) + (25 + 1) + (9 + 1) + 3 * 2
    assert count(model.attention) == image + middle + down + across
    weights = 3 * (32 * 32 + 32 + 2 * 32)
    assert count(model.upsamples) == weights + 9 * (1024 + 512 + 256) * 32 + 3 * (32 + 2 * 32)
    assert count(model.head) == 9 * 32 * 21 + 21


def test_pyramid_shrinks_three_times_and_comes_back() -> None:
    attention = support.fill(PyramidAttention(6)).double()
    sizes: list[tuple[int, ...]] = []
    for part in (*attention.down, *attention.across, attention.image, attention.middle):
        part.register_forward_hook(lambda *args: sizes.append(tuple(args[-1].shape)))
    x = support.image(2, 6, 9, 12).double()
    with torch.inference_mode():
        out = attention(x)
    assert out.shape == (2, 32, 9, 12)
    maps = [(2, 1, 4, 6), (2, 1, 2, 3), (2, 1, 1, 1)]
    assert sizes[:6] == [size for size in maps for _ in range(2)]
    assert sorted(sizes[6:]) == [(2, 32, 1, 1), (2, 32, 9, 12)]


def test_pyramid_weights_the_middle_branch_and_adds_the_mean() -> None:
    attention = support.fill(PyramidAttention(6)).double()
    with torch.no_grad():  # the pyramid to a constant 3: its last norms say so
        for across in attention.across:
            across[1].weight.zero_()
            across[1].bias.fill_(1.0)
    x = support.image(1, 6, 8, 8).double()
    with torch.inference_mode():
        mean = F.relu(attention.image(x.mean((2, 3), keepdim=True)))
        torch.testing.assert_close(attention(x), 3 * F.relu(attention.middle(x)) + mean)


def test_coarse_context_weights_the_fine_feature() -> None:
    gau = support.fill(GlobalAttention(5)).double()
    fine, coarse = support.image(1, 5, 8, 6).double(), support.image(1, 32, 4, 3).double()
    with torch.inference_mode():
        weights = torch.sigmoid(gau.weight(coarse.mean((2, 3), keepdim=True)))
        up = F.interpolate(coarse, (8, 6), mode="bilinear", align_corners=True)
        torch.testing.assert_close(gau(fine, coarse), up + F.relu(gau.reduce(fine)) * weights)


def test_initial_values() -> None:
    model = create_model("pan", encoder="test_resnet")
    conv = model.attention.down[0][0]
    bound = (6 / (49 * conv.in_channels)) ** 0.5
    assert bound * 0.95 < conv.weight.abs().max().item() <= bound
    assert not any(m.bias.any() for m in model.attention.modules() if isinstance(m, nn.Conv2d))
    assert not model.head.bias.any()


def test_refusals() -> None:
    model = create_model("pan", encoder="test_resnet").train()
    with pytest.raises(InputError, match="pan needs at least 2 images per step in training mode"):
        model(support.image(1, 3, 128, 128))
    with pytest.raises(InputError, match="at least 128 x 128 pixels, got 127 x 128"):
        model(support.image(2, 3, 127, 128))
    with pytest.raises(InputError, match="'vgg16' cannot have output_stride 16"):
        create_model("pan", encoder="vgg16")

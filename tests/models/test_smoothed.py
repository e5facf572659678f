"""What is smoothed dilation's own: a neutral start, and the two ways of mixing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg import create_model
from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import InputError
from semseg.core.preprocess import IMAGENET
from semseg.encoders.resnet_caffe import CaffeResNet
from semseg.models.base import settings_of
from semseg.models.dilated.smoothed import GroupInteraction, SeparableSharedConv, SmoothedConv
from tests.models import support

SMALL = {"depths": (1, 2, 2, 1), "width": 4, "num_classes": 5}
NAMES = ("deeplab_v2_resnet101_ssc", "deeplab_v2_resnet101_gi")


def dilated(rate: int) -> nn.Conv2d:
    conv = nn.Conv2d(3, 4, 3, padding=rate, dilation=rate, bias=False)
    support.fill(conv)
    return conv


def with_noise(module: SmoothedConv) -> SmoothedConv:
    values = support.noise(module.difference.numel(), 3).reshape(module.difference.shape)
    module.difference.data.copy_(values)
    return module


@pytest.mark.parametrize("kind", [SeparableSharedConv, GroupInteraction])
@pytest.mark.parametrize("rate", [2, 4])
@pytest.mark.parametrize("size", [(8, 12), (9, 13), (1, 2)])
def test_it_starts_as_the_plain_convolution(
    kind: type[SmoothedConv], rate: int, size: tuple[int, int]
) -> None:
    conv, x = dilated(rate).double(), support.image(2, 3, *size).double()
    torch.testing.assert_close(kind(conv).double()(x), conv(x))


@pytest.mark.parametrize(("rate", "ssc", "gi"), [(2, 9, 16), (4, 49, 256)])
def test_counts_are_the_papers(rate: int, ssc: int, gi: int) -> None:
    assert SeparableSharedConv(dilated(rate)).difference.numel() == ssc
    assert GroupInteraction(dilated(rate)).difference.numel() == gi


def test_every_dilated_convolution_of_the_trunk_is_smoothed() -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v2_resnet101_gi")
    smoothed = [m for m in model.modules() if isinstance(m, SmoothedConv)]
    assert [m.rate for m in smoothed] == [2] * 23 + [4] * 3
    assert not any(isinstance(m, SmoothedConv) for m in model.aspp.modules())


def test_ssc_blurs_every_channel_alike() -> None:
    module = with_noise(SeparableSharedConv(dilated(2)))
    x = support.image(1, 3, 8, 9)
    kernel = module.difference.data.clone()
    kernel[0, 0, 1, 1] += 1
    blurred = torch.cat([F.conv2d(x[:, i : i + 1], kernel, padding=1) for i in range(3)], dim=1)
    want = F.conv2d(blurred, module.weight, padding=2, dilation=2)
    torch.testing.assert_close(module(x), want)


def test_gi_mixes_the_subsampled_maps() -> None:
    module = with_noise(GroupInteraction(dilated(2)))
    x = support.image(1, 3, 8, 10)
    groups = [(i, j) for i in range(2) for j in range(2)]
    # each subsampled map is convolved by itself, without dilation
    maps = [F.conv2d(x[..., i::2, j::2], module.weight, padding=1) for i, j in groups]
    matrix = torch.eye(4) + module.difference
    want = torch.empty(1, 4, 8, 10)
    for target, (i, j) in enumerate(groups):
        mixed: Tensor = sum(matrix[source, target] * maps[source] for source in range(4))
        want[..., i::2, j::2] = mixed
    torch.testing.assert_close(module(x), want)


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_as_deeplab_v2(name: str, tmp_path: Path) -> None:
    plain = create_model("deeplab_v2_resnet101", multi_scale=False, **SMALL)
    info = WeightsInfo(
        model="deeplab_v2_resnet101",
        settings=settings_of(plain),
        labels=None,
        preprocessing=IMAGENET,
    )
    support.fill(plain)
    save_weights(tmp_path / "best.safetensors", plain.state_dict(), info)
    model = create_model(name, pretrained=tmp_path / "best.safetensors", **SMALL).eval()
    images = support.image(1, 3, 50, 70)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_the_plain_trunk_fit(name: str, tmp_path: Path) -> None:
    trunk = support.fill(CaffeResNet(3, SMALL["depths"], 8, SMALL["width"]))
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    model = create_model(name, pretrained=tmp_path / "trunk.pth", **SMALL)
    loaded = model.encoder.state_dict()
    assert torch.equal(loaded["layer4.0.conv2.weight"], trunk.layer4[0].conv2.weight)
    assert not loaded["layer4.0.conv2.difference"].any()
    with pytest.raises(InputError, match="no published weights that can be fetched"):
        model.load_pretrained()


def test_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="smoothing is 'ssc' or 'gi', got 'ss'"):
        create_model(NAMES[0], smoothing="ss")
    with pytest.raises(InputError, match="defined for 3x3 convolutions of stride 1, got Conv2d"):
        GroupInteraction(nn.Conv2d(3, 3, 5, padding=4, dilation=2))

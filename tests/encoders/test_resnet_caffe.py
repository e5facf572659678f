"""What sets the Caffe ResNet apart: where it strides, how it rounds, which weights it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import IMAGENET
from semseg.encoders import build_encoder
from semseg.encoders.resnet_caffe import CaffeResNet
from tests.models import support

TINY = {"depths": (1, 2, 2, 1), "width": 4}


@pytest.mark.parametrize(
    ("layers", "count"),
    # torchvision's counts without the classifier of 2048 x 1000 + 1000
    [(50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameters_are_those_of_torchvisions(layers: int, count: int) -> None:
    with torch.device("meta"):
        encoder = build_encoder(f"resnet{layers}_caffe")
    assert sum(p.numel() for p in encoder.parameters()) == count - 2_049_000
    assert encoder.channels == (64, 256, 512, 1024, 2048)


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [
        (32, (2, 4, 8, 16, 32), (1, 1, 1, 1)),
        (16, (2, 4, 8, 16, 16), (1, 1, 1, 2)),
        (8, (2, 4, 8, 8, 8), (1, 1, 2, 4)),
    ],
)
def test_strides_become_dilations(
    output_stride: int, strides: tuple[int, ...], dilations: tuple[int, ...]
) -> None:
    encoder = CaffeResNet(3, output_stride=output_stride, **TINY)
    assert encoder.strides == strides
    for i, dilation in enumerate(dilations, 1):
        convs = [block.conv2 for block in encoder.get_submodule(f"layer{i}")]
        assert {conv.dilation[0] for conv in convs} == {dilation}, "of every block, the first too"
    features = encoder.eval()(support.image(1, 3, 64, 96))
    for feature, channels, stride in zip(features, encoder.channels, strides, strict=True):
        # the pool rounds up, and all later layers keep what lies beyond the image
        extra = 0 if stride == 2 else 1
        assert feature.shape == (1, channels, 64 // stride + extra, 96 // stride + extra)


def test_the_first_1x1_strides_and_the_3x3_does_not() -> None:
    block = CaffeResNet(3, **TINY).get_submodule("layer2.0")
    assert [getattr(block, f"conv{i}").stride for i in (1, 2, 3)] == [(2, 2), (1, 1), (1, 1)]


def test_features_stand_on_the_images_corners() -> None:
    encoder = CaffeResNet(3, output_stride=8, **TINY).double().eval()
    image = torch.zeros(1, 3, 33, 33, dtype=torch.float64)
    mirrored = support.image(1, 3, 33, 33).double()
    symmetric = (mirrored + mirrored.flip(-1)) / 2
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.Conv2d):  # symmetric kernels: only a shift could break it
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
        for x in (image, symmetric):
            deep = encoder(x)[-1]
            torch.testing.assert_close(deep, deep.flip(-1))


def test_caffe_weights_are_turned_to_rgb_in_imagenets_normalisation(tmp_path: Path) -> None:
    caffe, ours = CaffeResNet(3, **TINY).eval(), CaffeResNet(3, **TINY).eval()
    support.fill(caffe)
    path = tmp_path / "caffe.pth"
    torch.save(caffe.state_dict() | {"fc.weight": torch.zeros(10, 128)}, path)
    ours.load_pretrained(path)
    rgb = (support.image(1, 3, 32, 32) + 1) / 2
    mean = torch.tensor(IMAGENET.mean).view(1, 3, 1, 1)
    with torch.no_grad():
        want = caffe(((rgb - mean) * 255).flip(1))[-1]  # BGR in 0..255 without the mean
        got = ours(IMAGENET(rgb))[-1]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.std().item())


def test_one_channel_takes_the_sum_of_the_stem(tmp_path: Path) -> None:
    torch.save(support.fill(CaffeResNet(3, **TINY)).state_dict(), tmp_path / "w.pth")
    three, one = CaffeResNet(3, **TINY), CaffeResNet(1, **TINY)
    three.load_pretrained(tmp_path / "w.pth")
    one.load_pretrained(tmp_path / "w.pth")
    torch.testing.assert_close(one.conv1.weight, three.conv1.weight.sum(1, keepdim=True))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    ours = CaffeResNet(3, **TINY)
    torch.save(CaffeResNet(3, depths=(1, 2, 1, 1), width=4).state_dict(), path)
    with pytest.raises(FileError, match=r"other\.pth holds another network.*layer3\.1\.conv1"):
        ours.load_pretrained(path)
    torch.save(CaffeResNet(3, depths=(1, 2, 3, 1), width=4).state_dict(), path)
    with pytest.raises(FileError, match=r"0 tensors missing, 18 too many.*layer3\.2\.conv1"):
        ours.load_pretrained(path)
    torch.save(CaffeResNet(3, depths=(1, 2, 2, 1), width=8).state_dict(), path)
    with pytest.raises(FileError, match=r"conv1\.weight has shape \(8, 3, 7, 7\)"):
        ours.load_pretrained(path)


def test_published_weights_are_not_fetched() -> None:
    with pytest.raises(InputError, match="give a file of them under torchvision's names"):
        build_encoder("resnet50_caffe", pretrained=True)

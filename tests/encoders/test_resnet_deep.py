"""The deep-stem ResNet: its stem, its dilation, and the two layouts of its published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from semseg.core.checks import FileError, InputError
from semseg.encoders import build_encoder
from semseg.encoders.resnet_deep import STEM, DeepResNet
from semseg.encoders.shallow import ShallowTimmEncoder
from tests.models import support

TINY = {"depths": (1, 2, 2, 1), "width": 4}


@pytest.mark.parametrize("layers", [50, 101, 152])
def test_at_stride_32_it_is_timms_resnet_s(layers: int) -> None:
    with torch.device("meta"):
        ours = build_encoder(f"resnet{layers}_deep").state_dict()
        theirs = timm.create_model(f"resnet{layers}s", num_classes=0).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_features_equal_timms() -> None:
    ours = support.fill(build_encoder("resnet50_deep", in_channels=1))
    theirs = timm.create_model("resnet50s", features_only=True, in_chans=1).eval()
    theirs.load_state_dict(ours.state_dict())
    images = support.image(1, 1, 33, 47)
    with torch.inference_mode():
        for got, want in zip(ours(images), theirs(images), strict=True):
            torch.testing.assert_close(got, want)


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
    encoder = DeepResNet(3, output_stride=output_stride, **TINY)
    assert encoder.strides == strides
    assert encoder.channels == (8, 16, 32, 64, 128)
    for i, dilation in enumerate(dilations, 1):
        convs = [block.conv2 for block in encoder.get_submodule(f"layer{i}")]
        assert {conv.dilation[0] for conv in convs} == {dilation}, "of every block, the first too"
    features = encoder.eval()(support.image(1, 3, 33, 49))
    for feature, channels, stride in zip(features, encoder.channels, strides, strict=True):
        assert feature.shape == (1, channels, 32 // stride + 1, 48 // stride + 1)


def test_initial_weights_keep_the_backward_signal() -> None:
    conv = DeepResNet(3).layer2[0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


# ---- published weights -------------------------------------------------------------------------


def test_both_layouts_of_weights_are_read(tmp_path: Path) -> None:
    want = support.fill(DeepResNet(3, **TINY)).state_dict()
    authors = {ours: theirs for theirs, ours in STEM.items()}
    renamed = {}
    for key, value in want.items():
        layer, _, leaf = key.rpartition(".")
        renamed[f"{authors.get(layer, layer)}.{leaf}"] = value
    assert "conv3.weight" in renamed
    for name, tensors in (("timm.pth", want), ("authors.pth", renamed)):
        torch.save(tensors | {"fc.weight": torch.zeros(10, 128)}, tmp_path / name)
        encoder = DeepResNet(3, **TINY)
        encoder.load_pretrained(tmp_path / name)
        assert all(torch.equal(v, want[k]) for k, v in encoder.state_dict().items())
    one = DeepResNet(1, **TINY)
    one.load_pretrained(tmp_path / "authors.pth")
    summed = want["conv1.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(one.conv1[0].weight, summed)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    ours = DeepResNet(3, **TINY)
    torch.save(DeepResNet(3, depths=(1, 2, 1, 1), width=4).state_dict(), path)
    with pytest.raises(FileError, match=r"other\.pth holds another network.*layer3\.1\.conv1"):
        ours.load_pretrained(path)
    torch.save(DeepResNet(3, depths=(1, 2, 3, 1), width=4).state_dict(), path)
    with pytest.raises(FileError, match=r"0 tensors missing, 18 too many.*layer3\.2\.conv1"):
        ours.load_pretrained(path)
    torch.save(DeepResNet(3, depths=(1, 2, 2, 1), width=8).state_dict(), path)
    with pytest.raises(FileError, match=r"conv1\.0\.weight has shape \(8, 3, 3, 3\)"):
        ours.load_pretrained(path)
    with pytest.raises(InputError, match=r"of depths \(1, 2, 2, 1\) has no published weights"):
        ours.load_pretrained()


# ---- the upper part of a trunk -----------------------------------------------------------------


def test_a_shallow_trunk_equals_the_whole_one_so_far(tmp_path: Path) -> None:
    whole = support.fill(build_encoder("resnet18"))
    shallow = ShallowTimmEncoder("resnet18", deepest=8)
    assert shallow.channels == (64, 64, 128)
    assert shallow.strides == (2, 4, 8)
    assert not any("layer3" in key for key in shallow.state_dict())
    classifier = timm.create_model("resnet18", num_classes=10)
    classifier.load_state_dict(whole.trunk.state_dict(), strict=False)
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    shallow.load_pretrained(tmp_path / "resnet18.pth")
    images = support.image(1, 3, 32, 40)
    with torch.inference_mode():
        features = shallow.eval()(images)
        assert len(features) == 3
        torch.testing.assert_close(features[-1], whole(images)[2])


def test_a_shallow_trunk_needs_a_feature_there() -> None:
    with pytest.raises(InputError, match="the decoder needs a feature at stride 8; this encoder"):
        ShallowTimmEncoder("test_vit", deepest=8)

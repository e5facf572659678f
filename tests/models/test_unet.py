"""What is U-Net's own: the paper's initial values, and its decoder over any trunk."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from semseg import create_model, model_entry
from semseg.core.checks import InputError
from semseg.models.encoder_decoder.unet import MergedLevel
from tests.models import support


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ---- the paper's path --------------------------------------------------------------------------


def test_initial_weights_are_the_papers() -> None:
    model = create_model("unet", width=16)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convs) == 23, "the paper counts 23 convolutional layers"
    for conv in convs:
        assert conv.bias is not None
        assert not conv.bias.any()
        # incoming nodes: 9 taps of each channel; a 2x2 up-convolution of stride 2 has one
        taps = conv.kernel_size[0] ** 2 if isinstance(conv, nn.Conv2d) else 1
        want = math.sqrt(2 / (taps * conv.in_channels))
        error = 5 / math.sqrt(2 * conv.weight.numel())  # five deviations of a sample's deviation
        assert conv.weight.std().item() == pytest.approx(want, rel=error)


def test_dropout_ends_the_contracting_path_alone() -> None:
    contracting = support.fill(create_model("unet", width=2)).contracting
    contracting.dropout.p = 1.0
    dropped = [not feature.any() for feature in contracting.train()(support.image(1, 1, 32, 32))]
    assert dropped == [False, False, False, True, True]
    assert create_model("unet", width=2).contracting.dropout.p == 0.5


def test_the_papers_path_has_no_trunk() -> None:
    model = create_model("unet", width=2)
    assert not model.parameter_groups()["encoder"]
    assert model.multiple_of == 16
    with pytest.raises(InputError, match="UNet has no trunk with published weights; create it"):
        create_model("unet", width=2, pretrained=True)


def test_no_width_is_refused() -> None:
    with pytest.raises(InputError, match="UNet needs width >= 1, got 0"):
        create_model("unet", width=0)


# ---- over a trunk ------------------------------------------------------------------------------


def test_over_resnet34_it_has_the_popular_size() -> None:
    with torch.device("meta"):
        model = create_model("unet", encoder="resnet34", num_classes=1)
    assert model_entry("unet").config.in_channels == 1, "the paper's images are grey"
    assert model.config.in_channels == 3, "a trunk's are not"
    assert count(model) == 24_436_369
    assert model.multiple_of == 32


def test_it_equals_segmentation_models_pytorch() -> None:
    record = json.loads((support.EXPECTED / "unet_encoder_resnet34.json").read_text())
    assert "segmentation_models_pytorch" in record["origin"]
    model = support.fill(create_model("unet", **record["settings"]))
    got = support.outputs(model, support.image(*record["size"]))
    for mode, heads in record["outputs"].items():
        for head, described in heads.items():
            support.assert_described(got[mode][head], described, f"{head} in {mode} mode")


@pytest.mark.parametrize(
    ("encoder", "skips"),
    [
        ("test_resnet", [True, True, True, True, False]),
        ("test_convnext", [True, True, True, False, False]),  # its finest feature has stride 4
        ("vgg16", [True, True, True, True, True]),
    ],
)
def test_every_stride_of_the_trunk_is_copied(encoder: str, skips: list[bool]) -> None:
    with torch.device("meta"):
        model = create_model("unet", encoder=encoder, num_classes=2)
    assert [skip is not None for skip in model.decoder.skips] == skips


def test_copies_of_unpadded_trunks_are_met() -> None:
    model = create_model("unet", encoder="legacy_xception", num_classes=2).eval()
    images = support.image(1, 3, 96, 128)
    with torch.inference_mode():
        sizes = [tuple(f.shape[-2:]) for f in model.encoder(images)]
        assert sizes[0] == (45, 61), "not half of the image"
        assert model(images).shape == (1, 2, 96, 128)


@pytest.mark.parametrize(
    ("encoder", "exact"), [("resnet18", True), ("test_resnet", True), ("legacy_xception", False)]
)
def test_enlarging_and_convolving_at_once_is_equal(encoder: str, exact: bool) -> None:
    model = support.fill(create_model("unet", encoder=encoder, num_classes=3)).double().eval()
    fused = model.fuse()
    images = support.image(1, 3, 64, 96).double()
    grown = []
    for block in fused.decoder.blocks:
        assert isinstance(block, MergedLevel)
        block.grow.register_forward_hook(lambda *_: grown.append(1))
    with torch.no_grad():
        torch.testing.assert_close(fused(images), model(images), rtol=1e-9, atol=1e-9)
    assert (len(grown) == 5) is exact


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("test_vit", "feature at stride 32; this encoder has strides 16, 16, 16. Choose another"),
        ("shvit_s1", "feature at stride 8; this encoder has strides 16, 32, 64. Choose another"),
    ],
)
def test_a_trunk_without_the_strides_is_refused(encoder: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)), torch.device("meta"):
        create_model("unet", encoder=encoder)


def test_a_pretrained_trunk_takes_grey_images(tmp_path: Path) -> None:
    weights = support.fill(timm.create_model("test_resnet")).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    model = create_model(
        "unet",
        encoder="test_resnet",
        pretrained=tmp_path / "weights.safetensors",
        in_channels=1,
        num_classes=3,
    ).eval()
    loaded = model.encoder.trunk.state_dict()
    assert torch.equal(loaded["layer4.0.conv2.weight"], weights["layer4.0.conv2.weight"])
    stem = weights["conv1.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(loaded["conv1.0.weight"], stem)
    with torch.inference_mode():
        assert model(support.image(1, 1, 67, 91)).shape == (1, 3, 67, 91)

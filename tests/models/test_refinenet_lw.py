"""Light-Weight RefineNet: the cascade without 3x3 convolutions, over ResNet and MobileNet-v2."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from semseg.core.checks import FileError, InputError
from semseg.models import create_model
from semseg.models.encoder_decoder.refinenet import ResidualUnit
from semseg.models.encoder_decoder.refinenet_lw import InvertedResidual, MobileNetV2
from tests.models import support


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ---- over a ResNet -----------------------------------------------------------------------------


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("refinenet_lw_resnet101")
    deep, fine = 512, 256
    want = [
        2048 * deep + 4 * deep * deep,
        1024 * fine + fine * fine + deep * fine + 4 * fine * fine,
        512 * fine + 2 * fine * fine + 4 * fine * fine,
        256 * fine + 2 * fine * fine + 4 * fine * fine,
    ]
    assert [count(block) for block in model.cascade.blocks] == want
    assert count(model.head) == 9 * fine * 21 + 21


def test_only_the_classifier_is_3x3() -> None:
    model = create_model("refinenet_lw_resnet50", encoder="test_resnet", width=4)
    convs = [m for m in model.cascade.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 4 * 5 + 3 * 2
    assert all(conv.kernel_size == (1, 1) and conv.bias is None for conv in convs)
    assert not [m for m in model.modules() if isinstance(m, ResidualUnit)]
    assert model.head.kernel_size == (3, 3)
    assert model.head.bias is not None


def test_dropout_of_the_two_deepest_features_alone() -> None:
    model = support.fill(create_model("refinenet_lw_resnet50", encoder="test_resnet", width=4))
    assert model.dropout.p == 0.5
    model.dropout.p = 1.0
    model.train()
    dropped: list[bool] = []
    model.cascade.register_forward_pre_hook(
        lambda _, args: dropped.extend(not feature.any() for feature in args[0])
    )
    model.head.register_forward_pre_hook(lambda _, args: dropped.append(not args[0].any()))
    model.forward_heads(support.image(2, 3, 64, 64))
    assert dropped == [True, True, False, False, False]


def test_frozen_statistics_stay() -> None:
    model = create_model(
        "refinenet_lw_resnet50", encoder="test_resnet", width=4, freeze_norm=True
    ).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model.forward_heads(support.image(1, 3, 20, 32))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if "running" in k)
    assert all(p.requires_grad for p in model.parameters())


# ---- over MobileNet-v2 -------------------------------------------------------------------------


def test_count_of_the_mobile_parts() -> None:
    with torch.device("meta"):
        model = create_model("refinenet_lw_mobilenet_v2")
    # 2,223,872 without classifier (torchvision's), less the last 1x1 of 320 to 1280 with its norm,
    # plus the first block's expansion
    assert count(model.encoder) == 2_223_872 - (320 * 1280 + 2 * 1280) + (32 * 32 + 2 * 32)
    assert count(model.reduce) == (24 + 32 + 64 + 96 + 160 + 320) * 256
    assert count(model.pooling) == 16 * 256 * 256
    assert count(model.fuse_below) == 3 * 256 * 256


def test_features_of_mobilenet_v2() -> None:
    trunk = MobileNetV2().eval()
    with torch.inference_mode():
        features = trunk(support.image(1, 3, 70, 100))
    sizes = {4: (18, 25), 8: (9, 13), 16: (5, 7), 32: (3, 4)}
    assert [tuple(f.shape[1:]) for f in features] == [
        (channels, *sizes[stride])
        for channels, stride in zip(trunk.channels, trunk.strides, strict=True)
    ]
    assert trunk.channels == (24, 32, 64, 96, 160, 320)
    assert any((f < 0).any() for f in features), "a stage ends without activation"


def test_shortcuts_are_where_shapes_agree() -> None:
    shortcuts = [[block.shortcut for block in stage] for stage in MobileNetV2().stages]
    assert [stage[0] for stage in shortcuts] == [False] * 7
    assert all(all(stage[1:]) for stage in shortcuts)
    block = support.fill(InvertedResidual(4, 4, 6, 1))
    nn.init.zeros_(block.project[1].weight)
    nn.init.zeros_(block.project[1].bias)
    x = support.image(1, 4, 5, 6)
    assert torch.equal(block(x), x)


def test_fused_features_end_at_six() -> None:
    model = support.fill(create_model("refinenet_lw_mobilenet_v2", width=4))
    highest: list[float] = []
    for pooling in model.pooling:
        pooling.register_forward_pre_hook(lambda _, args: highest.append(args[0].max().item()))
    with torch.inference_mode():
        model.forward_heads(support.image(1, 3, 64, 96) * 9)
    assert len(highest) == 4
    assert max(highest) == 6


def test_timms_weights_compute_what_they_compute_in_timm(tmp_path: Path) -> None:
    donor = support.fill(timm.create_model("mobilenetv2_100", in_chans=3))
    save_file(donor.state_dict(), tmp_path / "weights.safetensors")
    model = create_model(
        "refinenet_lw_mobilenet_v2", width=4, pretrained=tmp_path / "weights.safetensors"
    ).eval()
    images = support.image(1, 3, 64, 96)
    with torch.inference_mode():
        x, want = donor.bn1(donor.conv_stem(images)), []
        for stage in donor.blocks:
            x = stage(x)
            want.append(x)
        for got, feature in zip(model.encoder(images), want[1:], strict=True):
            torch.testing.assert_close(got, feature, rtol=1e-4, atol=1e-4 * feature.std().item())
    with pytest.raises(FileError, match=r"missing\.safetensors"):
        model.load_pretrained(tmp_path / "missing.safetensors")


# ---- both --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "refinenet_lw_resnet50", "encoder": "test_resnet", "width": 64},
        {"name": "refinenet_lw_mobilenet_v2", "width": 64},
    ],
    ids=["resnet", "mobilenet"],
)
def test_new_layers_start_small(settings: dict) -> None:
    model = create_model(**settings)
    inside = {id(p) for p in model.encoder.parameters()}
    new = [p for p in model.parameters() if id(p) not in inside]
    weights = torch.cat([p.flatten() for p in new if p.dim() > 1])
    error = 5 / (2 * weights.numel()) ** 0.5  # five deviations of a sample's deviation
    assert weights.std().item() == pytest.approx(0.01, rel=error)
    assert not any(p.any() for p in new if p.dim() == 1)


def test_refusals() -> None:
    with pytest.raises(InputError, match="LightWeightRefineNet needs width >= 1, got 0"):
        create_model("refinenet_lw_resnet50", encoder="test_resnet", width=0)
    with pytest.raises(InputError, match="MobileRefineNet needs width >= 1, got -3"):
        create_model("refinenet_lw_mobilenet_v2", width=-3)
    for name, settings in (
        ("refinenet_lw_resnet50", {"encoder": "test_resnet"}),
        ("refinenet_lw_mobilenet_v2", {}),
    ):
        model = create_model(name, width=4, **settings).train()
        wanted = f"{type(model).__name__} cannot train on one image of this size"
        with pytest.raises(InputError, match=wanted):
            model(support.image(1, 3, 20, 32))

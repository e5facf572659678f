"""DeepLab v3: unit rates of the trunk, the pyramid, and torchvision's form."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights, DeepLabV3_ResNet101_Weights

from semseg.core.checks import InputError
from semseg.models import create_model, model_entry
from semseg.models.dilated.deeplab_v3 import ASPP
from tests.models import support

SMALL = {"encoder": "test_resnet", "num_classes": 5}


# ---- dilation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output_stride", "third", "fourth"),
    [(16, [1] * 6, [2, 4, 8]), (8, [2] * 6, [4, 8, 16])],
)
def test_rates_of_the_last_blocks(output_stride: int, third: list[int], fourth: list[int]) -> None:
    """Section 3.2.1: at stride 16 the unit rates 1, 2, 4 give block4 the rates 2, 4, 8."""
    with torch.device("meta"):
        trunk = create_model("deeplab_v3_resnet50", output_stride=output_stride).encoder.trunk
    for stage, rates in ((trunk.layer3, third), (trunk.layer4, fourth)):
        assert [unit.conv2.dilation[0] for unit in stage] == rates
        assert [unit.conv2.padding[0] for unit in stage] == rates


def test_a_shorter_or_longer_block_repeats_the_unit_rates() -> None:
    with torch.device("meta"):
        two = create_model("deeplab_v3_resnet50", encoder="resnet18").encoder.trunk.layer4
        caffe = create_model("deeplab_v3_resnet50", encoder="resnet101_caffe").encoder.layer4
        four = create_model("deeplab_v3_resnet50", multi_grid=(1, 3)).encoder.trunk.layer4
    assert [(unit.conv1.dilation[0], unit.conv2.dilation[0]) for unit in two] == [(2, 2), (4, 4)]
    assert [unit.conv2.dilation[0] for unit in caffe] == [2, 4, 8]
    assert [unit.conv2.dilation[0] for unit in four] == [2, 6, 2]


def test_without_unit_rates_the_trunk_is_as_built() -> None:
    with torch.device("meta"):
        trunk = create_model("deeplab_v3_resnet50", output_stride=8, multi_grid=None).encoder.trunk
    assert [unit.conv2.dilation[0] for unit in trunk.layer3] == [1] + [2] * 5
    assert [unit.conv2.dilation[0] for unit in trunk.layer4] == [2, 4, 4]


# ---- the pyramid -------------------------------------------------------------------------------


def test_count_of_the_pyramid() -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v3_resnet101")
    norm = 2 * 256
    branches = 2048 * 256 + norm + 3 * (9 * 2048 * 256 + norm)
    image, join = 2048 * 256 + norm, 5 * 256 * 256 + norm
    assert sum(p.numel() for p in model.aspp.parameters()) == branches + image + join
    assert sum(p.numel() for p in model.head.parameters()) == 256 * 21 + 21


def test_a_flat_feature_passes_the_pyramid_by_hand() -> None:
    """On a constant map the borders alone tell the branches apart: count the taps that meet it."""
    aspp = ASPP(1, (2, 3), width=1).eval()
    for parameter in aspp.parameters():
        nn.init.ones_(parameter) if parameter.dim() > 1 else None
    x = torch.ones(1, 1, 5, 5)
    taps = [[1, 9, 9], [1, 4, 4]]  # 1x1, rate 2, rate 3 at the centre and at a corner
    taps[0][2] = 1  # rate 3 leaves a map of 5 from its centre
    scale = (1 + 1e-5) ** -0.5  # BatchNorm as it starts, once in a branch and once at the join
    for (row, column), counts in zip(((2, 2), (0, 0)), taps, strict=True):
        want = (sum(counts) + 1) * scale**2  # and one of image pooling
        assert aspp(x)[0, 0, row, column].item() == pytest.approx(want, rel=1e-6)


def test_new_layers_start_as_the_authors_code() -> None:
    model = create_model("deeplab_v3_resnet50", **SMALL)
    assert model.head.weight.std().item() == pytest.approx(0.88 * 0.01, rel=0.1)
    assert model.head.weight.abs().max() <= 0.02
    assert not model.head.bias.any()
    for conv in (m for m in model.aspp.modules() if isinstance(m, nn.Conv2d)):
        fan = (conv.in_channels + conv.out_channels) * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.05)
    assert model.aspp.dropout.p == 0.1


def test_one_image_trains_only_with_a_frozen_image_norm() -> None:
    model = create_model("deeplab_v3_resnet50", **SMALL).train()
    with pytest.raises(InputError, match="DeepLab needs at least 2 images per step in training"):
        model(support.image(1, 3, 48, 48))
    model.aspp.image.eval()
    assert model(support.image(1, 3, 48, 48)).isfinite().all()


# ---- torchvision's form ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("deeplab_v3_resnet50_torchvision", DeepLabV3_ResNet50_Weights),
        ("deeplab_v3_resnet101_torchvision", DeepLabV3_ResNet101_Weights),
    ],
)
def test_counts_and_results_that_torchvision_states(name: str, weights: type) -> None:
    meta = weights.DEFAULT.meta
    entry = model_entry(name)
    assert entry.num_params == meta["num_params"]
    assert entry.published[0].miou == meta["_metrics"]["COCO-val2017-VOC-labels"]["miou"]


def test_torchvisions_heads() -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v3_resnet101_torchvision").eval()
        heads = model.forward_heads(torch.empty(2, 3, 65, 97))
    assert {k: tuple(v.shape[1:]) for k, v in heads.items()} == {
        "logits": (21, 9, 13),
        "aux": (21, 9, 13),
    }
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.1]
    assert not model.align_corners
    assert create_model("deeplab_v3_resnet50", **SMALL).align_corners


def test_torchvisions_auxiliary_head_counts_half() -> None:
    model = create_model("deeplab_v3_resnet50_torchvision", **SMALL)
    images = support.image(2, 3, 40, 48)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    terms = model.loss(heads, target, support.criterion)
    full = model.enlarge(heads["aux"], (40, 48))
    torch.testing.assert_close(terms["aux"], 0.5 * support.criterion(full, target))


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_stride": 32}, "DeepLabV3 has output_stride 16 or 8, got 32"),
        (
            {"multi_grid": (1, 0)},
            "multi_grid is unit rates of at least 1, e.g. (1, 2, 4), or None; got (1, 0)",
        ),
        (
            {"encoder": "test_convnext"},
            "multi_grid sets the dilation of a ResNet's last units, and 'test_convnext' is none; "
            "choose a ResNet, or multi_grid=None",
        ),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model("deeplab_v3_resnet50", **settings)

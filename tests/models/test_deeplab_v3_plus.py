"""What is DeepLab v3+'s own: pyramid, separable convolutions, one image in training."""

from __future__ import annotations

import copy
import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg import create_model
from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.nn.conv import separable_conv_bn_relu
from tests.models import support

NAME = "deeplab_v3_plus_resnet101"
SMALL = {"encoder": "test_resnet", "num_classes": 5}


def test_the_dense_form_has_its_published_size() -> None:
    with torch.device("meta"):
        model = create_model(NAME, separable=False)
    assert sum(p.numel() for p in model.parameters()) == 59_344_309


def test_dense_convolutions_at_stride_8_equal_the_reference() -> None:
    record = json.loads((support.EXPECTED / "deeplab_v3_plus_dense.json").read_text())
    assert record["settings"]["output_stride"] == 8
    model = support.fill(create_model(NAME, **record["settings"]))
    got = support.outputs(model, support.image(*record["size"]))
    for mode, heads in record["outputs"].items():
        for head, described in heads.items():
            support.assert_described(got[mode][head], described, f"{head} in {mode} mode")


@pytest.mark.parametrize(("output_stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
@pytest.mark.parametrize("separable", [True, False])
def test_rates_double_at_output_stride_8(
    output_stride: int, rates: list[int], separable: bool
) -> None:
    model = create_model(NAME, output_stride=output_stride, separable=separable, **SMALL)
    dilated = [m for m in model.aspp.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    assert [conv.dilation[0] for conv in dilated] == rates
    assert [conv.padding[0] for conv in dilated] == rates
    assert model.encoder.strides[-1] == output_stride


def test_a_separable_convolution_activates_twice() -> None:
    block = support.fill(separable_conv_bn_relu(3, 4, dilation=2))
    x = support.image(1, 3, 9, 10)
    depthwise, first, _, pointwise, second, _ = block
    y = F.conv2d(x, depthwise.weight, padding=2, dilation=2, groups=3)
    y = F.conv2d(F.relu(first(y)), pointwise.weight)
    torch.testing.assert_close(block(x), F.relu(second(y)))


def test_image_pooling_is_one_vector_for_all_pixels() -> None:
    model = support.fill(create_model(NAME, **SMALL))
    features = support.image(2, model.encoder.channels[-1], 5, 7)
    with torch.inference_mode():
        joined = model.aspp(features)
        # what one far pixel changes through pooling alone
        features[0, :, 4, 6] += 1
        moved = model.aspp(features)
    assert (moved[0] != joined[0]).any(dim=0).all()
    assert torch.equal(moved[1], joined[1])


# ---- the trunk ---------------------------------------------------------------------------------


def test_the_resnets_last_units_have_unit_rates() -> None:
    with torch.device("meta"):
        trunk = create_model(NAME).encoder.trunk
        plain = create_model(NAME, multi_grid=None).encoder.trunk
    assert [unit.conv2.dilation[0] for unit in trunk.layer4] == [2, 4, 8]
    assert [unit.conv2.dilation[0] for unit in plain.layer4] == [1, 2, 2]


def test_the_fine_feature_of_xception_is_not_rectified() -> None:
    """The authors take ``entry_flow/block2``'s second separable convolution, before any ReLU."""
    model = create_model("deeplab_v3_plus_xception65", encoder="xception41", num_classes=2).double()
    assert model.encoder.strides[model.low] == 4
    plain = build_encoder("xception41", output_stride=16).double().eval()
    plain.load_state_dict(model.encoder.state_dict())
    images = support.image(1, 3, 33, 41).double()
    parts = dict(plain.trunk.named_children())
    with torch.no_grad():
        x = parts["blocks_0"](parts["stem_1"](parts["stem_0"](images)))
        stack = parts["blocks_1"].stack
        want = stack.conv2(F.relu(stack.conv1(F.relu(x))))
        fine, deep = (copy.deepcopy(model).eval().encoder(images)[i] for i in (model.low, -1))
        torch.testing.assert_close(fine, want)
        assert fine.min() < 0
        torch.testing.assert_close(deep, plain(images)[-1])
        torch.testing.assert_close(F.relu(fine), plain(images)[model.low])


# ---- one image in training ---------------------------------------------------------------------


def test_one_image_in_training_is_refused_with_the_reason() -> None:
    model = create_model(NAME, **SMALL).train()
    message = (
        "DeepLab needs at least 2 images per step in training mode: its image-pooling "
        "norm has one value per channel and image; use a batch size of 2 or more"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        model(support.image(1, 3, 64, 64))
    assert model(support.image(2, 3, 64, 64)).isfinite().all()
    model.aspp.image.eval()  # a frozen norm has nothing to average
    assert model(support.image(1, 3, 64, 64)).isfinite().all()


# ---- initial values and weight decay -----------------------------------------------------------


@pytest.mark.parametrize("separable", [True, False])
def test_initial_weights_are_the_authors(separable: bool) -> None:
    model = create_model(NAME, separable=separable, **SMALL)
    # a normal cut at two deviations keeps 0.88 of its deviation
    assert model.head.weight.std().item() == pytest.approx(0.88 * 0.01, rel=0.1)
    assert model.head.weight.abs().max() <= 0.02
    assert not model.head.bias.any()
    convs = [m for m in model.decoder.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        fan = sum(conv.weight.flatten(2).shape[:2]) * conv.kernel_size[0] ** 2
        want = math.sqrt(2 / fan)  # Xavier
        if separable:
            want = 0.88 * (0.33 if conv.groups > 1 else 0.06)
        assert conv.weight.std().item() == pytest.approx(want, rel=0.1)
    assert len(convs) == (4 if separable else 2)


def test_depthwise_kernels_are_not_decayed() -> None:
    model = create_model(NAME, **SMALL)
    depthwise = {f"aspp.branches.{i}.0.weight" for i in (1, 2, 3)}
    assert model.no_weight_decay() == depthwise | {f"decoder.{i}.0.weight" for i in (0, 1)}
    assert not create_model(NAME, separable=False, **SMALL).no_weight_decay()
    with torch.device("meta"):
        xception = create_model("deeplab_v3_plus_xception65")
    inside = [key for key in xception.no_weight_decay() if key.startswith("encoder.")]
    assert len(inside) == 21 * 3, "three separable convolutions in each of 21 blocks"
    assert set(inside) < dict(xception.named_parameters()).keys()


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_stride": 32}, "DeepLabV3Plus has output_stride 16 or 8, got 32"),
        (
            {"multi_grid": ()},
            "multi_grid is unit rates of at least 1, e.g. (1, 2, 4), or None; got ()",
        ),
        (
            {"encoder": "xception65"},
            "multi_grid sets the dilation of a ResNet's last units, and 'xception65' is none; "
            "choose a ResNet, or multi_grid=None",
        ),
        ({"encoder": "densenet121"}, "'densenet121' cannot have output_stride 16; use 32, or a"),
        ({"encoder": "vgg16"}, "'vgg16' cannot have output_stride 16; use 32, or a network"),
    ],
)
def test_a_trunk_that_cannot_be_dilated_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model(NAME, **settings)

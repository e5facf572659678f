"""DeepLab v3 and v3+ over any trunk: equal to segmentation_models_pytorch."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.dilated.deeplab_v3_any import separable_conv
from tests.models import support

NAMES = ("deeplab_v3", "deeplab_v3_plus")


@pytest.mark.parametrize("name", NAMES)
def test_trunks_that_the_toolbox_takes_from_timm_are_equal_too(name: str) -> None:
    """The record under the network's own name is of the toolbox's own ResNet."""
    own = json.loads((support.EXPECTED / f"{name}.json").read_text())
    record = json.loads((support.EXPECTED / f"{name}_tu.json").read_text())
    assert own["settings"]["dilate_first"]
    assert not record["settings"]["dilate_first"]
    model = support.fill(create_model(name, **record["settings"]))
    got = support.outputs(model, support.image(*record["size"]))
    for mode, heads in record["outputs"].items():
        for head, described in heads.items():
            support.assert_described(got[mode][head], described, f"{head} in {mode} mode")


@pytest.mark.parametrize(
    ("settings", "third", "fourth"),
    [
        ({"output_stride": 8}, [2] * 12, [4] * 6),
        ({"output_stride": 16}, [1] * 12, [2] * 6),
        ({"output_stride": 8, "dilate_first": False}, [1] + [2] * 11, [2] + [4] * 5),
        ({"output_stride": 16, "dilate_first": False}, [1] * 12, [1] + [2] * 5),
    ],
)
def test_dilation_of_the_first_unit(settings: dict, third: list[int], fourth: list[int]) -> None:
    with torch.device("meta"):
        trunk = create_model("deeplab_v3", **settings).encoder.trunk
    for stage, rates in ((trunk.layer3, third), (trunk.layer4, fourth)):
        convs = [conv for unit in stage for conv in (unit.conv1, unit.conv2)]
        assert [conv.dilation[0] for conv in convs] == rates
        assert [conv.padding[0] for conv in convs] == rates


@pytest.mark.parametrize("encoder", ["test_efficientnet", "drn_d_22", "drn_a_50"])
def test_other_trunks_keep_their_own_dilation(encoder: str) -> None:
    def rates(**settings: bool) -> list[tuple[int, ...]]:
        with torch.device("meta"):
            trunk = create_model("deeplab_v3", encoder=encoder, **settings).encoder
        return [m.dilation for m in trunk.modules() if isinstance(m, nn.Conv2d)]

    assert rates(dilate_first=True) == rates(dilate_first=False)


def test_the_toolboxs_defaults() -> None:
    with torch.device("meta"):
        v3, plus = (create_model(name) for name in NAMES)
    assert (v3.multiple_of, plus.multiple_of) == (8, 16)
    for model in (v3, plus):
        spatial = [m for m in model.aspp.modules() if getattr(m, "kernel_size", (1,))[0] == 3]
        assert [conv.dilation[0] for conv in spatial] == [12, 24, 36]
        assert {conv.groups > 1 for conv in spatial} == {model is plus}
        assert model.aspp.dropout.p == 0.5


@pytest.mark.parametrize(("name", "stride"), [("deeplab_v3", 8), ("deeplab_v3_plus", 4)])
def test_stride_of_the_scores(name: str, stride: int) -> None:
    with torch.device("meta"):
        heads = create_model(name).eval().forward_heads(torch.empty(1, 3, 64, 96))
    assert heads["logits"].shape == (1, 21, 64 // stride, 96 // stride)


def test_a_separable_convolution_is_linear_before_its_norm() -> None:
    block = separable_conv(3, 4, dilation=2)
    kinds = [type(layer).__name__ for layer in block]
    assert kinds == ["Conv2d", "Conv2d", "BatchNorm2d", "ReLU"]
    depthwise, pointwise = block[0], block[1]
    assert (depthwise.groups, depthwise.dilation, depthwise.bias) == (3, (2, 2), None)
    assert (pointwise.kernel_size, pointwise.bias) == ((1, 1), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_stride": 32}, "DeepLab has output_stride 16 or 8, got 32"),
        ({"rates": ()}, "rates are dilations of at least 1, e.g. (6, 12, 18); got ()"),
        ({"width": 0}, "DeepLab needs width >= 1, got 0"),
        ({"encoder": "densenet121"}, "'densenet121' cannot have output_stride"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_refusals(name: str, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model(name, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_one_image_in_training_is_refused(name: str) -> None:
    model = create_model(name, encoder="test_resnet", width=8).train()
    with pytest.raises(InputError, match="DeepLab needs at least 2 images per step in training"):
        model(support.image(1, 3, 32, 32))

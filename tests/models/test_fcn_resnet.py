"""FCN on a dilated ResNet, as torchvision publishes it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.segmentation import FCN_ResNet50_Weights, FCN_ResNet101_Weights

from semseg.core.checks import InputError
from semseg.models import create_model, model_entry
from tests.models import support


@pytest.mark.parametrize(
    ("name", "weights"),
    [("fcn_resnet50", FCN_ResNet50_Weights), ("fcn_resnet101", FCN_ResNet101_Weights)],
)
def test_counts_and_results_that_torchvision_states(name: str, weights: type) -> None:
    meta = weights.DEFAULT.meta
    entry = model_entry(name)
    assert entry.num_params == meta["num_params"]
    assert entry.published[0].miou == meta["_metrics"]["COCO-val2017-VOC-labels"]["miou"]


def test_dilation_starts_in_the_second_block_of_a_stage() -> None:
    with torch.device("meta"):
        trunk = create_model("fcn_resnet50").encoder.trunk
    for stage, first, others in ((trunk.layer3, 1, 2), (trunk.layer4, 2, 4)):
        assert [b.conv2.dilation[0] for b in stage] == [first] + [others] * (len(stage) - 1)
        assert {b.conv2.stride for b in stage} == {(1, 1)}


def test_heads() -> None:
    with torch.device("meta"):
        model = create_model("fcn_resnet101").eval()
        heads = model.forward_heads(torch.empty(1, 3, 65, 97))
    assert {k: tuple(v.shape[1:]) for k, v in heads.items()} == {
        "logits": (21, 9, 13),
        "aux": (21, 9, 13),
    }
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.1]


def test_the_auxiliary_head_counts_half() -> None:
    model = create_model("fcn_resnet50", encoder="test_resnet", num_classes=5)
    images = support.image(2, 3, 40, 48)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    terms = model.loss(heads, target, support.criterion)
    full = model.enlarge(heads["aux"], (40, 48))
    torch.testing.assert_close(terms["aux"], 0.5 * support.criterion(full, target))


def test_training_on_one_pixel_is_refused() -> None:
    model = create_model("fcn_resnet50", encoder="test_resnet").train()
    with pytest.raises(InputError, match="FCNResNet cannot train on one image of this size"):
        model.forward_heads(support.image(1, 3, 8, 8))

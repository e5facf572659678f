"""PSPNet: the pyramid, the grid of every eighth pixel, and the toolbox's light form."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.encoders.resnet_deep import DeepResNet
from semseg.models import create_model
from semseg.models.pyramid.pspnet import PyramidPooling
from tests.models import support

SMALL = {"encoder": "test_resnet", "num_classes": 5}


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "predicting", "aux"),
    # counted from the layers of the Caffe code and of the PyTorch code alike
    [
        ("pspnet_resnet50", 150, 46_782_550, 2_398_358),
        ("pspnet_resnet101", 21, 65_708_501, 2_365_205),
        ("pspnet_resnet101", 19, 65_707_475, 2_364_691),
    ],
)
def test_counts_of_the_authors_networks(name: str, classes: int, predicting: int, aux: int) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=classes)
    assert (count(model) - count(model.aux), count(model.aux)) == (predicting, aux)


def test_the_trunk_is_the_papers_at_stride_8() -> None:
    with torch.device("meta"):
        trunk = create_model("pspnet_resnet101").encoder
    assert isinstance(trunk, DeepResNet)
    assert trunk.strides == (2, 4, 8, 8, 8)
    assert [len(trunk.get_submodule(f"layer{i}")) for i in (1, 2, 3, 4)] == [3, 4, 23, 3]


# ---- pyramid -----------------------------------------------------------------------------------


def identity_pooling(align_corners: bool) -> PyramidPooling:
    """Pyramid pooling of one channel whose 1x1 and norm change nothing."""
    pooling = PyramidPooling(1, 1, align_corners).double().eval()
    for level in pooling.levels:
        nn.init.ones_(level[1].weight)
        level[2].eps = 0.0
    return pooling


def test_levels_are_averages_of_1_4_9_and_36_regions() -> None:
    x = support.image(1, 1, 12, 18).double().abs()
    levels = identity_pooling(align_corners=True)(x)
    assert len(levels) == 4
    for bins, level in zip((1, 2, 3, 6), levels, strict=True):
        assert level.shape == x.shape
        first = x[..., : 12 // bins, : 18 // bins].mean()
        last = x[..., -12 // bins :, -18 // bins :].mean()
        torch.testing.assert_close(level[0, 0, 0, 0], first)  # corners stand on corners
        torch.testing.assert_close(level[0, 0, -1, -1], last)
        assert level.unique().numel() == 1 if bins == 1 else level.unique().numel() > bins**2


def test_levels_are_enlarged_bilinearly_corner_on_corner() -> None:
    x = torch.arange(7.0).double().expand(1, 1, 5, 7)
    whole, halves, *_ = identity_pooling(align_corners=True)(x)
    assert whole.eq(3).all()
    # averages of columns 0 … 3 and 3 … 6: 1.5 and 4.5, six equal steps apart
    torch.testing.assert_close(halves[0, 0, 0], torch.linspace(1.5, 4.5, 7).double())


def test_one_image_in_training_is_refused_with_the_reason() -> None:
    message = (
        "pyramid pooling needs at least 2 images per step in training mode: its average of the "
        "whole image is one value per channel and image, which batch normalisation turns into "
        "zero; use a batch size of 2 or more and drop an incomplete last batch"
    )
    model = create_model("pspnet_resnet50", **SMALL).train()
    with pytest.raises(InputError, match=re.escape(message)):
        model(support.image(1, 3, 33, 33))
    assert model(support.image(2, 3, 33, 33)).isfinite().all()
    model.pooling.eval()  # frozen norms have nothing to average
    assert model(support.image(1, 3, 33, 33)).isfinite().all()


# ---- grid --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "scores"), [((65, 97), (9, 13)), ((64, 90), (9, 13))])
def test_scores_stand_on_every_eighth_pixel(size: tuple[int, int], scores: tuple[int, int]) -> None:
    model = support.fill(create_model("pspnet_resnet50", **SMALL))
    images = support.image(1, 3, *size)
    with torch.inference_mode():
        heads = model.forward_heads(images)
        assert heads["logits"].shape == heads["aux"].shape == (1, 5, *scores)
        dense = model(images)[..., ::8, ::8]
    torch.testing.assert_close(dense, heads["logits"][..., : dense.shape[-2], : dense.shape[-1]])


def test_a_trunk_off_the_grid_is_refused() -> None:
    model = create_model("pspnet_resnet50", num_classes=5, encoder="test_convnext")
    message = (
        "PSPNet needs a trunk with a feature on every eighth pixel, the image's corners included; "
        "this one gives (8, 12) for (65, 97). Choose a ResNet"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        model.eval()(support.image(1, 3, 65, 97))


def test_heads_and_their_weights() -> None:
    model = create_model("pspnet_resnet50", **SMALL)
    images = support.image(2, 3, 40, 48)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    terms = model.loss(heads, target, support.criterion)
    full = model.enlarge(heads["aux"], (40, 48))
    torch.testing.assert_close(terms["aux"], 0.4 * support.criterion(full, target))
    assert terms.keys() == {"logits", "aux"}
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.1, 0.1]
    third, fourth = model.encoder.channels[-2:]
    assert model.head[0].weight.shape == (512, 2 * fourth, 3, 3)
    assert model.aux[0].weight.shape == (256, third, 3, 3)


# ---- the toolbox's form ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "parameters"), [(1, 1_501_217), (21, 1_593_397), (150, 2_187_958)]
)
def test_the_light_form_has_the_toolboxs_size(classes: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(create_model("pspnet", num_classes=classes)) == parameters


def test_the_light_form_trains_on_one_image() -> None:
    model = create_model("pspnet", **SMALL).train()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.pooling.levels[0])
    assert model(support.image(1, 3, 33, 33)).isfinite().all()
    with pytest.raises(InputError, match="PSPNetAny cannot train on one image of this size"):
        model(support.image(1, 3, 8, 8))


def test_the_light_form_starts_as_the_toolbox_does() -> None:
    torch.manual_seed(0)
    model = create_model("pspnet", **SMALL)
    join, head = model.join[0].weight, model.head.weight
    # uniform values reach sqrt(6 / incoming), and sqrt(6 / (incoming + outgoing))
    assert join.abs().max().item() == pytest.approx(math.sqrt(6 / join.shape[1]), rel=0.01)
    assert head.abs().max().item() == pytest.approx(math.sqrt(6 / (9 * (512 + 5))), rel=0.01)
    assert not model.head.bias.any()
    assert not model.pooling.levels[0][1].bias.any()
    assert model.dropout.p == 0.2


def test_a_trunk_without_stride_8_is_refused() -> None:
    with pytest.raises(InputError, match="the decoder needs a feature at stride 8"):
        create_model("pspnet", encoder="test_vit")
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("pspnet_resnet50", encoder="densenet121")

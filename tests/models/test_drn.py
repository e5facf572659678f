"""DRN as a segmentation network: what is on the trunk, and how its scores are enlarged."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError, UnknownNameError
from semseg.models import create_model, model_entry
from semseg.models.base import SegmentationModel
from tests.models import support

NAMES = ("drn_a_50", "drn_c_26", "drn_c_42", "drn_d_22", "drn_d_38", "drn_d_54", "drn_d_105")


def small(name: str = "drn_d_22", **settings: int) -> SegmentationModel:
    return create_model(name, **({"num_classes": 5} | dict(model_entry(name).small) | settings))


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str) -> None:
    model = small(name).eval()
    for size in ((64, 96), (61, 91)):
        images = support.image(1, 3, *size)
        logits = model.forward_heads(images)["logits"]
        assert logits.shape == (1, 5, math.ceil(size[0] / 8), math.ceil(size[1] / 8))
        assert model(images).shape == (1, 5, *size)


def deconv(scores: Tensor) -> Tensor:
    """The authors' layer, by its definition: weights of a tent around 7.5, padding of 4."""
    tent = 1 - (torch.arange(16, dtype=scores.dtype) - 7.5).abs() / 8
    kernel = (tent[:, None] * tent).expand(scores.shape[1], 1, -1, -1)
    return F.conv_transpose2d(scores, kernel, stride=8, padding=4, groups=scores.shape[1])


def test_scores_are_enlarged_by_the_authors_deconvolution() -> None:
    model, scores = small(), support.image(2, 5, 4, 6).double()
    model.double()
    want = deconv(scores)
    torch.testing.assert_close(model.enlarge(scores, (32, 48)), want)
    torch.testing.assert_close(model.enlarge(scores, (29, 41)), want[..., :29, :41])
    plain = F.interpolate(scores, (32, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(want[..., 4:-4, 4:-4], plain[..., 4:-4, 4:-4])
    assert not torch.allclose(want[..., 0, :], plain[..., 0, :]), "the border fades"


def test_the_enlarging_is_not_trained() -> None:
    model = small()
    assert len(model.parameter_groups()["head"]) == 2, "weight and bias of the 1x1"
    assert not [key for key in model.state_dict() if key.startswith("up")]


def test_the_classifier_starts_by_outgoing_nodes() -> None:
    torch.manual_seed(0)
    model = create_model("drn_d_22")
    assert model.seg.weight.shape == (19, 512, 1, 1)
    assert model.seg.weight.std().item() == pytest.approx(math.sqrt(2 / 19), rel=0.03)
    assert not model.seg.bias.any()


def test_the_deepest_level_is_classified() -> None:
    model = support.fill(small("drn_c_26"))
    images = support.image(1, 3, 32, 40)
    want = model.seg(model.encoder(images)[-1])
    assert torch.equal(model.forward_heads(images)["logits"], want)
    assert isinstance(model.seg, nn.Conv2d)


def test_refusals() -> None:
    with pytest.raises(UnknownNameError, match=r"DRN trunk.*drn_d_23.*did you mean.*drn_d_22"):
        create_model("drn_d_22", trunk="drn_d_23")
    with pytest.raises(InputError, match="DRNSeg takes a width of at least 1, got 0"):
        create_model("drn_d_22", width=0)
    with pytest.raises(InputError, match="DRNSeg cannot train on one image of this size"):
        small().train()(support.image(1, 3, 8, 8))

"""UPerNet: pooling before the convolution, the top-down path, labels on a quarter grid."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.pyramid.upernet import Context, FeaturePyramid, on_quarter, stacked
from semseg.models.pyramid.upernet_any import ChannelNorm
from tests.models import support

SMALL = {"encoder": "test_resnet", "num_classes": 5, "width": 16}


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("upernet_resnet50")
    w, trunk = 512, (256, 512, 1024, 2048)
    assert count(model.encoder) == 23_631_808
    assert count(model.context) == 4 * (2048 * w + 2 * w) + 9 * (2048 + 4 * w) * w + 2 * w
    lateral = sum(cin * w + 2 * w for cin in trunk[:-1])
    assert count(model.pyramid) == lateral + 3 * (9 * w * w + 2 * w)
    assert count(model.fusion) == 9 * 4 * w * w + 2 * w
    assert count(model.head) == w * 150 + 150


# ---- context -----------------------------------------------------------------------------------


def test_averages_are_enlarged_before_they_are_convolved() -> None:
    context = support.fill(Context(6, 4))
    x = support.image(2, 6, 5, 7)
    pooled = [
        level(F.interpolate(F.adaptive_avg_pool2d(x, bins), (5, 7), mode="bilinear"))
        for level, bins in zip(context.levels, (1, 2, 3, 6), strict=True)
    ]
    want = context.join(torch.cat([x, *pooled], dim=1))
    torch.testing.assert_close(context(x), want)


def test_one_image_can_be_trained_on() -> None:
    model = create_model("upernet_resnet50", **SMALL).train()
    assert model(support.image(1, 3, 33, 33)).isfinite().all()
    with pytest.raises(InputError, match="UPerNet cannot train on one image of this size"):
        model(support.image(1, 3, 32, 32))


# ---- pyramid -----------------------------------------------------------------------------------


def pyramid_of_ones() -> FeaturePyramid:
    """Two levels of one channel; lateral layers pass on, output layers multiply by 10 and 100."""
    pyramid = FeaturePyramid([1, 1], 1).eval()
    for conv, norm, _ in (*pyramid.lateral, *pyramid.out):
        norm.eps = 0.0
        nn.init.zeros_(conv.weight)
        conv.weight.data[0, 0, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = 1
    nn.init.constant_(pyramid.out[0][1].weight, 10)
    nn.init.constant_(pyramid.out[1][1].weight, 100)
    return pyramid


def test_the_path_goes_down_beside_the_output_layers() -> None:
    def flat(value: int, side: int) -> Tensor:
        return torch.full((1, 1, side, side), float(value))

    levels = pyramid_of_ones()([flat(1, 8), flat(2, 4)], flat(4, 2))
    assert [level.shape[-1] for level in levels] == [8, 4, 2], "finest first"
    assert [level.unique().tolist() for level in levels] == [[10 * (1 + 2 + 4)], [100 * 6], [4]]


def test_levels_are_stacked_finest_first() -> None:
    levels = [torch.full((1, 2, 4 // 2**i, 4 // 2**i), float(i)) for i in range(3)]
    out = stacked(levels)
    assert out.shape == (1, 6, 4, 4)
    assert out[0, :, 1, 1].tolist() == [0, 0, 1, 1, 2, 2]


# ---- objective and initial values --------------------------------------------------------------


def test_scores_are_compared_with_every_fourth_label() -> None:
    labels = torch.arange(13 * 18).reshape(1, 13, 18)
    scores, picked = on_quarter(torch.zeros(1, 5, 8, 8), labels)
    assert picked[0, :, 0].tolist() == [2 * 18 + 2, 6 * 18 + 2, 10 * 18 + 2]
    assert picked[0, 0].tolist() == [2 * 18 + c for c in (2, 6, 10, 14)]
    assert scores.shape == (1, 5, 3, 4)


def test_the_loss_is_at_stride_4_and_leaves_the_padding_out() -> None:
    model = support.fill(create_model("upernet_resnet50", **SMALL))
    images = support.image(2, 3, 61, 96)
    target = support.target_for(images, 5)
    heads = model.forward_heads(model.pad(images))
    assert heads["logits"].shape == (2, 5, 16, 24)
    terms = model.loss(heads, target, support.criterion)
    want = support.criterion(heads["logits"][:, :, :15], target[:, 2::4, 2::4])
    assert terms.keys() == {"logits"}
    torch.testing.assert_close(terms["logits"], want)


def test_initial_weights_are_the_authors() -> None:
    model = create_model("upernet_resnet50", encoder="test_resnet", num_classes=5, width=64)
    conv, norm, _ = model.fusion
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.02)
    assert norm.bias.unique().tolist() == pytest.approx([1e-4])
    assert norm.weight.eq(1).all()
    assert model.head.bias.any()
    assert not any(n.bias.any() for n in model.encoder.modules() if isinstance(n, nn.BatchNorm2d))


def test_no_width_is_refused() -> None:
    with pytest.raises(InputError, match="UPerNet needs width >= 1, got 0"):
        create_model("upernet_resnet50", width=0)
    with pytest.raises(InputError, match="UPerNetAny needs width >= 1, got 0"):
        create_model("upernet", width=0)
    with pytest.raises(InputError, match="the decoder needs a feature at stride 4"):
        create_model("upernet_resnet50", encoder="test_vit")


# ---- the toolbox's form ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "parameters"), [(1, 29_599_681), (21, 29_604_821), (150, 29_637_974)]
)
def test_any_trunk_has_the_toolboxs_size(classes: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(create_model("upernet", num_classes=classes)) == parameters


def test_features_are_normalised_over_channels() -> None:
    x = support.image(2, 6, 3, 4)
    norm = ChannelNorm(6, eps=1e-6)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    torch.testing.assert_close(norm(x), (x - mean) / (var + 1e-6).sqrt())
    model = create_model("upernet", **SMALL)
    assert [n.normalized_shape[0] for n in model.norms] == [32, 48, 192, 96]
    assert {n.eps for n in model.norms} == {1e-6}


def test_any_trunk_needs_two_images_in_training() -> None:
    model = create_model("upernet", **SMALL).train()
    with pytest.raises(InputError, match="pyramid pooling needs at least 2 images per step"):
        model(support.image(1, 3, 64, 64))
    assert model(support.image(2, 3, 64, 64)).isfinite().all()

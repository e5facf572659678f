"""Fast-SCNN against the paper's tables."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.realtime.fast_scnn import Bottleneck, Fusion, separable
from tests.models import support


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_counts_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("fast_scnn")
    heads = count(model.aux_shallow) + count(model.aux_deep)
    assert count(model) - heads == 1_138_051, "the port, without its auxiliary head"
    assert count(model.aux_shallow) == 1_157_174 - 1_138_051, "with it"
    # what the deeper head has more: 64 channels of input to a 3x3 of 32
    assert count(model.aux_deep) - count(model.aux_shallow) == 64 * 9 * 32


def test_sizes_of_table_1() -> None:
    with torch.device("meta"):
        model = create_model("fast_scnn").eval()
        images = torch.empty(1, 3, 1024, 2048)
    seen = []
    parts = [*model.shallow, *model.deep, model.pooling, model.fusion, *model.head[:2], model.head]
    for part in parts:
        part.register_forward_hook(lambda *args: seen.append(tuple(args[-1].shape[1:])))
    model.forward_heads(images)
    assert seen == [
        (32, 512, 1024),
        (48, 256, 512),
        (64, 128, 256),
        *[(64, 64, 128)] * 3,
        *[(96, 32, 64)] * 3,
        *[(128, 32, 64)] * 3,
        (128, 32, 64),
        *[(128, 128, 256)] * 3,
        (19, 128, 256),
    ]


def test_nothing_rectifies_inside_a_separable_convolution() -> None:
    kinds = [type(part).__name__ for part in separable(4, 8)]
    assert kinds == ["Conv2d", "BatchNorm2d", "Conv2d", "BatchNorm2d", "ReLU"]


def test_bottlenecks_of_table_2() -> None:
    block = Bottleneck(4, 6, stride=2)
    convs = [part for part in block.modules() if isinstance(part, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0], c.groups) for c in convs] == [
        *((24, 1, 1, 1), (24, 3, 2, 24), (6, 1, 1, 1)),
    ]
    kinds = [type(part).__name__ for part in block.block]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + ["Conv2d", "BatchNorm2d"]
    found = [part.residual for part in create_model("fast_scnn").deep]
    assert found == [False, True, True] * 3
    same = Bottleneck(4, 4, stride=1).eval()
    nn.init.zeros_(same.block[-1].weight)
    x = support.image(1, 4, 3, 5)
    assert torch.equal(same(x), x)


def test_the_fusion_of_table_3() -> None:
    fusion = Fusion(4, 6, 8)
    conv = fusion.deep[0]
    assert (conv.dilation, conv.padding, conv.groups) == ((4, 4), (4, 4), 6)
    assert [type(part).__name__ for part in fusion.deep[1:]] == [
        *("BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d")
    ]
    out = fusion.eval()(support.image(1, 4, 16, 24), support.image(1, 6, 4, 6))
    assert out.shape == (1, 8, 16, 24)
    assert out.min() == 0


def test_what_the_paper_leaves_open_is_the_ports() -> None:
    model = create_model("fast_scnn")
    assert [part.p for part in model.modules() if isinstance(part, nn.Dropout)] == [0.1] * 3
    with_bias = [
        part for part in model.modules() if isinstance(part, nn.Conv2d) and part.bias is not None
    ]
    assert len(with_bias) == 5, "two of the fusion, three classifiers"
    assert [level[0].output_size for level in model.pooling.levels] == [1, 2, 3, 6]


def test_both_auxiliary_heads_weigh_0_4() -> None:
    model = support.fill(create_model("fast_scnn", num_classes=5))
    images = support.image(2, 3, 60, 90)
    target = support.target_for(images, 5)
    heads = model.forward_heads(model.pad(images))
    terms = model.loss(heads, target, support.criterion)
    for name in ("aux_shallow", "aux_deep"):
        full = F.interpolate(heads[name], (64, 96), mode="bilinear", align_corners=True)
        want = 0.4 * support.criterion(full[..., :60, :90], target)
        torch.testing.assert_close(terms[name], want)
    assert heads["aux_deep"].shape[-2:] == (2, 3)


def test_depthwise_kernels_are_not_regularised() -> None:
    model = create_model("fast_scnn")
    kernels = dict(model.named_parameters())
    kept_out = model.no_weight_decay()
    assert len(kept_out) == 2 + 9 + 1 + 2
    assert {kernels[name].shape[1:] for name in kept_out} == {(1, 3, 3)}


def test_one_image_in_training_is_refused_with_the_reason() -> None:
    message = (
        "FastSCNN needs at least 2 images per step in training mode: its average of the whole "
        "image is one value per channel and image, which batch normalisation turns into zero; use "
        "a batch size of 2 or more and drop an incomplete last batch"
    )
    model = create_model("fast_scnn").train()
    with pytest.raises(InputError, match=re.escape(message)):
        model(support.image(1, 3, 20, 32))
    assert model(support.image(2, 3, 64, 64)).isfinite().all()
    model.pooling.eval()  # frozen norms have nothing to average
    assert model(support.image(1, 3, 64, 64)).isfinite().all()

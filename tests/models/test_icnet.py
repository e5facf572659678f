"""ICNet against the authors' prototxt."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.realtime.icnet import BINS, plus_regions, window, zoom
from tests.models import support


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_count_of_the_prototxt() -> None:
    with torch.device("meta"):
        model = create_model("icnet")
    aux = count(model.sub4) + count(model.sub24)
    assert aux == (256 * 19 + 19) + (128 * 19 + 19)
    assert count(model) - aux == 6_699_987


def test_sizes_of_the_prototxt() -> None:
    with torch.device("meta"):
        model = create_model("icnet").eval()
        images = torch.empty(1, 3, 1025, 2049)
    seen = {}
    names = ["medium.2", "medium.3", "medium.4", "medium.5", "low.0", "low.1", "low.2", "pooled"]
    names += ["high.0", "high.1", "high.2", "fuse_medium", "fuse_high", "sub4", "sub24", "head"]
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _part, _args, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
    model.forward_heads(images)
    assert seen == {
        "medium.2": (64, 257, 513),  # conv1_3_3x3
        "medium.3": (64, 129, 257),  # pool1_3x3_s2
        "medium.4": (128, 129, 257),  # conv2_3
        "medium.5": (256, 65, 129),  # conv3_1
        "low.0": (256, 33, 65),  # conv3_4
        "low.1": (512, 33, 65),  # conv4_6
        "low.2": (1024, 33, 65),  # conv5_3
        "pooled": (256, 33, 65),  # conv5_4_k1
        "high.0": (32, 513, 1025),  # conv1_sub1
        "high.1": (32, 257, 513),  # conv2_sub1
        "high.2": (64, 129, 257),  # conv3_sub1
        "fuse_medium": (128, 65, 129),  # sub24_sum
        "fuse_high": (128, 129, 257),  # sub12_sum
        "sub4": (19, 65, 129),
        "sub24": (19, 129, 257),
        "head": (19, 257, 513),  # conv6_cls
    }


def test_strides_and_dilations_of_the_bottlenecks() -> None:
    model = create_model("icnet", width=8)
    found = []
    for part in (model.medium[4], [model.medium[5]], *model.low):
        for block in part:
            reduce, middle, _ = (m for m in block.branch if isinstance(m, nn.Conv2d))
            found.append((reduce.stride[0], middle.dilation[0], len(list(block.skip.children()))))
    assert found == [
        *[(1, 1, 2), (1, 1, 0), (1, 1, 0)],
        (2, 1, 2),
        *[(1, 1, 0)] * 3,
        *[(1, 2, 2), *[(1, 2, 0)] * 5],
        *[(1, 4, 2), (1, 4, 0), (1, 4, 0)],
    ]
    for fusion in (model.fuse_medium, model.fuse_high):
        assert fusion.coarse[0].dilation == fusion.coarse[0].padding == (2, 2)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert {(part.momentum, part.eps) for part in norms} == {(0.05, 1e-5)}


# ---- regions -----------------------------------------------------------------------------------


def test_windows_of_the_prototxt() -> None:
    assert [window(33, bins) for bins in BINS] == [(33, 33), (17, 16), (13, 10), (8, 5)]
    assert [window(65, bins) for bins in BINS] == [(65, 65), (33, 32), (25, 20), (15, 10)]


@pytest.mark.parametrize("side", range(6, 80))
def test_windows_cover_any_side(side: int) -> None:
    for bins in BINS:
        kernel, stride = window(side, bins)
        assert kernel >= stride >= 1, "no gap"
        assert (bins - 1) * stride + kernel == side, "both ends"
        assert (side - kernel) // stride + 1 == bins


def test_regions_are_added_corner_on_corner() -> None:
    x = support.image(1, 1, 33, 65).double()
    out = plus_regions(x)
    first = [x[..., :k, :w].mean() for k, w in ((33, 65), (17, 33), (13, 25), (8, 15))]
    last = [x[..., -k:, -w:].mean() for k, w in ((33, 65), (17, 33), (13, 25), (8, 15))]
    torch.testing.assert_close(out[0, 0, 0, 0], x[0, 0, 0, 0] + sum(first))
    torch.testing.assert_close(out[0, 0, -1, -1], x[0, 0, -1, -1] + sum(last))
    assert plus_regions(x[..., :2, :40]).shape == (1, 1, 2, 40)


def test_zooming_keeps_every_value_and_halving_takes_it_back() -> None:
    x = support.image(1, 2, 5, 7)
    big = zoom(x)
    assert big.shape == (1, 2, 9, 13)
    torch.testing.assert_close(big[..., ::2, ::2], x)
    half = F.interpolate(big, (5, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(half, big[..., ::2, ::2])


# ---- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(65, 97), (64, 90)])
def test_scores_stand_on_every_fourth_pixel(size: tuple[int, int]) -> None:
    model = support.fill(create_model("icnet", width=8, num_classes=5))
    images = support.image(1, 3, *size)
    with torch.inference_mode():
        heads = model.forward_heads(images)
        shapes = {name: tuple(head.shape[-2:]) for name, head in heads.items()}
        assert shapes == {"logits": (17, 25), "sub24": (9, 13), "sub4": (5, 7)}
        dense = model(images)
    assert dense.shape[-2:] == size
    dense = dense[..., ::4, ::4]
    torch.testing.assert_close(dense, heads["logits"][..., : dense.shape[-2], : dense.shape[-1]])


def test_each_head_learns_the_labels_it_stands_on() -> None:
    model = support.fill(create_model("icnet", width=8, num_classes=5))
    images = support.image(2, 3, 61, 90)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    terms = model.loss(heads, target, support.criterion)
    for name, stride, weight in (("sub4", 16, 0.16), ("sub24", 8, 0.4), ("logits", 4, 1.0)):
        rows, columns = math.ceil(61 / stride), math.ceil(90 / stride)
        scores, labels = heads[name][..., :rows, :columns], target[:, ::stride, ::stride]
        torch.testing.assert_close(terms[name], weight * support.criterion(scores, labels))
    assert terms.keys() == heads.keys()


def test_it_trains_on_one_image() -> None:
    model = create_model("icnet", width=8).train()
    assert model(support.image(1, 3, 2, 1)).isfinite().all()
    with pytest.raises(InputError, match="ICNet cannot train on one image of this size"):
        model(support.image(1, 3, 1, 1))


def test_kernels_start_as_caffes_msra_filler() -> None:
    torch.manual_seed(0)
    model = create_model("icnet")
    for conv in (model.medium[0][0], model.low[2][0].branch[3], model.pooled[0], model.head):
        want = math.sqrt(2 / (conv.in_channels * math.prod(conv.kernel_size)))
        error = 5 / math.sqrt(2 * conv.weight.numel())
        assert conv.weight.std().item() == pytest.approx(want, rel=error)
    assert not model.head.bias.any()

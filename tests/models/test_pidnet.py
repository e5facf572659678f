"""PIDNet: three branches, their mixtures, and the border in a mask."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.realtime.ddrnet import DAPPM
from semseg.models.realtime.pidnet import (
    PAPPM,
    Guide,
    LightMixture,
    Mixture,
    balanced_border_loss,
    borders,
    thin_edges,
)
from tests.models import support

SMALL = {"width": 8, "pyramid_width": 8, "head_width": 8, "num_classes": 5}


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def make_identity(part: nn.Module) -> nn.Module:
    """Let convolutions and norms of ``part`` pass each channel on, in place."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight, layer.groups)
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
    return part.double().eval()


@pytest.mark.parametrize(
    ("name", "predicting"),
    [("pidnet_s", 7_625_715), ("pidnet_m", 28_538_515), ("pidnet_l", 36_939_571)],
)
def test_counts_of_the_authors_networks(name: str, predicting: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert count(model) - count(model.aux) - count(model.border) == predicting


@pytest.mark.parametrize(("name", "w", "border"), [("pidnet_s", 32, 32), ("pidnet_l", 64, 128)])
def test_shapes_of_the_branches(name: str, w: int, border: int) -> None:
    with torch.device("meta"):
        model = create_model(name).eval()
        images = torch.empty(1, 3, 1024, 1024)
    seen = {}
    parts = dict(model.named_children())
    for part in parts:
        parts[part].register_forward_hook(
            lambda _part, _args, out, name=part: seen.update({name: tuple(out.shape[1:])})
        )
    model.forward_heads(images)
    assert seen == {
        "stem": (w, 256, 256),
        "stage1": (w, 256, 256),
        "stage2": (2 * w, 128, 128),
        "context3": (4 * w, 64, 64),
        "context4": (8 * w, 32, 32),
        "context5": (16 * w, 16, 16),
        "pyramid": (4 * w, 16, 16),
        "up3": (2 * w, 64, 64),
        "up4": (2 * w, 32, 32),
        **dict.fromkeys(("detail3", "detail4", "guide3", "guide4"), (2 * w, 128, 128)),
        "detail5": (4 * w, 128, 128),
        "border3": (border, 128, 128),
        "border4": (2 * w, 128, 128),
        "border5": (4 * w, 128, 128),
        "change3": (border, 64, 64),
        "change4": (2 * w, 32, 32),
        "mixture": (4 * w, 128, 128),
        "head": (19, 128, 128),
        "aux": (19, 128, 128),
        "border": (1, 128, 128),
    }


def test_sizes_differ_in_pyramid_mixture_and_depth() -> None:
    with torch.device("meta"):
        small, large = create_model("pidnet_s"), create_model("pidnet_l")
    assert isinstance(small.pyramid, PAPPM)
    assert isinstance(large.pyramid, DAPPM)
    assert small.pyramid.process[-1].groups == 4
    assert isinstance(small.mixture, LightMixture)
    assert isinstance(large.mixture, Mixture)
    for model, blocks in ((small, (2, 2, 3, 3, 2)), (large, (3, 3, 4, 4, 3))):
        stages = (model.stage1, model.stage2, model.context3, model.context4, model.detail3)
        assert tuple(map(len, stages)) == blocks


# ---- mixtures ----------------------------------------------------------------------------------


def test_a_guide_takes_context_where_it_agrees_with_detail() -> None:
    guide = make_identity(Guide(2, 2))
    detail = torch.tensor([[3.0, 1.0]]).double()[..., None, None].expand(1, 2, 4, 4)
    context = torch.tensor([[2.0, -4.0]]).double()[..., None, None].expand(1, 2, 2, 2)
    share = torch.tensor(3.0 * 2 - 4).sigmoid().double()
    want = (1 - share) * detail + share * context[..., :1, :1]
    torch.testing.assert_close(guide(detail, context), want.expand(1, 2, 4, 4))


def test_the_mixture_takes_detail_at_borders() -> None:
    detail, context = torch.full((1, 2, 4, 4), 3.0), torch.full((1, 2, 4, 4), 5.0)
    detail, context = detail.double(), context.double()
    sure = torch.full_like(detail, 50.0)
    full, light = make_identity(Mixture(2)), make_identity(LightMixture(2))
    torch.testing.assert_close(full(detail, context, sure), detail)
    torch.testing.assert_close(full(detail, context, -sure), context)
    # the sum of both, each with what the other adds at borders, or elsewhere
    torch.testing.assert_close(light(detail, context, sure), detail + (context + detail))
    torch.testing.assert_close(light(detail, context, -sure), (context + detail) + context)


def test_levels_of_the_parallel_pyramid_all_take_the_feature() -> None:
    x = support.image(1, 4, 16, 16).double().abs()
    pyramid = make_identity(PAPPM(4, 4, 20))
    with torch.no_grad():
        out = pyramid(x)
    own, *levels = (out[:, 4 * i : 4 * i + 4] for i in range(5))
    torch.testing.assert_close(own, 2 * x)  # its own level, and the skip
    averages = [F.avg_pool2d(x, k, s, k // 2) for k, s in ((5, 2), (9, 4), (17, 8))]
    averages.append(x.mean((2, 3), keepdim=True))
    for level, average in zip(levels, averages, strict=True):
        full = F.interpolate(average, x.shape[-2:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(level, x + full)


def test_both_heads_read_rectified_features() -> None:
    model = support.fill(create_model("pidnet_s", **SMALL))
    seen = []
    for head in (model.aux, model.border):
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].min().item()))
    with torch.inference_mode():
        model(support.image(1, 3, 64, 96))
    assert seen == [0.0, 0.0]


# ---- borders -----------------------------------------------------------------------------------


def test_edges_are_one_pixel_wide_and_on_the_far_side() -> None:
    labels = torch.zeros(1, 8, 9, dtype=torch.long)
    labels[..., 4:] = 3
    assert thin_edges(labels)[0].sum(0).tolist() == [0, 0, 0, 8, 0, 0, 0, 0, 0]
    assert thin_edges(labels.transpose(1, 2))[0].sum(1).tolist() == [0, 0, 0, 8, 0, 0, 0, 0, 0]


def test_edges_are_opencvs() -> None:
    # cv2.Canny(mask, 0.1, 0.2) of an octagon of class 2 beside a strip of the ignore id
    rows = ["............", "....2222....", "...222222...", "..22222222..", "..22222222.X"]
    rows += ["..22222222.X", "...222222..X", "....2222...X", "...........X", "..........XX"]
    ids = {".": 0, "2": 2, "X": 255}
    labels = torch.tensor([[[ids[c] for c in row] for row in rows]])
    want = [".....##.....", "...##..##...", "..##....##..", "..#......#.."]
    want += [".#.........#", "..#........#", "..##....#.#.", "...#####..#."]
    want += ["..........#.", "..........#."]
    found = ["".join("#" if p else "." for p in row) for row in thin_edges(labels)[0].tolist()]
    assert found == want


def test_borders_reach_two_pixels_back_and_one_ahead() -> None:
    labels = torch.zeros(1, 30, 40, dtype=torch.long)
    labels[..., 20:] = 1
    found = borders(labels)[0]
    assert found.shape == (30, 40)
    assert found[15].nonzero().flatten().tolist() == [18, 19, 20, 21]
    rows = found[:, 19].nonzero().flatten().tolist()
    assert (rows[0], rows[-1]) == (5, 25), "the rim of six pixels holds none before they grow"
    assert borders(torch.randint(3, (2, 5, 7))).eq(0).all()


def test_borders_weigh_as_the_rest_is_frequent() -> None:
    scores = torch.tensor([[[2.0, -1.0, 0.5, 0.0]]]).double()
    truth = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]).double()
    each = [F.softplus(torch.tensor(v).double()) for v in (-2.0, -1.0, 0.5, 0.0)]
    want = (0.75 * each[0] + 0.25 * (each[1] + each[2] + each[3])) / 4
    torch.testing.assert_close(balanced_border_loss(scores, truth), want)


# ---- training ----------------------------------------------------------------------------------


def test_the_four_terms_of_the_loss() -> None:
    model = support.fill(create_model("pidnet_s", **SMALL))
    images = support.image(2, 3, 60, 90)
    target = support.target_for(images, 5)
    heads = model.forward_heads(model.pad(images))
    spread = heads["border"] / heads["border"].std()
    heads["border"] = spread - spread.mean() + 1.4  # half of the probabilities are above 0.8
    terms = model.loss(heads, target, support.criterion)
    logits, aux, border = (
        F.interpolate(heads[name], (64, 96), mode="bilinear", align_corners=True)[..., :60, :90]
        for name in ("logits", "aux", "border")
    )
    near = torch.where(border[:, 0].sigmoid() > 0.8, target, 255)
    assert 0 < (near != 255).sum() < (target != 255).sum()
    want = {
        "logits": support.criterion(logits, target),
        "aux": 0.4 * support.criterion(aux, target),
        "border": 20 * balanced_border_loss(border[:, 0], borders(target)),
        "near_border": support.criterion(logits, near),
    }
    assert terms.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(terms[name], value)


def test_without_a_found_border_the_fourth_term_is_zero() -> None:
    model = support.fill(create_model("pidnet_s", **SMALL))
    images = support.image(1, 3, 64, 64)
    heads = model.forward_heads(images)
    heads["border"] = heads["border"] - 100
    terms = model.loss(heads, support.target_for(images, 5), support.criterion)
    assert terms["near_border"] == 0
    assert all(term.isfinite() for term in terms.values())


def test_one_image_in_training_is_refused_with_the_reason() -> None:
    model = create_model("pidnet_s", **SMALL).train()
    message = "PIDNet needs at least 2 images per step in training mode: its average of the whole"
    with pytest.raises(InputError, match=re.escape(message)):
        model(support.image(1, 3, 64, 64))
    assert model(support.image(2, 3, 64, 64)).isfinite().all()

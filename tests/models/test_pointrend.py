"""PointRend: which points are asked, what they are told, and where their scores go."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.pointrend import (
    PointRend,
    drawn_places,
    labels_at,
    sample,
    uncertain_places,
    uncertainty,
)
from tests.models import support


def small(**settings: int) -> PointRend:
    settings = {"num_classes": 5, "points": 40, "train_points": 16} | settings
    model = create_model("pointrend", encoder="test_resnet", **settings)
    assert isinstance(model, PointRend)
    return support.fill(model)


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_counts_of_the_authors_network() -> None:
    with torch.device("meta"):
        model = create_model("pointrend")
    assert count(model.encoder) == 42_500_160
    fc = (256 + 19) * 256 + 256
    assert count(model.point_head) == fc + 2 * 257 * 256 + 257 * 19 == 207_123
    pyramid = sum((c + 1) * 256 for c in (256, 512, 1024, 2048)) + 4 * (9 * 256 + 1) * 256
    first, later = 9 * 256 * 128 + 256, 9 * 128 * 128 + 256
    coarse = pyramid + 4 * first + 3 * later + 129 * 19
    assert coarse == count(model) - 42_500_160 - 207_123 == 4_970_643


# ---- points ------------------------------------------------------------------------------------


def test_uncertainty_by_hand() -> None:
    scores = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [0.5, 0.0]]])
    assert uncertainty(scores).tolist() == [[-2, 0]]
    assert uncertainty(torch.tensor([[[-0.5, 2.0]]])).tolist() == [[-0.5, -2]]


def test_places_of_a_grid_are_the_middles_of_its_pixels() -> None:
    scores = torch.zeros(2, 2, 2, 4)
    scores[:, 0] = 9
    scores[0, 0, 1, 2] = 1  # row 1, column 2
    scores[0, 0, 0, 3] = 2
    scores[1, 0, 0, 0] = 1
    scores[1, 0, 1, 3] = 2
    places, index = uncertain_places(scores, 2)
    assert index.tolist() == [[6, 3], [0, 7]]
    assert places.tolist() == [
        [[0.625, 0.75], [0.875, 0.25]],
        [[0.125, 0.25], [0.875, 0.75]],
    ]
    assert uncertain_places(scores, 100)[1].shape == (2, 8)
    flat = scores.flatten(2)
    at = sample(scores, places)
    torch.testing.assert_close(at, flat.gather(2, index[:, None].expand(-1, 2, -1)))


def test_three_quarters_of_the_drawn_places_are_uncertain_ones() -> None:
    torch.manual_seed(0)
    # certain everywhere but around the middle column
    scores = torch.linspace(-8, 8, 64).expand(1, 1, 64, 64)
    scores = torch.cat([scores, -scores], dim=1)
    places = drawn_places(scores, 400)
    assert places.shape == (1, 400, 2)
    assert places.min() >= 0
    assert places.max() <= 1
    off = (places[0, :, 0] - 0.5).abs()
    # 300 of 1,200 drawn lie within a quarter of the width; beyond the last pixels' middles zeros
    # come in, so a few at the border are uncertain too
    assert (off[:300] < 0.14).sum() > 290
    assert off[300:].max() > 0.4, "the rest lie anywhere"


def test_labels_under_places() -> None:
    target = torch.arange(6).view(1, 2, 3)
    places = torch.tensor([[[0.0, 0.0], [0.34, 0.1], [0.99, 0.49], [0.5, 0.5], [1.0, 1.0]]])
    assert labels_at(target, places).tolist() == [[0, 1, 2, 4, 5]]


# ---- network -----------------------------------------------------------------------------------


def test_refined_scores_by_hand() -> None:
    model = small().double()
    coarse = support.image(2, 5, 4, 6).double()
    fine = support.image(2, 256, 4, 6).double()
    logits, points, places = model.refine(fine, coarse)
    assert logits.shape == (2, 5, 16, 24)
    assert points.shape == (2, 5, 40)
    assert places.shape == (2, 40, 2)
    want = coarse
    for _ in range(2):
        want = F.interpolate(want, scale_factor=2, mode="bilinear", align_corners=False)
        height, width = want.shape[-2:]
        for n in range(2):
            best = want[n].flatten(1).sort(dim=0, descending=True).values
            for at in (best[0] - best[1]).argsort()[:40].tolist():
                x, y = (at % width + 0.5) / width, (at // width + 0.5) / height
                grid = torch.tensor([[[[2 * x - 1, 2 * y - 1]]]], dtype=torch.float64)
                told = [
                    F.grid_sample(part[n : n + 1], grid, align_corners=False)[..., 0]
                    for part in (fine, coarse)
                ]
                want[n, :, at // width, at % width] = model.point_head(*told)[0, :, 0]
    torch.testing.assert_close(logits, want)


def test_points_see_fine_features_before_coarse_scores() -> None:
    head = small().point_head
    fine, coarse = support.image(1, 256, 1, 3)[:, :, 0], support.image(1, 5, 1, 3)[:, :, 0]
    x = torch.cat([fine, coarse], dim=1)
    for layer in head.layers:
        assert layer.out_channels == 256
        x = layer(x).clamp(min=0)
    assert torch.equal(head(fine, coarse), head.head(x))


def test_training_keeps_coarse_scores_and_draws_points() -> None:
    model = small().train()
    images = support.image(2, 3, 64, 96)
    heads = model.forward_heads(images)
    assert {k: tuple(v.shape) for k, v in heads.items()} == {
        "logits": (2, 5, 16, 24),
        "points": (2, 5, 16),
        "places": (2, 16, 2),
    }
    again = model.forward_heads(images)
    assert torch.equal(heads["logits"], again["logits"])
    assert not torch.equal(heads["places"], again["places"])
    assert model.eval().forward_heads(images)["logits"].shape == (2, 5, 64, 96)


def test_losses_of_map_and_points() -> None:
    model = small().train()
    images = support.image(2, 3, 61, 90)
    target = support.target_for(images, 5)
    heads = model.forward_heads(model.pad(images))
    # one point is in the padding, below and to the right, and one on the ignored first row
    heads["places"][0, 0] = torch.tensor([95.5 / 96, 63.5 / 64])
    heads["places"][0, 1] = torch.tensor([0.5, 0.001])
    terms = model.loss(heads, target, support.criterion)
    full = F.interpolate(heads["logits"], (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(terms["logits"], support.criterion(full[..., :61, :90], target))
    scores, labels = [], []
    for n in range(2):
        for p, (x, y) in enumerate(heads["places"][n].tolist()):
            row, column = int(y * 64), int(x * 96)
            if row < 61 and column < 90 and target[n, row, column] != 255:
                scores.append(heads["points"][n, :, p])
                labels.append(target[n, row, column])
    assert len(scores) <= 30
    want = F.cross_entropy(torch.stack(scores), torch.stack(labels))
    torch.testing.assert_close(terms["points"], want)


def test_new_layers_start_as_the_authors() -> None:
    torch.manual_seed(0)
    model = create_model("pointrend", encoder="test_resnet")
    point = model.point_head
    assert point.head.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert point.layers[1].weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    conv = model.branches[0][0]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    reach = (3 / (9 * 256)) ** 0.5
    assert 0.99 * reach < model.pyramid.smooth[0].weight.abs().max() <= reach
    convs = (*model.pyramid.lateral, *model.pyramid.smooth, *point.layers, point.head, model.head)
    assert not any(conv.bias.any() for conv in convs)


def test_refusals() -> None:
    wanted = "PointRend takes at least one point in prediction and in training, got 0 and 2048"
    with pytest.raises(InputError, match=re.escape(wanted)):
        create_model("pointrend", points=0)
    with pytest.raises(InputError, match="at least one point in prediction and in training"):
        create_model("pointrend", train_points=0)
    model = small().train()
    wanted = (
        "PointRend cannot train on one image of this size: its deepest features are a single "
        "pixel, which batch normalisation turns into zeros; take two images or larger ones"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        model(support.image(1, 3, 32, 32))
    assert model(support.image(1, 3, 32, 64)).isfinite().all()

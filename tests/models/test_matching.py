"""Matching masks with segments, and the loss over matched ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semseg.models.transformer import matching
from semseg.models.transformer.matching import (
    Segments,
    Weights,
    assign,
    at_points,
    segments_of,
    semantic_scores,
    set_loss,
    total_loss,
    uncertain_points,
)
from tests.models import support


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("whole", [False, True])
def test_the_assignment_is_the_cheapest_of_all(rows: int, whole: bool) -> None:
    for stream in range(20):
        cost = support.noise(rows * 5, stream).reshape(rows, 5).numpy()
        cost = np.round(3 * cost) if whole else cost  # many are equal
        chosen = assign(cost)
        assert len(set(chosen)) == rows
        every = itertools.permutations(range(5), rows)
        least = min(sum(cost[i, j] for i, j in enumerate(way)) for way in every)
        assert cost[range(rows), chosen].sum() == pytest.approx(least)


def test_segments_are_the_classes_that_are_there() -> None:
    target = torch.tensor([[[255, 3], [0, 3]], [[255, 255], [255, 255]]])
    first, empty = segments_of(target, 5, torch.float32)
    assert first.classes.tolist() == [0, 3]
    assert first.masks.tolist() == [[[0, 0], [1, 0]], [[0, 1], [0, 1]]]
    assert empty.classes.numel() == empty.masks.shape[0] == 0


def test_a_binary_network_has_one_segment() -> None:
    (only,) = segments_of(torch.tensor([[[1, 0], [255, 1]]]), 1, torch.float32)
    assert only.classes.tolist() == [0]
    assert only.masks.tolist() == [[[1, 0], [0, 1]]]


def test_points_are_read_between_pixels() -> None:
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5]]])
    torch.testing.assert_close(at_points(maps, points), torch.tensor([[0.0, 1.0, 1.5]]))


def test_most_points_are_where_logits_are_near_zero() -> None:
    torch.manual_seed(0)
    logits = torch.linspace(-8, 8, 64)[None, None].expand(2, 64, 64)
    points = uncertain_points(logits, 400)
    assert points.shape == (2, 400, 2)
    near = ((points[..., 0] - 0.5).abs() < 0.14).float()
    assert near[:, :300].mean() > 0.97, "of the border alone some read zeros"
    assert near[:, 300:].mean() < 0.5, "the rest is drawn evenly"


def perfect() -> tuple[torch.Tensor, torch.Tensor, list[Segments]]:
    """Predictions of 4 queries that are right about a target of two classes."""
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[:, :, 4:] = 2
    segments = segments_of(target, 3, torch.float32)
    classes, masks = torch.full((1, 4, 4), -9.0), torch.full((1, 4, 8, 8), -9.0)
    classes[0, [0, 3], 3] = classes[0, 2, 0] = classes[0, 1, 2] = 9.0
    masks[0, 2], masks[0, 1] = (18 * segments[0].masks - 9).unbind(0)
    return classes, masks, segments


def test_right_masks_cost_nothing_and_wrong_ones_do() -> None:
    torch.manual_seed(0)
    classes, masks, segments = perfect()
    right = set_loss(classes, masks, segments, Weights(points=512))
    assert right.keys() == {"classes", "masks", "dice"}
    assert right["classes"] < 1e-3
    assert right["masks"] < 5, "most points lie between two masks, where nothing is sure"
    wrong = set_loss(classes, masks.transpose(2, 3), segments, Weights(points=512))
    assert wrong["masks"] > 2 * right["masks"]
    assert wrong["dice"] > 2 * right["dice"]
    wrong = set_loss(classes.flip(1), masks, segments, Weights(points=512))
    assert wrong["classes"] > 10


def test_queries_without_a_segment_are_nothing_and_weigh_less() -> None:
    classes, masks, _ = perfect()
    empty = segments_of(torch.full((1, 8, 8), 255), 3, torch.float32)
    terms = set_loss(classes, masks, empty, Weights(points=16))
    assert terms["masks"] == terms["dice"] == 0
    torch.testing.assert_close(
        terms["classes"], 2 * F.cross_entropy(classes[0], torch.full((4,), 3))
    )
    _, _, segments = perfect()
    wanted = torch.tensor([3, 2, 0, 3])
    share = torch.tensor([1, 1, 1, 0.1])
    classes = support.image(1, 4, 4, 1)[..., 0]
    got = set_loss(classes, masks, segments, Weights(classes=1, masks=1e3, dice=1e3, points=64))
    torch.testing.assert_close(got["classes"], F.cross_entropy(classes[0], wanted, share))


def test_more_segments_than_queries_lose_the_last() -> None:
    classes, masks, segments = perfect()
    terms = set_loss(classes[:, :1], masks[:, :1], segments, Weights(points=16))
    assert all(term.isfinite() for term in terms.values())


def test_layers_are_summed_and_padding_is_no_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    classes, masks, _ = perfect()
    target = torch.zeros(1, 7, 8, dtype=torch.long)
    target[:, :, 4:] = 2
    seen = []
    plain = matching.set_loss
    monkeypatch.setattr(matching, "set_loss", lambda *a: (seen.append(a[2]), plain(*a))[1])
    terms = total_loss([(classes, masks)] * 3, target, 3, (8, 8), Weights(points=512))
    assert len(seen) == 3
    assert terms["classes"] == pytest.approx(
        3 * plain(classes, masks, seen[0], Weights())["classes"]
    )
    assert seen[0][0].masks.shape == (2, 8, 8)
    assert not seen[0][0].masks[:, 7].any()


def test_scores_keep_the_order_of_the_sums() -> None:
    classes, masks = support.image(2, 1, 6, 5)[:, 0], support.image(2, 6, 3, 4)
    sums = torch.einsum("nqk,nqhw->nkhw", classes.softmax(-1)[..., :4], masks.sigmoid())
    logits = semantic_scores(classes, masks)
    torch.testing.assert_close(logits.softmax(1), sums / sums.sum(1, keepdim=True))


@pytest.mark.parametrize("classes", [4, 1])
def test_scores_tell_apart_masks_that_are_all_far(classes: int) -> None:
    guesses = support.image(2, 1, 6, classes + 1)[:, 0]
    masks = 5 * support.image(2, 6, 3, 4) - 150  # their probabilities are below float32
    shares = guesses.double().softmax(-1)[..., :classes]
    sums = torch.einsum("nqk,nqhw->nkhw", shares, masks.double().sigmoid())
    torch.testing.assert_close(semantic_scores(guesses, masks), sums.log().float())


def test_a_binary_score_is_the_probability() -> None:
    classes, masks = support.image(2, 1, 1, 2)[:, 0], support.image(2, 1, 3, 4)
    probability = classes.softmax(-1)[:, 0, 0, None, None] * masks[:, 0].sigmoid()
    logits = semantic_scores(classes, masks)
    assert logits.shape == (2, 1, 3, 4)
    torch.testing.assert_close(logits.sigmoid()[:, 0], probability)

"""Clouds as samples: the grid, batches, and what all datasets share."""

from __future__ import annotations

import re

import pytest
import torch

from semseg.core.checks import InputError
from semseg.core.clouds import Clouds
from semseg.core.preprocess import Preprocessing
from semseg.data import build_dataset
from semseg.data.clouds import cells_of, one_of_each
from semseg.data.loader import make_loader
from semseg.data.subset import Subset

ROOMS = {"points": 600, "length": 3}


def test_one_point_of_each_cell() -> None:
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 3 - 7
    cells = cells_of(points, 0.5)
    held: dict[tuple[int, ...], list[int]] = {}
    for i, place in enumerate(((points - points.amin(0)).double() / 0.5).floor().int().tolist()):
        held.setdefault(tuple(place), []).append(i)
    assert int(cells.max()) + 1 == len(held) < 400
    assert sorted(one_of_each(cells).tolist()) == sorted(members[0] for members in held.values())
    order = torch.randperm(500)
    rank = order.argsort()
    want = sorted(min(members, key=lambda i: rank[i]) for members in held.values())
    assert sorted(one_of_each(cells, order).tolist()) == want


def test_a_grid_that_is_far_too_fine() -> None:
    wanted = "a cloud of 5000 m has too many cells of 0.001 m; give a larger voxel"
    with pytest.raises(InputError, match=re.escape(wanted)):
        cells_of(torch.tensor([[0.0, 0, 0], [5000, 0, 0]]), 0.001)


def batch(thin: bool, voxel: float | None) -> tuple[Clouds, torch.Tensor]:
    dataset = build_dataset("synthetic_rooms", "val", **ROOMS)
    rule = Preprocessing((0.5, 0.0, 0.0), (0.5, 1.0, 1.0), voxel=voxel)
    loader = make_loader(
        dataset,
        transform=None if thin else lambda image, mask: (image, mask),
        preprocessing=rule,
        batch_size=2,
        seed=0,
        shuffle=False,
        workers=0,
        drop_last=True,
    )
    (made,) = loader
    return made.images, made.masks


def test_batches_are_packed() -> None:
    dataset = build_dataset("synthetic_rooms", "val", **ROOMS)
    clouds, masks = batch(thin=False, voxel=0.5)
    assert clouds.offsets == (600, 1200)
    assert masks.shape == (1, 1, 1200)
    assert masks.dtype == torch.int64
    rows = dataset[1].image[:, 0]
    places = rows[:3].T - rows[:3].T.amin(0)
    torch.testing.assert_close(clouds.coordinates[600:], torch.as_tensor(places))
    torch.testing.assert_close(clouds.features[600:, 0], rows[3] / 255 * 2 - 1)
    torch.testing.assert_close(clouds.features[600:, 1], rows[4] / 255 + 0)
    assert torch.equal(masks[0, 0, 600:], dataset[1].mask[0].long())


def test_without_a_transform_the_grid_thins_out() -> None:
    whole, masks = batch(thin=True, voxel=None)
    assert whole.offsets == (600, 1200)
    clouds, thinned = batch(thin=True, voxel=0.5)
    assert clouds.sizes[0] < 500
    kept = one_of_each(cells_of(whole.coordinates[:600], 0.5))
    places = whole.coordinates[kept]
    torch.testing.assert_close(clouds.coordinates[: len(kept)], places - places.amin(0))
    assert torch.equal(thinned[0, 0, : len(kept)], masks[0, 0, kept])


def test_kept_in_memory_and_in_parts() -> None:
    plain = build_dataset("synthetic_rooms", "train", **ROOMS)
    cached = build_dataset("synthetic_rooms", "train", **ROOMS, cache=True)
    for dataset in (cached, Subset(plain, [0, 1, 2])):
        assert (dataset.holds, dataset.voxel) == ("clouds", 0.04)
        assert torch.equal(dataset[1].image, plain[1].image)
        assert torch.equal(dataset[1].mask, plain[1].mask)


def test_the_rule_keeps_the_grid() -> None:
    rule = Preprocessing((0.0,), (1.0,), voxel=0.04)
    assert Preprocessing.from_dict(rule.to_dict()) == rule
    assert rule.for_channels(3).voxel == 0.04
    assert "voxel" not in Preprocessing((0.0,), (1.0,)).to_dict()

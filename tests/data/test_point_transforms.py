"""Augmentation of clouds."""

from __future__ import annotations

import colorsys
import re

import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data import build_dataset
from semseg.data.clouds import cells_of
from semseg.data.transforms import AugmentConfig, build_transform
from semseg.data.transforms.points import PointAugment, PointTransform, build_point_transform


def changed(voxel: float | None = None, **settings: object) -> tuple[Tensor, Tensor, Tensor]:
    """Return coordinates, colours and ids after a transform; ids say which point each is."""
    sample = build_dataset("synthetic_rooms", "train", points=600)[0]
    mask = torch.arange(600)[None]
    image, mask = PointTransform(PointAugment(**settings), voxel)(sample.image, mask)
    order = mask[0].argsort()
    rows = torch.as_tensor(image)[:, 0]
    return rows[:3, order].T, rows[3:, order].T, mask[0]


def plain() -> tuple[Tensor, Tensor]:
    rows = torch.as_tensor(build_dataset("synthetic_rooms", "train", points=600)[0].image)[:, 0]
    return rows[:3].T, rows[3:].T


def test_by_default_only_the_order_changes() -> None:
    points, colors, order = changed()
    assert torch.equal(points, plain()[0])
    assert torch.equal(colors, plain()[1])
    assert sorted(order.tolist()) == list(range(600)) != order.tolist()


def test_scale_is_one_factor() -> None:
    points, _, _ = changed(scale=(2.0, 3.0))
    factors = points / plain()[0]
    assert 2 <= factors.median() <= 3
    torch.testing.assert_close(points, plain()[0] * factors.median(), rtol=1e-5, atol=1e-5)


def test_grid_and_crop() -> None:
    _, _, order = changed(voxel=0.5)
    cells = cells_of(plain()[0], 0.5)
    assert len(order) == int(cells.max()) + 1
    assert len(cells[order].unique()) == len(order)
    assert not torch.equal(changed(voxel=0.5)[2].sort().values, order.sort().values)
    points, _, order = changed(crop=100)
    assert len(order) == 100
    kept = plain()[0][order.sort().values]
    left_out = plain()[0][[i not in set(order.tolist()) for i in range(600)]]
    around = torch.cdist(plain()[0], kept).amax(1) <= torch.cdist(plain()[0], left_out).amin(1)
    assert around.any(), "the points nearest to one of them"
    assert torch.equal(points, kept)


@pytest.mark.parametrize("name", ["contrast", "color_shift", "color_jitter", "color_drop"])
def test_colours_change_and_places_do_not(name: str) -> None:
    points, colors, _ = changed(**{name: 1.0})
    before = plain()[1]
    assert torch.equal(points, plain()[0])
    assert 0 <= colors.min() <= colors.max() <= 255
    difference = colors - before
    if name == "color_drop":
        assert not colors.any()
    elif name == "color_shift":
        inside = (colors > 0) & (colors < 255)
        for channel in range(3):
            shifts = difference[inside[:, channel], channel]
            assert 0 < shifts.abs().max() <= 12.75
            assert shifts.std() < 1e-3
    elif name == "color_jitter":
        assert 0.5 < difference.std() < 2
    else:
        low, high = before.amin(0), before.amax(0)
        stretched = (before - low) * 255 / (high - low)
        share = (difference / (stretched - before))[(stretched - before).abs() > 5]
        assert 0 < share.median() < 1
        assert (share - share.median()).abs().max() < 1e-3


def test_hue_and_saturation_against_the_standard_library() -> None:
    torch.manual_seed(1)
    hue, saturation = ((torch.rand(2) - 0.5) * 2).tolist()
    colors = torch.tensor([[200.0, 40, 80], [10, 30, 20], [128, 128, 128], [255, 255, 0]]).T
    transform = PointTransform(PointAugment(hue=0.5, saturation=0.5), None)
    torch.manual_seed(1)
    got = transform._hue_and_saturation(colors).T / 255
    for before, after in zip(colors.T / 255, got, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before.tolist())
        s = min(1.0, s * (1 + 0.5 * saturation))
        want = colorsys.hsv_to_rgb((h + 0.5 * hue) % 1, s, v)
        torch.testing.assert_close(after, torch.tensor(want), rtol=0, atol=2e-3)


def test_what_is_for_images_is_refused_and_the_reverse() -> None:
    wanted = (
        "augment.crop is for images and the data are point clouds; leave it out and set "
        "augment.points"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        build_point_transform(AugmentConfig(crop=(8, 8)), None)
    build_point_transform(AugmentConfig(points={"crop": 8}), None)
    wanted = "augment.points is for point clouds and the data are images; leave it out"
    with pytest.raises(InputError, match=re.escape(wanted)):
        build_transform(AugmentConfig(points={"crop": 8}), LabelMap.from_names(["a"]), (0.0,))

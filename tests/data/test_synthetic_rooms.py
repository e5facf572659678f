"""Generated rooms."""

from __future__ import annotations

import numpy as np
import torch

from semseg.data import build_dataset, dataset_entry
from semseg.data.synthetic_rooms import LABELS


def test_samples() -> None:
    dataset = build_dataset("synthetic_rooms", "train", points=700)
    assert (len(dataset), dataset.channels, dataset.voxel) == (100, 3, 0.04)
    assert dataset_entry("synthetic_rooms").holds == dataset.holds == "clouds"
    sample = dataset[3]
    assert sample.image.shape == (6, 1, 700)
    assert sample.image.dtype == torch.float32
    assert sample.mask.shape == sample.size == (1, 700)
    assert sample.mask.dtype == torch.uint8
    assert sample.path == dataset.path(3) == "synthetic_rooms/0/train/000003"
    assert torch.equal(sample.image, dataset[3].image)
    assert 0 <= sample.image[3:].min() <= sample.image[3:].max() <= 255


def test_points_lie_where_their_class_is() -> None:
    dataset = build_dataset("synthetic_rooms", "val", points=4000)
    for index in range(3):
        sample = dataset[index]
        points, ids = np.asarray(sample.image)[:3, 0].T, np.asarray(sample.mask)[0]
        of = {name: points[ids == i] for i, name in enumerate(LABELS.names)}
        assert all(len(part) > 3 for part in of.values())
        size = points.max(0)
        assert np.abs(of["floor"][:, 2]).max() < 0.03
        assert np.abs(of["ceiling"][:, 2] - size[2]).max() < 0.05
        walls = of["wall"][:, :2]
        away = np.minimum(np.abs(walls), np.abs(walls - size[:2])).min(1)
        assert away.max() < 0.05
        assert of["table"][:, 2].max() < 0.8
        assert of["lamp"][:, 2].min() > 1.5


def test_seed_split_and_index_decide() -> None:
    def made(split: str, index: int, **settings: int) -> torch.Tensor:
        return build_dataset("synthetic_rooms", split, points=600, **settings)[index].image

    assert torch.equal(made("train", 1), made("train", 1, seed=0))
    assert not torch.equal(made("train", 1), made("train", 2))
    assert not torch.equal(made("train", 1), made("val", 1))
    assert not torch.equal(made("train", 1), made("train", 1, seed=1))
    prints = {
        build_dataset("synthetic_rooms", split, **settings).fingerprint()
        for split in ("train", "val")
        for settings in ({}, {"seed": 1}, {"points": 700}, {"length": 7})
    }
    assert len(prints) == 8

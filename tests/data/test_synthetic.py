"""The rendered landscapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semseg.data import build_dataset
from semseg.data.scenes.render import DIFFICULTIES


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    long = build_dataset("synthetic", "train", length=9)
    short = build_dataset("synthetic", "train", length=6)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator must not matter
    for index in (5, 0):
        assert torch.equal(long[index].image, short[index].image)
        assert torch.equal(long[index].mask, short[index].mask)
    images = [
        build_dataset("synthetic", split, seed=seed)[index].image
        for split, seed, index in (("train", 0, 0), ("train", 0, 1), ("train", 1, 0), ("val", 0, 0))
    ]
    for i, image in enumerate(images):
        for other in images[:i]:
            assert not torch.equal(image, other)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_every_class_appears(difficulty: str) -> None:
    dataset = build_dataset("synthetic", "val", length=40, difficulty=difficulty)
    counts = torch.zeros(256)
    for i in range(len(dataset)):
        counts += torch.bincount(dataset[i].mask.flatten().long(), minlength=256)
    share = counts / counts.sum()
    classes = dataset.labels.num_classes
    assert classes >= 6
    assert float(share[classes:].sum()) == 0
    assert float(share[:classes].min()) > 0.005


@pytest.mark.parametrize("size", [(16, 16), (33, 17), (17, 150), (120, 40)])
def test_any_size(size: tuple[int, int]) -> None:
    dataset = build_dataset("synthetic", "train", size=size, length=12, difficulty="hard")
    for i in range(len(dataset)):
        sample = dataset[i]
        assert sample.size == size
        assert tuple(sample.image.shape) == (3, *size)


def test_the_scene_is_the_same_at_another_resolution() -> None:
    """Labels are those of pixel centres: a finer picture of a scene agrees where they coincide."""
    coarse = build_dataset("synthetic", "train", size=(64, 96), length=20)
    fine = build_dataset("synthetic", "train", size=(192, 288), length=20)
    agreement = [
        (coarse[i].mask == fine[i].mask[1::3, 1::3]).float().mean().item() for i in range(20)
    ]
    assert min(agreement) > 0.995


def test_labels_lie_on_the_edges_of_the_image() -> None:
    """Colours change across label borders more than elsewhere, and not beside them."""
    dataset = build_dataset("synthetic", "train", size=(128, 192), length=20, difficulty="easy")
    profile = np.zeros(9)
    for i in range(len(dataset)):
        sample = dataset[i]
        change = np.diff(sample.image.numpy().astype(float), axis=2)
        change = np.abs(change).sum(axis=0)
        border = np.diff(sample.mask.numpy().astype(int), axis=1) != 0
        rows, columns = np.nonzero(border[:, 4:-4])
        profile += np.mean([change[rows, columns + k] for k in range(9)], axis=1)
    assert profile.argmax() == 4
    assert profile[4] > 2 * profile[[0, 1, 7, 8]].max()


def test_colour_alone_does_not_tell_the_class() -> None:
    """A table from colour (16 levels each) to its most frequent class stays far from 0.85."""
    counts = {}
    for split, length in (("train", 60), ("val", 30)):
        dataset = build_dataset("synthetic", split, length=length)
        samples = [dataset[i] for i in range(length)]
        red, green, blue = np.stack([s.image.numpy() for s in samples], axis=1).astype(int) // 16
        keys = ((red * 16 + green) * 16 + blue) * 8 + np.stack([s.mask.numpy() for s in samples])
        counts[split] = np.bincount(keys.ravel(), minlength=16**3 * 8).reshape(-1, 8)
    guess = counts["train"].argmax(axis=1)
    confusion = np.stack([counts["val"][guess == k].sum(axis=0) for k in range(8)])
    hits = np.diag(confusion)
    iou = hits / (confusion.sum(axis=0) + confusion.sum(axis=1) - hits)
    assert 0.1 < iou.mean() < 0.4


def test_recorded_scene() -> None:
    """The renderer gives what it gave; whoever changes it on purpose raises ``_RENDERER``."""
    sample = build_dataset("synthetic", "val", seed=3)[7]
    means = sample.image.float().mean(dim=(1, 2)).tolist()
    counts = torch.bincount(sample.mask.flatten().long(), minlength=8).tolist()
    assert means == pytest.approx([132.54, 112.54, 104.98], abs=0.05)
    assert counts == pytest.approx([4576, 392, 2192, 988, 2887, 366, 613, 274], abs=3)


def test_fingerprint_covers_all_that_changes_a_scene() -> None:
    base = build_dataset("synthetic", "train")
    assert base.fingerprint() == build_dataset("synthetic", "train", cache=False).fingerprint()
    others = [
        build_dataset("synthetic", split, **settings).fingerprint()
        for split, settings in (
            ("val", {"length": len(base)}),
            ("train", {"seed": 1}),
            ("train", {"length": 5}),
            ("train", {"difficulty": "easy"}),
            ("train", {"size": (64, 64)}),
        )
    ]
    assert len({base.fingerprint(), *others}) == 6

"""Parts of a dataset, and folds."""

from __future__ import annotations

import pytest

from semseg.core.checks import InputError
from semseg.data import build_dataset
from semseg.data.subset import Subset, fold_indices


def test_a_part_is_those_samples() -> None:
    whole = build_dataset("synthetic", "train", length=5, size=(16, 24))
    part = Subset(whole, [3, 1], "val")
    assert (len(part), part.split, part.channels) == (2, "val", 3)
    assert part.labels == whole.labels
    assert [part.path(i) for i in range(2)] == [whole.path(3), whole.path(1)]
    assert part[0].image.equal(whole[3].image)
    assert Subset(whole, [3]).split == "train"


def test_another_part_has_another_fingerprint() -> None:
    whole = build_dataset("synthetic", "train", length=5, size=(16, 24))
    prints = {Subset(whole, part).fingerprint() for part in ([0, 1], [1, 0], [0], [0, 1])}
    assert len(prints) == 3


@pytest.mark.parametrize(("length", "folds"), [(7, 3), (6, 2), (5, 5)])
def test_each_sample_validates_once(length: int, folds: int) -> None:
    held = []
    for fold in range(folds):
        train, val = fold_indices(length, folds, fold)
        assert sorted(train + val) == list(range(length))
        held += val
        assert length // folds <= len(val) <= length // folds + 1
    assert sorted(held) == list(range(length))


def test_folds_are_mixed() -> None:
    _, val = fold_indices(100, 5, 0)
    assert val != list(range(0, 100, 5))
    assert val != list(range(20))


@pytest.mark.parametrize(("folds", "fold"), [(3, 3), (8, 0), (2, -1)])
def test_folds_that_cannot_be(folds: int, fold: int) -> None:
    with pytest.raises(InputError, match=f"fold {fold} of {folds} folds of 7 samples"):
        fold_indices(7, folds, fold)

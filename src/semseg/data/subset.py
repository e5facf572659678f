"""Parts of a dataset: some of its samples as a split of their own, and folds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from semseg.core.checks import InputError
from semseg.data.base import Sample, SegmentationDataset, digest


class Subset(SegmentationDataset):
    """Some samples of a dataset, in the order given.

    Args:
        source: the whole.
        indices: positions in it.
        split: what to call the part; the whole's name if ``None``.
    """

    def __init__(
        self, source: SegmentationDataset, indices: Sequence[int], split: str | None = None
    ) -> None:
        self.source = source
        self.indices = tuple(indices)
        self.labels = source.labels
        self.channels = source.channels
        self.split = split or source.split
        self.notes = source.notes
        self.values = source.values
        self.holds = source.holds
        self.voxel = source.voxel

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample."""
        return self.source[self.indices[index]]

    def path(self, index: int) -> str:
        """Return the path of one sample."""
        return self.source.path(self.indices[index])

    def fingerprint(self) -> str:
        """Return the SHA-256 over the whole's fingerprint and the positions."""
        return digest([self.source.fingerprint(), self.indices], self.labels)


def fold_indices(length: int, folds: int, fold: int) -> tuple[list[int], list[int]]:
    """Return which samples train and which validate in one fold of a cross-validation.

    Each sample validates in one fold. Folds are drawn once and for all: no seed of a run moves
    a sample from one to another, and they differ by one sample at most.

    Raises:
        InputError: fewer samples than folds, or a fold that does not exist.

    Example:
        >>> train, val = fold_indices(5, folds=2, fold=0)
        >>> sorted(train + val), len(val)
        ([0, 1, 2, 3, 4], 3)
    """
    if not 0 <= fold < folds <= length:
        raise InputError(
            f"fold {fold} of {folds} folds of {length} samples; folds are counted from 0, and "
            "each needs a sample"
        )
    order = torch.randperm(length, generator=torch.Generator().manual_seed(0)).tolist()
    val = sorted(order[fold::folds])
    return sorted(set(range(length)) - set(val)), val

"""Numbers of each split: classes, weights, brightness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data.doctor.findings import Evidence
from semseg.data.doctor.look import Look


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """What one split consists of; lists have one number per class.

    Args:
        samples: how many there are.
        sizes: height and width of images, and how many have them; most frequent first.
        pixels: pixels of each class.
        images: images in which each class occurs.
        ignored: pixels that count for nothing.
        median_frequency: class weights of SegNet, or ``None`` where a class never occurs.
        enet: class weights of ENet, or ``None`` where nothing is labelled.
        mean: of each channel, 0 … 1.
        std: of each channel, 0 … 1.
    """

    samples: int
    sizes: list[tuple[tuple[int, int], int]]
    pixels: list[int]
    images: list[int]
    ignored: int
    median_frequency: list[float] | None
    enet: list[float] | None
    mean: list[float]
    std: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def split_facts(evidence: Evidence) -> dict[str, SplitFacts]:
    """Return the facts of every split."""
    return {
        split: _facts([x for x in evidence.looks if x.case.split == split], evidence.labels)
        for split in evidence.splits
    }


def _facts(looks: list[Look], labels: LabelMap | None) -> SplitFacts:
    from semseg.losses.class_weights import ClassCounts, enet, median_frequency

    sizes: dict[tuple[int, int], int] = {}
    for look in looks:
        if look.image_size is not None:
            sizes[look.image_size] = sizes.get(look.image_size, 0) + 1
    held = [look.counts for look in looks if look.counts is not None]
    k = labels.num_classes if labels else 0
    table = np.stack(held) if held else np.zeros((0, k + 1), np.int64)
    pixels = table.sum(axis=0)
    within = ((table > 0) * table.sum(axis=1, keepdims=True)).sum(axis=0)
    counts = ClassCounts(tuple(pixels[:k].tolist()), tuple(within[:k].tolist()))
    weights: list[list[float] | None] = []
    for scheme in (median_frequency, enet):
        try:
            weights.append([round(w, 4) for w in scheme(counts)] if k else None)
        except InputError:  # a class never occurs
            weights.append(None)
    mean, std = _brightness(looks)
    return SplitFacts(
        samples=len(looks),
        sizes=sorted(sizes.items(), key=lambda item: -item[1]),
        pixels=pixels[:k].tolist(),
        images=(table[:, :k] > 0).sum(axis=0).tolist(),
        ignored=int(pixels[k]) if held else 0,
        median_frequency=weights[0],
        enet=weights[1],
        mean=mean,
        std=std,
    )


def _brightness(looks: list[Look]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels."""
    held = [look.histogram for look in looks if look.histogram is not None]
    if not held:
        return [], []
    total = np.sum(held, axis=0).astype(np.float64)
    values = np.arange(256) / 255
    pixels = total.sum(axis=1)
    mean = total @ values / pixels
    std = np.sqrt(np.maximum(total @ values**2 / pixels - mean**2, 0))
    return [round(x, 4) for x in mean.tolist()], [round(x, 4) for x in std.tolist()]

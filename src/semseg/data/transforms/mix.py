"""Augmentation that puts a part of one sample into another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors

from semseg.core.checks import InputError, unknown_name
from semseg.core.labels import LabelMap
from semseg.data.transforms.config import AugmentConfig

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]
Region = Callable[[Tensor], Tensor]
"""Mask ``(H, W)`` of the other sample to the pixels that are taken from it, bool."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Ways to mix with a probability each; a sample gets one of them or none.

    Args:
        ways: region and probability; the probabilities add up to 1 at most.
    """

    ways: tuple[tuple[Region, float], ...]

    def draw(self) -> Region | None:
        """Draw a way, or ``None``."""
        value = float(torch.rand(()))
        for region, probability in self.ways:
            value -= probability
            if value < 0:
                return region
        return None


def paste(region: Region, onto: Pair, other: Pair) -> Pair:
    """Return ``onto`` with a region of ``other`` in it, image and mask alike.

    Raises:
        InputError: the two differ in size.
    """
    if onto[1].shape != other[1].shape:
        raise InputError(
            f"mixing needs samples of one size, got {tuple(onto[1].shape)} and "
            f"{tuple(other[1].shape)}; set augment.crop or augment.resize"
        )
    taken = region(other[1].as_subclass(Tensor))
    image, mask = (torch.where(taken, b, a) for a, b in zip(onto, other, strict=True))
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


def rectangle(mask: Tensor) -> Tensor:
    """Return a window with a share of the area drawn from (0, 1) (CutMix, arXiv:1905.04899)."""
    height, width = mask.shape
    side = float(torch.rand(())) ** 0.5
    middle = torch.rand(2)
    taken = torch.zeros_like(mask, dtype=torch.bool)
    spans = []
    for length, centre in ((height, middle[0]), (width, middle[1])):
        start = float(centre) * length - side * length / 2
        spans.append(slice(max(0, round(start)), max(0, round(start + side * length))))
    taken[spans[0], spans[1]] = True
    return taken


@dataclass(frozen=True, slots=True)
class HalfOfTheClasses:
    """The pixels of half of the classes in the mask (ClassMix, arXiv:2007.07936)."""

    ignore_id: int

    def __call__(self, mask: Tensor) -> Tensor:
        """Return the pixels; of an odd number of classes the larger half, all of a single one."""
        held = mask.unique()  # type: ignore[no-untyped-call]
        held = held[held != self.ignore_id]
        chosen = held[torch.randperm(len(held))[: (len(held) + 1) // 2]]
        return torch.isin(mask, chosen)


@dataclass(frozen=True, slots=True)
class ThingsOf:
    """The pixels of some classes: copy-paste (arXiv:2012.07177) where masks tell no instances."""

    train_ids: tuple[int, ...]

    def __call__(self, mask: Tensor) -> Tensor:
        """Return their pixels; none where none of them occurs."""
        return torch.isin(mask, torch.tensor(self.train_ids, dtype=mask.dtype))


def build_mix(config: AugmentConfig, labels: LabelMap) -> Mix | None:
    """Return what a recipe asks for, or ``None``.

    Raises:
        InputError: a class of ``copy_paste_classes`` that does not exist.
    """
    ways: Sequence[tuple[Region, float]] = (
        (rectangle, config.cutmix),
        (HalfOfTheClasses(labels.ignore_id), config.classmix),
        (ThingsOf(_ids(config.copy_paste_classes, labels)), config.copy_paste),
    )
    asked = tuple(way for way in ways if way[1])
    return Mix(asked) if asked else None


def _ids(names: Sequence[str], labels: LabelMap) -> tuple[int, ...]:
    for name in names:
        if name not in labels.names:
            raise unknown_name("class in augment.copy_paste_classes", name, labels.names)
    return tuple(labels.names.index(name) for name in names)

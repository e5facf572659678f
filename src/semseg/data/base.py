"""What every dataset promises, and how it enters the list."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch.utils.data import Dataset
from torchvision import tv_tensors

from semseg.core.checks import InputError, unknown_name
from semseg.core.labels import LabelMap
from semseg.core.preprocess import ValueRange
from semseg.core.registry import Registry


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its mask.

    Args:
        image: ``(C, H, W)`` ``uint8``, RGB order; stored plane by plane or pixel by pixel.
        mask: ``(H, W)`` train ids and the ignore id; ``uint8``, or ``int32`` above 255 classes.
        path: the image's file, or a name that says how to make it again.
        size: height and width before any transform.
    """

    image: tv_tensors.Image
    mask: tv_tensors.Mask
    path: str
    size: tuple[int, int]


class DatasetSettings(BaseModel):
    """Settings every dataset has; a dataset's own settings add to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cache: bool = False
    """Keep all decoded samples in memory."""


class SegmentationDataset(Dataset[Sample]):
    """Images with masks, by position.

    Attributes:
        labels: what the numbers in the masks mean.
        channels: C of every image.
        split: ``"train"`` or ``"val"`` (some datasets have ``"test"``).
        notes: what a user should know about how this dataset was read, in sentences.
        values: how numbers in the image files become bytes, where the user states it.
        holds: what a sample is; clouds are images of one row, see :mod:`semseg.data.clouds`.
        voxel: edge of the grid on which clouds are thinned out, if they are.
    """

    labels: LabelMap
    channels: int
    split: str
    notes: tuple[str, ...] = ()
    values: ValueRange | None = None
    holds: Literal["images", "clouds"] = "images"
    voxel: float | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        """Return one sample; every call gives an equal one.

        Raises:
            FileError: a file is missing or damaged.
            InputError: image and mask do not fit together, or the mask holds unknown ids.
        """
        raise NotImplementedError

    def path(self, index: int) -> str:
        """Return what :attr:`Sample.path` will be, without reading the sample."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Return 64 hexadecimal digits that change when the data or the label map change.

        Equal on every machine that holds the same data. Files count by name and size, so this is
        quick; a change that keeps both is not seen.
        """
        raise NotImplementedError


def digest(parts: Iterable[Any], labels: LabelMap) -> str:
    """Return the SHA-256 over JSON values and a label map."""
    text = json.dumps([list(parts), labels.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class CachedDataset(SegmentationDataset):
    """A dataset whose decoded samples are kept in memory: H x W x (C + 1) bytes each.

    All samples are read at once, in threads. They lie in two flat tensors, so that loader workers
    share one copy whichever way they are started.

    Args:
        source: the dataset to keep.
        threads: how many samples are read at the same time.
    """

    def __init__(self, source: SegmentationDataset, threads: int = 4) -> None:
        self.source = source
        self.labels = source.labels
        self.channels = source.channels
        self.split = source.split
        self.notes = source.notes
        self.values = source.values
        self.holds = source.holds
        self.voxel = source.voxel
        with ThreadPoolExecutor(threads) as pool:
            samples = list(pool.map(source.__getitem__, range(len(source))))
        self._sizes = [sample.size for sample in samples]
        self._starts = [0]
        for height, width in self._sizes:
            self._starts.append(self._starts[-1] + height * width)
        # from the type of one mask: all of a dataset are alike
        self._images = torch.cat([s.image.as_subclass(torch.Tensor).flatten() for s in samples])
        self._rows = samples[0].image.shape[0] if samples else self.channels
        self._masks = torch.cat([s.mask.as_subclass(torch.Tensor).flatten() for s in samples])

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._sizes)

    def __getitem__(self, index: int) -> Sample:
        """Return a copy of the kept sample, so that a change to it stays outside."""
        start, end = self._starts[index], self._starts[index + 1]
        size = self._sizes[index]
        image = self._images[start * self._rows : end * self._rows].clone()
        mask = self._masks[start:end].clone()
        return Sample(
            image=tv_tensors.Image(image.view(self._rows, *size)),
            mask=tv_tensors.Mask(mask.view(*size)),
            path=self.source.path(index),
            size=size,
        )

    def path(self, index: int) -> str:
        """Return the path of the kept sample."""
        return self.source.path(index)

    def fingerprint(self) -> str:
        """Return the fingerprint of the dataset behind it."""
        return self.source.fingerprint()


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetEntry:
    """One line of the list of datasets: how to build it, and the facts a user needs."""

    name: str
    build: Callable[..., SegmentationDataset]
    """``(split, root, settings) -> SegmentationDataset``; a class."""
    settings: type[DatasetSettings]
    title: str
    classes: int | None
    """Number of classes, or ``None`` where the data says it."""
    licence: str
    citation: str | None
    source: str
    """Where to get it, or how to make it."""
    layout: str | None
    """The files expected below ``root``; ``None`` if there are none."""
    splits: tuple[str, ...] = ("train", "val")
    counts: Mapping[str, int] = field(default_factory=dict)
    """Images of each split as published, with default settings; empty where nothing is."""

    @property
    def holds(self) -> str:
        """What a sample is: ``"images"`` or ``"clouds"``."""
        held: str = getattr(self.build, "holds", "images")
        return held

    def check_split(self, split: str) -> None:
        """Refuse a split that the dataset does not have."""
        if split not in self.splits:
            raise unknown_name(f"split of {self.name}", split, self.splits)

    def check_root(self, root: Path | None) -> None:
        """Refuse a missing ``root`` where files are needed."""
        if self.layout is not None and root is None:
            raise InputError(
                f"dataset {self.name} needs root, the folder with {self.layout}; "
                f"where to get it: {self.source}"
            )


DATASETS: Registry[DatasetEntry] = Registry("dataset", "semseg.data")


def register_dataset(
    name: str, settings: type[DatasetSettings], **facts: Any
) -> Callable[[type[SegmentationDataset]], type[SegmentationDataset]]:
    """Enter a dataset under ``name``; a class decorator.

    The class is called as ``cls(split, root, settings)``. ``facts`` are fields of
    :class:`DatasetEntry`; a misspelt one is a ``TypeError`` at import.
    """

    def enter(cls: type[SegmentationDataset]) -> type[SegmentationDataset]:
        DATASETS.add(name, DatasetEntry(name=name, build=cls, settings=settings, **facts))
        return cls

    return enter

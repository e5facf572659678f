"""A dataset of a few random images, for what no public dataset offers in a test."""

from __future__ import annotations

import copy

import torch
from torchvision import tv_tensors

from semseg.core.labels import LabelMap
from semseg.data import DatasetEntry, Sample, SegmentationDataset
from semseg.data.base import DatasetSettings


class TinyDataset(SegmentationDataset):
    """``length`` images of different sizes; class 1 where the first channel is bright."""

    def __init__(self, classes: int = 2, channels: int = 3, length: int = 6) -> None:
        self.labels = LabelMap.from_names([f"class {i}" for i in range(classes)])
        self.channels = channels
        self.split = "train"
        self.length = length
        self.version = "1"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        size = (16 + 4 * (index % 3), 24 - index)
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (self.channels, *size), generator=generator).byte()
        mask = (image[0] > 127).byte()
        mask[0] = self.labels.ignore_id
        return Sample(tv_tensors.Image(image), tv_tensors.Mask(mask), self.path(index), size)

    def path(self, index: int) -> str:
        return f"tiny-{index}.png"

    def fingerprint(self) -> str:
        return self.version


def entry(dataset: SegmentationDataset) -> DatasetEntry:
    """The registry's line for one dataset used as both splits."""

    def build(split: str, root: object, settings: object) -> SegmentationDataset:
        one = copy.copy(dataset)
        one.split = split
        return one

    return DatasetEntry(
        name="tiny",
        build=build,
        settings=DatasetSettings,
        title="tiny",
        classes=None,
        licence="none",
        citation=None,
        source="made here",
        layout=None,
    )

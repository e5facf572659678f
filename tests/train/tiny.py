"""A dataset of a few random images and a network that takes milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from semseg.core.labels import LabelMap
from semseg.data import DatasetEntry, Sample, SegmentationDataset
from semseg.data.base import DatasetSettings
from semseg.models.base import MODELS, Entry, ModelConfig, SegmentationModel


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


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyNetConfig(ModelConfig):
    """Settings of :class:`TinyNet`."""

    dropout: float = 0.2
    norm: bool = True


class TinyNet(SegmentationModel):
    """Batch norm, dropout, an auxiliary head and a stride: all that a loop must handle."""

    multiple_of = 4
    aux_weights: ClassVar[dict[str, float]] = {"aux": 0.4}

    def __init__(self, config: TinyNetConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv2d(config.in_channels, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8) if config.norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.body = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.head = nn.Conv2d(8, config.num_classes, 1)
        self.aux = nn.Conv2d(8, config.num_classes, 1)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        features = self.dropout(self.norm(self.stem(images)).relu())
        return {"logits": self.head(self.body(features).relu()), "aux": self.aux(features)}


NETWORK = Entry(
    name="tiny",
    cls=TinyNet,
    config=TinyNetConfig(),
    title="tiny",
    paper="none",
    year=2000,
    idea="none",
    num_params=0,
)


@contextmanager
def listed() -> Iterator[None]:
    """Make ``tiny`` a network of the registry, for a while."""
    held = "tiny" in MODELS
    if not held:
        MODELS.add("tiny", NETWORK)
    yield
    if not held:
        del MODELS._entries["tiny"]

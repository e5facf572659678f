"""From a recipe to the parts that are trained, with everything checked that can be beforehand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from semseg.core.checkpoint import load_weights
from semseg.core.checks import FileError, InputError
from semseg.core.labels import LabelMap
from semseg.core.preprocess import Preprocessing
from semseg.data import SegmentationDataset
from semseg.losses import ClassCounts
from semseg.models import create_model, list_models, model_entry
from semseg.models.base import SegmentationModel, preprocessing_for
from semseg.train.config import TrainConfig
from semseg.train.evaluation import check_classes
from semseg.train.splits import open_split


@dataclass(frozen=True, slots=True)
class Parts:
    """What a recipe names, built."""

    train: SegmentationDataset
    val: SegmentationDataset
    model: SegmentationModel
    preprocessing: Preprocessing

    @property
    def labels(self) -> LabelMap:
        """The classes."""
        return self.train.labels


def build_parts(config: TrainConfig) -> Parts:
    """Open both splits and build the network with its initial weights.

    Raises:
        SemsegError: something does not exist, or classes or channels do not fit.
    """
    data = config.data
    train, val = (open_split(config, split) for split in ("train", "val"))
    if difference := train.labels.difference(val.labels):
        raise InputError(f"{data.name}: train and val differ in their classes: {difference}")
    entry = model_entry(config.model.name)
    if entry.takes != train.holds:
        fitting = [name for name in list_models() if model_entry(name).takes == train.holds]
        raise InputError(
            f"{entry.name} takes {entry.takes}, {data.name} holds {train.holds}; "
            f"give {entry.takes}, or a network for {train.holds} such as {fitting[0]}"
        )
    # YAML has no tuples; configs do
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in config.model.settings.items()}
    settings: dict[str, Any] = {
        "num_classes": train.labels.num_classes,
        "in_channels": train.channels,
        **given,
    }
    torch.manual_seed(config.seed)
    model = create_model(entry.name, pretrained=config.model.pretrained, **settings)
    check_classes(entry.name, model.config.num_classes, train.labels)
    if model.config.in_channels != train.channels:
        raise InputError(
            f"{entry.name} has in_channels {model.config.in_channels}, the images of {data.name} "
            f"have {train.channels}; leave in_channels out of the settings, it follows the data"
        )
    if config.model.weights is not None:
        _start_from(model, config, train.labels)
    rule = replace(preprocessing_for(entry, model), values=train.values, voxel=train.voxel)
    return Parts(train, val, model, rule)


def _start_from(model: SegmentationModel, config: TrainConfig, labels: LabelMap) -> None:
    path = config.model.weights
    assert path is not None
    tensors, info = load_weights(path)
    if info.labels is not None and (difference := info.labels.difference(labels)):
        raise InputError(
            f"{path} was trained for other classes than {config.data.name}: {difference}; "
            "give weights of the same classes, or leave model.weights out"
        )
    have = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    need = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    wrong = [key for key in sorted(have.keys() | need.keys()) if have.get(key) != need.get(key)]
    if wrong:
        raise FileError(
            f"{path} holds {info.model} with other settings than {config.model.name} here (first "
            f"tensor that does not fit: {wrong[0]}); use its name and settings"
        )
    model.load_state_dict(tensors)


def count_classes(dataset: SegmentationDataset, workers: int) -> tuple[ClassCounts, Tensor]:
    """Read every mask once; return the pixels of each class, and ``(n, K)`` who shows which."""
    k = dataset.labels.num_classes
    pixels = torch.zeros(k, dtype=torch.int64)
    of_images = torch.zeros(k, dtype=torch.int64)
    presence = torch.zeros(len(dataset), k, dtype=torch.bool)
    read = DataLoader(_Counts(dataset), batch_size=None, num_workers=workers)
    for i, (counts, size) in enumerate(read):
        pixels += counts
        presence[i] = counts > 0
        of_images += presence[i] * size
    return ClassCounts(tuple(pixels.tolist()), tuple(of_images.tolist())), presence


class _Counts(Dataset[tuple[Tensor, int]]):
    """Pixels of each class and of the whole image, by position."""

    def __init__(self, source: SegmentationDataset) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        labels = self.source.labels
        mask = self.source[index].mask.as_subclass(Tensor).flatten()
        counts = torch.bincount(mask, minlength=labels.ignore_id + 1)[: labels.num_classes]
        return counts, mask.numel()

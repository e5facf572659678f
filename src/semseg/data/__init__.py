"""Datasets, transforms and the loader; nothing here knows a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from semseg.core.checks import SettingError, unknown_setting
from semseg.data.base import DATASETS, CachedDataset, DatasetEntry, Sample, SegmentationDataset

__all__ = [
    "CachedDataset",
    "Sample",
    "SegmentationDataset",
    "build_dataset",
    "dataset_entry",
    "list_datasets",
]


def list_datasets() -> list[str]:
    """Return the names that :func:`build_dataset` takes.

    Example:
        >>> "synthetic" in list_datasets()
        True
    """
    return list(DATASETS)


def dataset_entry(name: str) -> DatasetEntry:
    """Return the registered facts of one dataset.

    Raises:
        UnknownNameError: there is none of that name; the nearest are shown.
    """
    return DATASETS[name]


def build_dataset(
    name: str, split: str, root: str | Path | None = None, **settings: Any
) -> SegmentationDataset:
    """Open one split of a dataset.

    Args:
        name: one of :func:`list_datasets`.
        split: ``"train"`` or ``"val"``.
        root: folder of the files, for datasets that have any.
        settings: fields of the dataset's settings, e.g. ``cache=True``.

    Raises:
        UnknownNameError: no dataset or split of that name.
        SettingError: a setting the dataset does not have, or of the wrong kind.
        FileError: files are missing or do not fit the layout.

    Example:
        >>> sample = build_dataset("synthetic", "val", length=1, size=(32, 48))[0]
        >>> tuple(sample.image.shape), tuple(sample.mask.shape)
        ((3, 32, 48), (32, 48))
    """
    entry = DATASETS[name]
    known = entry.settings.model_fields.keys()
    if unknown := settings.keys() - known:
        raise unknown_setting(f"dataset {name}", unknown, known)
    entry.check_split(split)
    folder = None if root is None else Path(root)
    entry.check_root(folder)
    try:
        chosen = entry.settings(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SettingError(
            f"dataset {name}: setting {place} is {first['input']!r}; {first['msg']}"
        ) from error
    dataset = entry.build(split, folder, chosen)
    return CachedDataset(dataset) if chosen.cache else dataset

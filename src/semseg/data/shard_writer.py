"""Writing shards that :mod:`semseg.data.shards` and the ``webdataset`` package read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from semseg.core import archive
from semseg.core.checks import FileError, InputError
from semseg.core.files import write_atomic, write_text
from semseg.core.labels import LabelMap
from semseg.data.base import CachedDataset, Sample, SegmentationDataset
from semseg.data.images import IMAGE_SUFFIXES
from semseg.data.pairs import PairDataset

_DIGITS = 6


def write_shards(
    dataset: SegmentationDataset,
    folder: str | Path,
    *,
    per_shard: int = 1000,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a split as ``SPLIT-000000.tar`` …, and ``classes.yaml`` beside.

    Image files go in as they are; images that are no files of their own, or that the dataset
    changes when it reads them, as PNG. Masks become PNG of raw ids, ``KEY.seg.png``: of ids that
    mean one class, or that are all ignored, the first. A key is the number of the sample and the
    name of its file. Each shard is written whole or not at all.

    Args:
        dataset: any; its samples are read once.
        folder: where the shards go, the ``root`` of the dataset ``webdataset``.
        per_shard: samples of a shard, but for the last.
        overwrite: whether shards of this split may be replaced.
        on_progress: called with the samples done and their number.

    Returns:
        The shards.

    Raises:
        FileError: a shard of the split is there, or a ``classes.yaml`` of other classes.
        InputError: ``per_shard`` is not positive, or a mask has ignored pixels and no id for them.

    Example:
        >>> import tempfile
        >>> from semseg.data import build_dataset
        >>> scenes = build_dataset("synthetic", "val", length=3, size=(32, 48))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shards = write_shards(scenes, folder, per_shard=2)
        ...     again = build_dataset("webdataset", "val", folder)
        ...     [shard.name for shard in shards], len(again)
        (['val-000000.tar', 'val-000001.tar'], 3)
    """
    folder = Path(folder)
    if per_shard < 1:
        raise InputError(f"per_shard must be at least 1, got {per_shard}")
    held = sorted(folder.glob(f"{dataset.split}-*.tar"))
    if held and not overwrite:
        raise FileError(f"{held[0]} exists; choose another place, or allow to overwrite")
    _write_classes(dataset.labels, folder / "classes.yaml", overwrite)
    shards: list[Path] = []
    for start in range(0, len(dataset), per_shard):
        shards.append(folder / f"{dataset.split}-{len(shards):0{_DIGITS}}.tar")
        part = range(start, min(start + per_shard, len(dataset)))
        write_atomic(shards[-1], partial(_write, dataset, part))
        if on_progress is not None:
            on_progress(part.stop, len(dataset))
    for shard in held:  # of an earlier, longer split
        if shard not in shards:
            shard.unlink()
    return shards


def _write_classes(labels: LabelMap, path: Path, overwrite: bool) -> None:
    if path.is_file() and not overwrite:
        if LabelMap.from_yaml(path) != labels:
            raise FileError(f"{path} exists and has other classes; choose another place")
        return
    write_text(path, yaml.safe_dump(labels.to_dict(), sort_keys=False, allow_unicode=True))


def _write(dataset: SegmentationDataset, part: range, path: Path) -> None:
    with tarfile.open(path, "w") as shard:
        for index in part:
            sample = dataset[index]
            name = Path(sample.path).stem.replace(".", "_")
            suffix, image = _image(dataset, sample)
            for extension, data in ((suffix, image), (".seg.png", _mask(dataset, sample))):
                # no time and no owner: equal data make equal shards
                info = tarfile.TarInfo(f"{index:0{_DIGITS}}-{name}{extension}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))


def _image(dataset: SegmentationDataset, sample: Sample) -> tuple[str, bytes]:
    """Return the file of an image where the dataset reads it as it is, else a PNG of it."""
    source = dataset.source if isinstance(dataset, CachedDataset) else dataset
    rules = ("__getitem__", "read_image", "read_pixels")
    plain = isinstance(source, PairDataset) and all(
        getattr(type(source), rule) is getattr(PairDataset, rule) for rule in rules
    )
    file = Path(sample.path)
    if plain and file.suffix.lower() in IMAGE_SUFFIXES and archive.is_file(file):
        return file.suffix.lower(), archive.read_bytes(file)
    pixels = sample.image.as_subclass(Tensor).permute(1, 2, 0).numpy()
    if pixels.shape[2] not in (1, 3):
        raise InputError(f"shards hold images of 1 or 3 channels, got {pixels.shape[2]}")
    return ".png", _png(pixels if pixels.shape[2] == 3 else pixels[..., 0])


def _mask(dataset: SegmentationDataset, sample: Sample) -> bytes:
    return _png(dataset.labels.decode(sample.mask.as_subclass(Tensor).numpy()))


def _png(pixels: NDArray[Any]) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(held, "PNG")
    return held.getvalue()

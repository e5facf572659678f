"""Where a folder keeps labels that are not masks: files of labelling tools beside its images."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors

from semseg.core.checks import FileError, InputError
from semseg.core.labels import LabelMap
from semseg.data.base import Sample, SegmentationDataset, digest
from semseg.data.formats import Annotation, detect_format, label_format, read_annotations
from semseg.data.formats.base import BACKGROUND_NAMES, Key, find_label, uncovered
from semseg.data.formats.find import ImageNames
from semseg.data.images import MASK_SUFFIXES, read_image

_FOLDERS = ("masks", "labels", "annotations")
_FILES = (".json", ".xml", ".geojson")
_COLORS_SHOWN = 24
_MASKS_SHOWN = 20


class LabelledDataset(SegmentationDataset):
    """Image files with labels of any format.

    Args:
        root: the folder that names in the fingerprint are relative to.
        split: name of the split.
        pairs: image files and their labels, in the order of the positions.
        labels: the classes.
        channels: 3 or 1.
        background: class of what no shape covers.
        notes: what a user should know about how the files were found.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        pairs: Sequence[tuple[Path, Annotation]],
        labels: LabelMap,
        *,
        channels: int = 3,
        background: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.root = root
        self.split = split
        self.pairs = list(pairs)
        self.labels = labels
        self.channels = channels
        self.background = background
        self.notes = notes
        uncovered(labels, background, "setting background")  # an unknown name shows at once

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pairs)

    def path(self, index: int) -> str:
        """Return the image's file."""
        return str(self.pairs[index][0])

    def __getitem__(self, index: int) -> Sample:
        """Read one image and draw its labels; errors name the file."""
        file, annotation = self.pairs[index]
        image = read_image(file, self.channels)
        size = (image.shape[0], image.shape[1])
        ids = annotation.ids(self.labels, size, self.background)
        return Sample(
            image=tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
            mask=tv_tensors.Mask(torch.from_numpy(self.labels.encode(ids, annotation.source))),
            path=str(file),
            size=size,
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, file sizes, the label map and the background."""
        files = {file for image, annotation in self.pairs for file in (image, annotation.file)}
        sizes = sorted((os.path.relpath(file, self.root), file.stat().st_size) for file in files)
        return digest([*sizes, self.background], self.labels)


def has_masks(root: Path) -> bool:
    """Tell whether a folder is of mask files, not of files of a labelling tool.

    It is if ``root/masks`` holds any, or if there are no labels of another kind.
    """
    masks = root / "masks"
    if masks.is_dir():
        files = masks.rglob("*")
        return any(file.suffix.lower() in MASK_SUFFIXES for file in files) or not _texts(masks)
    if any((root / name).is_dir() for name in _FOLDERS[1:]):
        return False
    return not _texts(root / "images") and not _stated(root, "annotations")


def label_source(root: Path, split: str, stated: str | None = None) -> Path:
    """Return the file or folder of a split's labels.

    It is the one that is stated, where ``{split}`` stands for the split. Else the first of: in
    ``masks``, ``labels`` or ``annotations`` a JSON, GeoJSON or XML file with the split in its name,
    the subfolder of the split, that folder itself; a file ``annotations.json`` (or ``.xml``) in
    the root; the images' own folder.

    Raises:
        FileError: what is stated does not exist.
        InputError: two files have the split in their names.
    """
    if stated is not None:
        source = root / stated.replace("{split}", split)
        if not source.exists():
            raise FileError(f"label_path says {source}, which does not exist; correct it")
        return source
    for name in _FOLDERS:
        folder = root / name
        if not folder.is_dir():
            continue
        if len(files := _stated(folder, split)) > 1:
            raise InputError(
                f"{files[0]} and {files[1]} may both hold the labels of {split!r}; say which with "
                "label_path"
            )
        if files:
            return files[0]
        return folder / split if (folder / split).is_dir() else folder
    if files := _stated(root, "annotations"):
        return files[0]
    images = root / "images"
    return images / split if (images / split).is_dir() else images


def annotate(
    images: Sequence[Path], folder: Path, source: Path, kind: str | None
) -> tuple[str, list[Annotation]]:
    """Return the format, and the labels of each image.

    Args:
        images: image files of the split.
        folder: what their names are relative to.
        source: file or folder of labels; it may hold those of other images too.
        kind: name of the format; found from the files if ``None``.

    Raises:
        FileError: an image has no labels, or a file is damaged.
        InputError: an image has two labels, or the files are colours and nobody said so.
        UnknownNameError: no format of that name.
    """
    known = detect_format(source) if kind is None else kind
    if kind is None and known == "rgb":
        raise InputError(
            f"{source} holds colours where ids or files of a labelling tool are expected; say "
            "labels: rgb to read them by the colours in classes.yaml"
        )
    by_stem = {image.relative_to(folder).with_suffix("").as_posix(): image for image in images}
    names = ImageNames(by_stem)
    found: dict[Path, Annotation] = {}
    for annotation in read_annotations(source, known):
        image = names.get(annotation.image)
        if image is None:
            continue  # of another split
        if image in found:
            raise InputError(
                f"{found[image].source} and {annotation.source} both label {image}; keep one"
            )
        found[image] = annotation
    if missing := [image for image in images if image not in found]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileError(
            f"{missing[0]} has no labels in {source}{more}, read as {known}; label it or take it "
            "out of the images"
        )
    return known, [found[image] for image in images]


def label_map(path: Path, annotations: Sequence[Annotation], kind: str) -> LabelMap:
    """Read ``classes.yaml`` and look up every class that the labels name.

    Raises:
        InputError: it is missing, and a line that would do is in the message; or it is wrong; or
            it lacks a class.
    """
    if not path.is_file():
        raise InputError(_proposal(path, annotations, kind))
    labels = LabelMap.from_yaml(path)
    known: set[Key] = set()
    for annotation in annotations:
        for key in annotation.keys - known:
            find_label(labels, key, annotation.source)
            known.add(key)
    return labels


def _proposal(path: Path, annotations: Sequence[Annotation], kind: str) -> str:
    keys: set[Key] = {key for annotation in annotations for key in annotation.keys}
    if kind == "rgb":
        entries = _color_entries(annotations)
    elif keys and all(isinstance(key, int) for key in keys):
        entries = [f"{{name: class_{key}, id: {key}}}" for key in sorted(keys, key=int)]
        entries.append(f"{{name: background, id: {max(map(int, keys)) + 1}}}")
    else:
        names = sorted(map(str, keys))
        if not any(name.lower() in BACKGROUND_NAMES for name in names):
            names.insert(0, "background")
        entries = [json.dumps(name, ensure_ascii=False) for name in names]
    return (
        f"{path} does not exist. Write this line into it, with your own names and ignore: true for "
        f"what shall not count: classes: [{', '.join(entries)}]"
    )


def _color_entries(annotations: Sequence[Annotation]) -> list[str]:
    found: set[tuple[int, ...]] = set()
    for annotation in annotations[:_MASKS_SHOWN]:
        pixels = read_image(annotation.file).reshape(-1, 3)
        found.update(map(tuple, np.unique(pixels, axis=0).tolist()))
    if len(found) > _COLORS_SHOWN:
        raise InputError(
            f"the first masks hold {len(found)} colours, too many for classes; are they photos or "
            "JPEG files? Export them without loss"
        )
    return [f"{{name: class_{i}, color: {list(c)}}}" for i, c in enumerate(sorted(found))]


def _stated(folder: Path, word: str) -> list[Path]:
    """Return the files that hold many images' labels and have a word in their names."""
    files = [
        file
        for file in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if file.suffix.lower() in _FILES and word in file.stem and file.is_file()
    ]
    # a labelling tool may have written a file for each image, and those be called so
    return files if files and label_format(detect_format(files[0])).many else []


def _texts(folder: Path) -> bool:
    return folder.is_dir() and any(
        file.suffix.lower() in (*_FILES, ".txt") and not file.name.startswith(".")
        for file in folder.rglob("*")
    )

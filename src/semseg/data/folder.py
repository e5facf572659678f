"""Your own data: a folder of images, a folder of masks and a ``classes.yaml``.

Layout, images and masks paired by their name without suffix (subfolders count as part of it)::

    root/classes.yaml
    root/images/train/…   root/masks/train/…
    root/images/val/…     root/masks/val/…

or one folder each, ``root/images`` and ``root/masks``, with ``root/train.txt`` and ``root/val.txt``
that list one name per line (with or without suffix) or an image and a mask file; or one folder each
and no lists, where one image in five becomes ``val`` by a hash of its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from semseg.core.checks import FileError, InputError, check_folder, ranges
from semseg.core.labels import LabelMap
from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, read_mask
from semseg.data.pairs import Pair, PairDataset

_SPLITS = ("train", "val")
_VAL_SHARE = 0.2
_MASKS_SHOWN = 20


class FolderSettings(DatasetSettings):
    """What can be said about a folder."""

    channels: Literal[1, 3] = 3
    """How images are read: 3 for RGB, 1 for grey."""


@register_dataset(
    "folder",
    FolderSettings,
    title="A folder of images and masks",
    classes=None,
    licence="that of the data",
    citation=None,
    source="your own files",
    layout="images/, masks/ and classes.yaml",
)
class Folder(PairDataset):
    """One split of a folder of images and masks.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with ``images``, ``masks`` and ``classes.yaml``.
        settings: how to read it.

    Raises:
        FileError: a folder is missing, or an image has no mask or a mask no image.
        InputError: no image is left for the split, or ``classes.yaml`` is missing or wrong.
    """

    def __init__(self, split: str, root: Path, settings: FolderSettings) -> None:
        check_folder(root, "dataset root")
        images = check_folder(root / "images", "image folder")
        masks = check_folder(root / "masks", "mask folder")
        notes: tuple[str, ...] = ()
        if any((folder / name).is_dir() for folder in (images, masks) for name in _SPLITS):
            check_folder(images / split, f"image folder of split {split!r}")
            check_folder(masks / split, f"mask folder of split {split!r}")
            pairs = _pair(images / split, masks / split)
        elif any((root / f"{name}.txt").is_file() for name in _SPLITS):
            pairs = _listed(root / f"{split}.txt", images, masks)
        else:
            pairs = _drawn(_pair(images, masks), images, split)
            notes = (
                f"{root} has no train and val folders and no train.txt and val.txt, so one image "
                "in five, chosen by a hash of its name, is val",
            )
        labels = _labels(root / "classes.yaml", [mask for _, mask in pairs])
        super().__init__(root, split, pairs, labels, settings.channels, notes)


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the files below a folder by their relative path without suffix."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or file.suffix.lower() not in suffixes:
            continue
        stem = relative.with_suffix("").as_posix()
        if stem in found:
            raise FileError(f"{found[stem]} and {file} have one name; keep one or rename one")
        found[stem] = file
    return found


def _pair(images: Path, masks: Path) -> list[Pair]:
    """Pair all files of two folders."""
    image_files, mask_files = _by_stem(images, IMAGE_SUFFIXES), _by_stem(masks, MASK_SUFFIXES)
    if not image_files:
        raise InputError(f"{images} holds no images; put {', '.join(IMAGE_SUFFIXES)} files there")
    if missing := sorted(image_files.keys() - mask_files.keys()):
        raise FileError(
            f"{image_files[missing[0]]} has no mask{_more(missing)}; wanted "
            f"{masks / missing[0]} with one of {', '.join(MASK_SUFFIXES)}"
        )
    if missing := sorted(mask_files.keys() - image_files.keys()):
        raise FileError(
            f"mask {mask_files[missing[0]]} has no image{_more(missing)}; wanted "
            f"{images / missing[0]} with one of {', '.join(IMAGE_SUFFIXES)}"
        )
    return [(image, mask_files[stem]) for stem, image in image_files.items()]


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _listed(path: Path, images: Path, masks: Path) -> list[Pair]:
    """Return the pairs that a list file names."""
    if not path.is_file():
        raise FileError(f"{path} does not exist, but the other split has a list; write one")
    image_files, mask_files = _by_stem(images, IMAGE_SUFFIXES), _by_stem(masks, MASK_SUFFIXES)
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    pairs: list[Pair] = []
    for line in lines:
        if not line or line.startswith("#"):
            continue
        image_name = mask_name = line
        # a name may hold a space, so the whole line is tried first
        if _stem(line, images) not in image_files and len(line.split()) == 2:
            image_name, mask_name = line.split()
        image = image_files.get(_stem(image_name, images))
        mask = mask_files.get(_stem(mask_name, masks))
        if image is None:
            raise FileError(_unknown(path, image_name, images, "image"))
        if mask is None:
            raise FileError(_unknown(path, mask_name, masks, "mask"))
        pairs.append((image, mask))
    if not pairs:
        raise InputError(f"{path} names no images; list one name per line")
    return pairs


def _unknown(path: Path, name: str, folder: Path, kind: str) -> str:
    return (
        f"{path} names {name!r}, but {folder} has no such {kind}; correct the line or add the file"
    )


def _stem(name: str, folder: Path) -> str:
    """Return what :func:`_by_stem` calls a file that a list names, also by its path from root."""
    relative = Path(name)
    if len(relative.parts) > 1 and relative.parts[0] == folder.name:
        relative = relative.relative_to(folder.name)
    known = relative.suffix.lower() in IMAGE_SUFFIXES + MASK_SUFFIXES
    return (relative.with_suffix("") if known else relative).as_posix()


def _drawn(pairs: list[Pair], images: Path, split: str) -> list[Pair]:
    """Return a fifth of the pairs for val, the others for train.

    Each image is placed by its own name, so new images do not move the others; only the one with
    the greatest hash is always val and the one with the least always train.
    """
    if len(pairs) < 2:
        raise InputError(
            f"{images} holds one image, which cannot be split into train and val; add images or "
            "make the folders train and val yourself"
        )
    shares = {pair: _share(pair[0].relative_to(images)) for pair in pairs}
    least, greatest = min(shares.values()), max(shares.values())
    val = {
        pair
        for pair, share in shares.items()
        if share == greatest or (share >= 1 - _VAL_SHARE and share != least)
    }
    return [pair for pair in pairs if (pair in val) == (split == "val")]


def _share(name: Path) -> float:
    """Return a number in [0, 1) that depends on nothing but the name without suffix."""
    digest = hashlib.sha256(name.with_suffix("").as_posix().encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _labels(path: Path, masks: Iterable[Path]) -> LabelMap:
    if path.is_file():
        return LabelMap.from_yaml(path)
    ids: set[int] = set()
    for mask in islice(masks, _MASKS_SHOWN):
        ids.update(np.unique(read_mask(mask)).tolist())
    entries = [
        f"{{name: void, id: {i}, ignore: true}}"
        if i == 255 and len(ids) > 2
        else f"{{name: class_{i}, id: {i}}}"
        for i in sorted(ids)
    ]
    raise InputError(
        f"{path} does not exist; the first masks hold the ids {ranges(ids)}. Write this line into "
        f"it, with your own names: classes: [{', '.join(entries)}]"
    )

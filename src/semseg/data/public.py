"""What the public datasets share: their class tables, and refusing what is missing or too little.

None of them downloads anything. A dataset that is not there, or not whole, is refused with the
file that is missing, the layout that is wanted and the place to get it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError
from semseg.core.labels import LabelMap
from semseg.data.base import DATASETS, DatasetSettings
from semseg.data.images import read_image
from semseg.data.pairs import Pair, PairDataset

T = TypeVar("T")
_HELD_OUT = 5


@cache
def class_table(name: str) -> LabelMap:
    """Return a label map of the folder ``classes``; each file there says where it comes from."""
    return LabelMap.from_yaml(Path(__file__).parent / "classes" / f"{name}.yaml")


def missing(name: str, what: str) -> FileError:
    """Error for files that are not there: what is wanted, and where to get it."""
    entry = DATASETS[name]
    return FileError(
        f"dataset {name}: {what}; wanted {entry.layout}. Where to get it: {entry.source}"
    )


def find_folder(name: str, *choices: Path) -> Path:
    """Return the first of the folders that exists.

    Raises:
        FileError: none does.
    """
    for path in choices:
        if path.is_dir():
            return path
    others = "".join(f", nor does {path}" for path in choices[1:])
    raise missing(name, f"folder {choices[0]} does not exist{others}")


def find_file(name: str, *choices: Path) -> Path:
    """Return the first of the files that exists.

    Raises:
        FileError: none does.
    """
    for path in choices:
        if path.is_file():
            return path
    others = "".join(f", nor does {path}" for path in choices[1:])
    raise missing(name, f"{choices[0]} does not exist{others}")


def read_list(name: str, *choices: Path) -> list[str]:
    """Return the first word of each line of the first list file that exists.

    Raises:
        FileError: none does.
        InputError: it is empty.
    """
    path = find_file(name, *choices)
    lines = path.read_text(encoding="utf-8").splitlines()
    words = [line.split()[0] for line in lines if line.strip()]
    if not words:
        raise InputError(f"{path} is empty; it must list the images of the split")
    return words


def find_pairs(
    name: str, images: Path, pattern: str, mask_of: Callable[[Path], Path]
) -> list[Pair]:
    """Return the images that match a pattern below a folder, in order, each with its mask.

    Raises:
        FileError: there are none.
    """
    files = sorted(images.glob(pattern))
    if not files:
        raise missing(name, f"{images} holds no {pattern}")
    return [(file, mask_of(file)) for file in files]


def hold_out(items: Sequence[T], split: str, block: int | None = None) -> list[T]:
    """Return the part of an official training set that stands for ``"train"`` or ``"val"``.

    For datasets without an official validation split: one fifth is val. Without ``block`` it is
    the last fifth; otherwise every fifth run of ``block`` neighbours, because neighbours of
    one scene must not lie on both sides.

    Example:
        >>> hold_out(range(10), "val"), hold_out(range(10), "val", block=1)
        ([8, 9], [4, 9])
    """
    size = block or max(1, len(items) // _HELD_OUT)
    return [
        item
        for place, item in enumerate(items)
        if (place // size % _HELD_OUT == _HELD_OUT - 1) == (split == "val")
    ]


class HeldOutSettings(DatasetSettings):
    """Settings of a dataset whose validation split is taken from the official training images."""

    whole_train: bool = False
    """Train on every official training image, those of val too, as the literature does. Scores on
    val then say nothing about new images."""

    def part(self, items: Sequence[T], split: str, block: int | None = None) -> list[T]:
        """Return the items of a split, by :func:`hold_out`."""
        whole = self.whole_train and split == "train"
        return list(items) if whole else hold_out(items, split, block)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about these splits."""
        if self.whole_train:
            return ("whole_train is set, so train holds the images of val too",)
        return ("val is one fifth of the official training images, which train then lacks",)


class PublicDataset(PairDataset):
    """Image and mask files of a public dataset, all there, counted against the official number.

    Args:
        name: its name in the list of datasets.
        split: name of the split.
        root: the folder that names in the fingerprint are relative to.
        pairs: image and mask files.
        labels: what the ids in the mask files mean.
        channels: 3 or 1.
        official: number of images of this split as published; by default that of the list of
            datasets.
        notes: what a user should know about how the files were found.

    Raises:
        FileError: a file does not exist, or there is none.
    """

    def __init__(
        self,
        name: str,
        split: str,
        root: Path,
        pairs: Sequence[Pair],
        labels: LabelMap,
        *,
        channels: int = 3,
        official: int | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(root, split, pairs, labels, channels, notes)
        self.check(name)
        wanted = DATASETS[name].counts.get(split) if official is None else official
        if wanted is not None and wanted != len(pairs):
            images = "image" if len(pairs) == 1 else "images"
            counted = (
                f"{name} {split} has {len(pairs)} {images} here, officially {wanted}; scores "
                "cannot be compared with published ones"
            )
            self.notes = (counted, *notes)

    def check(self, name: str) -> None:
        """Refuse missing files; for data that are not single files, override this."""
        check_pairs(name, self.pairs)


def check_pairs(name: str, pairs: Sequence[Pair]) -> None:
    """Refuse no pairs at all, and files that do not exist; each folder is listed once.

    Raises:
        FileError: names the first missing file and says how many there are.
    """
    if not pairs:
        raise missing(name, "no images are left for the split")
    held: dict[Path, set[str]] = {}
    lacking: list[Path] = []
    for file in (file for pair in pairs for file in pair):
        folder = file.parent
        if folder not in held:
            held[folder] = {x.name for x in folder.iterdir()} if folder.is_dir() else set()
        if file.name not in held[folder]:
            lacking.append(file)
    if lacking:
        more = f" (and {len(lacking) - 1} more files do not)" if len(lacking) > 1 else ""
        raise missing(name, f"{lacking[0]} does not exist{more}")


def look_up(
    pixels: NDArray[np.int64], keys: NDArray[np.int64], ids: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Turn packed colours into ids.

    Args:
        pixels: from :func:`read_packed`.
        keys: packed colours that may occur, in rising order.
        ids: what each of them stands for.

    Returns:
        The ids, of the kind of ``ids``, and the colours that are not among ``keys``.
    """
    found = np.searchsorted(keys, pixels).clip(max=len(keys) - 1)
    return ids[found], np.unique(pixels[keys[found] != pixels])


def read_packed(path: Path) -> NDArray[np.int64]:
    """Return ``(H, W)`` numbers ``R + 256 G + 65536 B`` of a mask file that holds colours."""
    colors = read_image(path, 3).astype(np.int64)
    packed: NDArray[np.int64] = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    return packed

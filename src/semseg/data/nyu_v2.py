"""NYU Depth v2, the 40 classes of Gupta et al., colour images.

Layout, as Gupta et al. and the authors of FCN publish it::

    data/images/img_5001.png …   segmentation/img_5001.mat …   {train,val,test}.txt

or the original ``nyu_depth_v2_labeled.mat`` with ``splits.mat`` and ``classMapping40.mat``, which
takes the package h5py.

Encoding: 0 is void and counts for nothing, 1 to 40 are the classes. In the original file 894 labels
are stored, which ``classMapping40.mat`` maps to the 40.

Splits: officially 795 for training and 654 for testing, whose labels are public. The lists part the
former into train 381 and val 414; with ``whole_train`` train is both. From the original file every
fifth run of 50 training images is val.

Licence: none stated, used for research.

Citation: Silberman, Hoiem, Kohli, Fergus: Indoor segmentation and support inference from RGBD
images. ECCV 2012. Classes: Gupta, Arbelaez, Malik: Perceptual organization and recognition of
indoor scenes from RGB-D images. CVPR 2013.

Source: https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html; with 40 classes:
http://dl.caffe.berkeleyvision.org/nyud.tar.gz
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError
from semseg.data.base import digest, register_dataset
from semseg.data.mat import read_mat
from semseg.data.pairs import Pair
from semseg.data.public import (
    HeldOutSettings,
    PublicDataset,
    class_table,
    find_file,
    find_folder,
    read_list,
)

_FILE = "nyu_depth_v2_labeled.mat"
_BLOCK = 50
_OFFICIAL = {"train": 795, "test": 654}


@register_dataset(
    "nyu_v2",
    HeldOutSettings,
    title="NYU Depth v2, 40 classes, colour images",
    classes=40,
    licence="none stated, used for research",
    citation=(
        "Silberman, Hoiem, Kohli, Fergus: Indoor segmentation and support inference from RGBD "
        "images. ECCV 2012"
    ),
    source="http://dl.caffe.berkeleyvision.org/nyud.tar.gz",
    layout="data/images/, segmentation/, {train,val,test}.txt, or nyu_depth_v2_labeled.mat",
    splits=("train", "val", "test"),
    counts={"train": 381, "val": 414, "test": 654},
)
class NYUv2(PublicDataset):
    """One split of NYU Depth v2.

    An image of the original file has the path ``nyu_depth_v2_labeled.mat/0001``.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        root: the folder with ``data``, ``segmentation`` and the lists, or with the original file.
        settings: what train holds.

    Raises:
        FileError: a file is missing; the message says where to get it.
        InputError: the original file is there and h5py is not.
    """

    def __init__(self, split: str, root: Path, settings: HeldOutSettings) -> None:
        self.file = root / _FILE if (root / _FILE).is_file() else None
        self.mapping: NDArray[np.uint8] | None = None
        if self.file is None:
            pairs, notes = _listed(root, split, settings.whole_train)
            official = _OFFICIAL["train"] if settings.whole_train and split == "train" else None
        else:
            _check_h5py(self.file)
            self.mapping = _mapping(find_file("nyu_v2", root / "classMapping40.mat"))
            pairs = _indexed(self.file, find_file("nyu_v2", root / "splits.mat"), split)
            official, notes = _OFFICIAL[split if split == "test" else "train"], ()
            if split != "test":
                pairs, notes = settings.part(pairs, split, _BLOCK), settings.notes
                if not settings.whole_train or split == "val":
                    official = {"train": 645, "val": 150}[split]
        labels = class_table("nyu40")
        super().__init__("nyu_v2", split, root, pairs, labels, official=official, notes=notes)

    def check(self, name: str) -> None:
        """Images of the original file were counted; only single files can be missing."""
        if self.file is None:
            super().check(name)

    def read_image(self, file: Path) -> NDArray[np.uint8]:
        """Return a colour image; the original file holds it as columns of channels."""
        if self.file is None:
            return super().read_image(file)
        image: NDArray[np.uint8] = _read(self.file, "images", file).transpose(2, 1, 0)
        return np.ascontiguousarray(image)

    def read_ids(self, file: Path) -> NDArray[Any]:
        """Return 0 to 40; the 894 labels of the original file are mapped to them."""
        if self.file is None or self.mapping is None:
            return read_mat(file, "segmentation").astype(np.uint16)
        ids = _read(self.file, "labels", file).T
        if ids.max() >= len(self.mapping):
            raise InputError(
                f"{file}: holds the id {ids.max()}, but classMapping40.mat ends at "
                f"{len(self.mapping) - 1}; copy both again"
            )
        mapped: NDArray[Any] = self.mapping[ids]
        return mapped

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, file sizes, positions and the label map."""
        if self.file is None or self.mapping is None:
            return super().fingerprint()
        parts = [self.file.name, self.file.stat().st_size, self.mapping.tolist()]
        return digest([*parts, [image.name for image, _ in self.pairs]], self.labels)


def _listed(root: Path, split: str, whole: bool) -> tuple[list[Pair], tuple[str, ...]]:
    """Return the pairs of the lists of Gupta et al., and what to know about them."""
    images = find_folder("nyu_v2", root / "data/images")
    masks = find_folder("nyu_v2", root / "segmentation")
    notes: tuple[str, ...] = ("train and val are two parts of the official 795 training images",)
    parts = [split]
    if split == "test":
        notes = ()
    elif whole:
        notes = ("whole_train is set, so train holds the images of val too",)
        parts = ["train", "val"] if split == "train" else parts
    names = [name for part in parts for name in read_list("nyu_v2", root / f"{part}.txt")]
    return [(images / f"img_{n}.png", masks / f"img_{n}.mat") for n in names], notes


def _check_h5py(file: Path) -> None:
    try:
        import_module("h5py")
    except ImportError as error:
        raise InputError(
            f"{file} is a MATLAB 7.3 file, which takes the package h5py; install it with "
            "pip install h5py, or use http://dl.caffe.berkeleyvision.org/nyud.tar.gz"
        ) from error


def _indexed(file: Path, splits: Path, split: str) -> list[Pair]:
    """Return a path for each image of a split: the file and the position, counted from 1."""
    variable = "testNdxs" if split == "test" else "trainNdxs"
    numbers = read_mat(splits, variable).astype(int).flatten()
    return [(file / f"{n:04}", file / f"{n:04}") for n in numbers.tolist()]


def _mapping(path: Path) -> NDArray[np.uint8]:
    """Return the class of each of the 894 labels, and 0 for 0."""
    return np.concatenate([[0], read_mat(path, "mapClass").flatten()]).astype(np.uint8)


def _read(file: Path, variable: str, place: Path) -> NDArray[Any]:
    """Return one entry of a variable; the file is opened anew, so that workers share nothing."""
    try:
        with import_module("h5py").File(file, "r") as opened:
            entry: NDArray[Any] = opened[variable][int(place.name) - 1]
            return entry
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise FileError(f"{place} cannot be read: {error}; copy the file again") from error

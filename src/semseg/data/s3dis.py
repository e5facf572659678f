"""S3DIS: 272 rooms of six areas of Stanford's buildings, scanned, 13 classes.

Layout of Stanford3dDataset_v1.2_Aligned_Version, below the root::

    Area_{1…6}/<room>/Annotations/<class>_<number>.txt

or that of the authors of Point Transformer (``trainval_fullarea``), which is read much faster::

    Area_{1…6}_<room>.npy

Encoding: a text file for each object, a line for each point: x y z in metres, r g b from 0 to 255.
Class names stand in the file names; ``stairs``, and any other name, is clutter, as in the code of
PointNet (Qi et al.). Arrays are ``(N, 7)``: x y z r g b and the class.

Splits: one area is val, by custom the fifth, the other five are train; the area is a setting, for
the six folds. With area 5, train 204, val 68.

Licence: terms of use of Stanford University, for research; accepted before the download.

Citation: Armeni, Sener, Zamir, Jiang, Brilakis, Fischer, Savarese: 3D Semantic Parsing of
Large-Scale Indoor Spaces. CVPR 2016.

Source: http://buildingparser.stanford.edu/dataset.html, after a form
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semseg.core.checks import FileError, InputError
from semseg.core.labels import Label, LabelMap
from semseg.data.base import DatasetSettings, Sample, digest, register_dataset
from semseg.data.clouds import CloudDataset, cloud_sample
from semseg.data.public import missing

_CLASSES = {
    "ceiling": (0, 255, 0),
    "floor": (0, 0, 255),
    "wall": (0, 255, 255),
    "beam": (255, 255, 0),
    "column": (255, 0, 255),
    "window": (100, 100, 255),
    "door": (200, 200, 100),
    "chair": (255, 0, 0),
    "table": (170, 120, 200),
    "bookcase": (10, 200, 100),
    "sofa": (200, 100, 100),
    "board": (200, 200, 200),
    "clutter": (50, 50, 50),
}

LABELS = LabelMap(
    tuple(Label(name, i, i, color) for i, (name, color) in enumerate(_CLASSES.items()))
)
"""In the order of Point Transformer's code, in the colours of PointNet's."""

_AREAS = range(1, 7)


class S3DISSettings(DatasetSettings):
    """What can be said about S3DIS."""

    area: Annotated[int, Field(ge=1, le=6)] = 5
    """The area that is validated on; the others are trained on."""

    voxel: Annotated[float, Field(gt=0)] = 0.04
    """Edge in metres of the cells of which a network sees one point each."""

    repeat: Annotated[int, Field(ge=1)] = 1
    """How often each room comes in an epoch of training, each time with other draws."""


@register_dataset(
    "s3dis",
    S3DISSettings,
    title="S3DIS, rooms as point clouds",
    classes=LABELS.num_classes,
    licence="terms of use of Stanford University, for research",
    citation=(
        "Armeni, Sener, Zamir, Jiang, Brilakis, Fischer, Savarese: 3D Semantic Parsing of "
        "Large-Scale Indoor Spaces. CVPR 2016"
    ),
    source="http://buildingparser.stanford.edu/dataset.html, after a form",
    layout="Area_{1…6}/<room>/Annotations/<class>_<number>.txt, or Area_{1…6}_<room>.npy",
    counts={"train": 204, "val": 68},
)
class S3DIS(CloudDataset):
    """The rooms of one split.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with the areas.
        settings: which area is val, and the grid.

    Raises:
        FileError: an area of the split, or the annotations of a room, are missing.
    """

    def __init__(self, split: str, root: Path, settings: S3DISSettings) -> None:
        self.labels = LABELS
        self.channels = 3
        self.split = split
        self.root = root
        self.voxel = settings.voxel
        areas = [i for i in _AREAS if (i == settings.area) == (split == "val")]
        self.rooms = [room for area in areas for room in _rooms(root, area)]
        self._repeat = settings.repeat if split == "train" else 1
        official = {"train": 204, "val": 68}[split]
        if settings.area == 5 and len(self.rooms) != official:
            self.notes = (
                f"s3dis {split} has {len(self.rooms)} rooms here, officially {official}; scores do "
                "not compare with published ones",
            )

    def __len__(self) -> int:
        """Return the number of rooms, each as often as it is repeated."""
        return len(self.rooms) * self._repeat

    def path(self, index: int) -> str:
        """Return the room's folder or file."""
        return str(self.rooms[index % len(self.rooms)])

    def __getitem__(self, index: int) -> Sample:
        """Read one room."""
        if not 0 <= index < len(self):
            raise IndexError(f"room {index} of {len(self)}")
        room = self.rooms[index % len(self.rooms)]
        values = _read_array(room) if room.suffix == ".npy" else _read_objects(room)
        return cloud_sample(values[:, :3], values[:, 3:6], values[:, 6].astype(np.uint8), str(room))

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, file sizes, repetitions and the label map."""
        files = [file for room in self.rooms for file in _files(room)]
        sizes = [(file.relative_to(self.root).as_posix(), file.stat().st_size) for file in files]
        return digest([*sizes, self._repeat], self.labels)


def _rooms(root: Path, area: int) -> list[Path]:
    """Return folders or arrays of one area's rooms, by name."""
    if arrays := sorted(root.glob(f"Area_{area}_*.npy")):
        return arrays
    folder = root / f"Area_{area}"
    if not folder.is_dir():
        raise missing("s3dis", f"folder {folder} does not exist, nor does {folder}_*.npy")
    rooms = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    for room in rooms:
        if not _files(room):
            raise missing("s3dis", f"{room / 'Annotations'} holds no *.txt")
    if not rooms:
        raise missing("s3dis", f"{folder} holds no rooms")
    return rooms


def _files(room: Path) -> list[Path]:
    return [room] if room.suffix == ".npy" else sorted((room / "Annotations").glob("*_*.txt"))


def _read_objects(room: Path) -> NDArray[np.float64]:
    """Return ``(N, 7)`` of all objects of a room."""
    parts = []
    for file in _files(room):
        name = re.sub(r"_\d*$", "", file.stem)
        number = LABELS.names.index(name if name in _CLASSES else "clutter")
        points = _read_text(file)
        parts.append(np.column_stack([points, np.full(len(points), number)]))
    return np.concatenate(parts)


def _read_text(file: Path) -> NDArray[np.float64]:
    try:
        points = np.loadtxt(file, dtype=np.float64, ndmin=2, comments=None)
    except ValueError as error:
        raise FileError(f"{file} cannot be read: {_wrong_line(file)}") from error
    if points.shape[1] != 6:
        raise FileError(f"{file} has {points.shape[1]} numbers in a line; wanted x y z r g b")
    return points


def _wrong_line(file: Path) -> str:
    """Say which line is wrong; one file of version 1.2 holds a control character."""
    with file.open(encoding="latin-1", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = [float(word) for word in line.split()]
            except ValueError:
                values = []
            if len(values) != 6:
                return (
                    f"line {number} is {line.rstrip()!r}; wanted six numbers x y z r g b. Mend it "
                    "by hand (version 1.2 has a stray character in Area_5/hallway_6)"
                )
    return "it holds no points; copy it again"


def _read_array(file: Path) -> NDArray[np.float64]:
    try:
        values: NDArray[np.float64] = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FileError(f"{file} cannot be read: {error}; copy it again") from error
    if values.ndim != 2 or values.shape[1] != 7:
        raise FileError(f"{file} has shape {values.shape}; wanted (N, 7): x y z r g b class")
    if not np.isin(values[:, 6], np.arange(LABELS.num_classes)).all():
        raise InputError(f"{file}: holds classes besides 0 … 12 in its last column")
    return values

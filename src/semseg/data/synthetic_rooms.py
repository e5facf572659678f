"""Rooms made from a seed: point clouds with exact labels and no files.

A room is a function of ``(seed, split, index)`` and of the settings alone. It is a box with a door,
tables, chairs and lamps of random sizes and places, sampled evenly over its surfaces, with noise.
Colours of the classes overlap: a table and a door are brown, walls and ceiling are light, so that a
point's class follows from where it lies among others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semseg.core.labels import Label, LabelMap
from semseg.data.base import DatasetSettings, Sample, digest, register_dataset
from semseg.data.clouds import CloudDataset, cloud_sample

_BUILDER = 1
"""Raised when the same seed gives another room."""

_LENGTHS = {"train": 100, "val": 20}
_NOISE = 0.004
"""Standard deviation of coordinates in metres."""

_CLASSES = {
    "ceiling": (0, 255, 0),
    "floor": (0, 0, 255),
    "wall": (0, 255, 255),
    "door": (200, 200, 100),
    "table": (170, 120, 200),
    "chair": (255, 0, 0),
    "lamp": (255, 255, 0),
}

LABELS = LabelMap(
    tuple(Label(name, i, i, color) for i, (name, color) in enumerate(_CLASSES.items()))
)

_COLORS = {
    "ceiling": ((236, 236, 230), (216, 220, 224)),
    "floor": ((150, 120, 90), (120, 120, 124), (176, 168, 150)),
    "wall": ((228, 224, 210), (200, 208, 216), (222, 206, 186)),
    "door": ((140, 100, 66), (206, 200, 190)),
    "table": ((146, 104, 70), (214, 208, 200), (90, 70, 56)),
    "chair": ((60, 60, 66), (150, 60, 54), (140, 100, 66)),
    "lamp": ((250, 246, 220), (220, 220, 214)),
}

Array = NDArray[np.float64]


class SyntheticRoomsSettings(DatasetSettings):
    """What the built-in rooms can vary."""

    points: Annotated[int, Field(ge=512)] = 8192
    """Points of a room."""

    length: Annotated[int, Field(ge=1)] | None = None
    """Number of rooms; 100 for train and 20 for val if left out."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed gives other rooms of the same kind."""

    voxel: Annotated[float, Field(gt=0)] = 0.04
    """Edge in metres of the cells of which a network sees one point each."""


@register_dataset(
    "synthetic_rooms",
    SyntheticRoomsSettings,
    title="Rooms made from a seed, as point clouds",
    classes=LABELS.num_classes,
    licence="Apache-2.0",
    citation=None,
    source="built in",
    layout=None,
)
class SyntheticRooms(CloudDataset):
    """Rooms; train and val never share one.

    Args:
        split: ``"train"`` or ``"val"``.
        root: not used; there are no files.
        settings: how many rooms of how many points.
    """

    def __init__(self, split: str, root: Path | None, settings: SyntheticRoomsSettings) -> None:
        self.labels = LABELS
        self.channels = 3
        self.split = split
        self.settings = settings
        self.voxel = settings.voxel

    def __len__(self) -> int:
        """Return the number of rooms."""
        return self.settings.length or _LENGTHS[self.split]

    def __getitem__(self, index: int) -> Sample:
        """Make one room."""
        if not 0 <= index < len(self):
            raise IndexError(f"room {index} of {len(self)}")
        settings = self.settings
        rng = np.random.default_rng((settings.seed, list(_LENGTHS).index(self.split), index))
        points, colors, ids = _furnished(rng).sampled(settings.points, rng)
        return cloud_sample(points, colors, ids, self.path(index))

    def path(self, index: int) -> str:
        """Return a name that tells seed, split and index."""
        return f"synthetic_rooms/{self.settings.seed}/{self.split}/{index:06d}"

    def fingerprint(self) -> str:
        """Return the SHA-256 over everything a room depends on, and the label map."""
        settings = self.settings.model_dump(exclude={"cache", "voxel"})
        return digest([_BUILDER, self.split, len(self), settings], self.labels)


@dataclass(slots=True)
class _Surfaces:
    """Parallelograms ``corner + u * first + v * second``, each of a class and a colour."""

    corners: list[Array] = field(default_factory=list)
    first: list[Array] = field(default_factory=list)
    second: list[Array] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    colors: list[Array] = field(default_factory=list)

    def add(self, name: str, color: Array, corner: Array, first: Array, second: Array) -> None:
        for held, value in (
            (self.corners, corner),
            (self.first, first),
            (self.second, second),
            (self.colors, color),
        ):
            held.append(np.asarray(value, np.float64))
        self.ids.append(LABELS.names.index(name))

    def box(self, name: str, color: Array, low: Array, size: Array) -> None:
        """Add the six sides of a box."""
        edges = np.diag(size)
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            self.add(name, color, low, edges[j], edges[k])
            self.add(name, color, low + edges[i], edges[j], edges[k])

    def sampled(
        self, count: int, rng: np.random.Generator
    ) -> tuple[Array, Array, NDArray[np.uint8]]:
        """Return points, colours and ids: evenly by area, but small things have some points too."""
        first, second = np.array(self.first), np.array(self.second)
        area = np.linalg.norm(np.cross(first, second), axis=1)
        share = np.sqrt(area) * (0.2 + np.sqrt(area))
        of = rng.choice(len(area), count, p=share / share.sum())
        u, v = rng.random((2, count, 1))
        points = np.array(self.corners)[of] + u * first[of] + v * second[of]
        points += rng.normal(0, _NOISE, points.shape)
        shade = rng.uniform(0.9, 1.05) + 0.02 * rng.standard_normal((count, 1))
        colors = np.array(self.colors)[of] * shade + rng.normal(0, 5, (count, 3))
        return points, colors.clip(0, 255).round(), np.array(self.ids, np.uint8)[of]


def _furnished(rng: np.random.Generator) -> _Surfaces:
    """Return a room with what stands and hangs in it."""
    surfaces = _Surfaces()
    paint = {name: _pick(rng, name) for name in _COLORS}
    length, width, height = size = rng.uniform((3, 2.6, 2.3), (7, 5, 3.2))
    x, y, z = np.diag(size)
    zero = np.zeros(3)
    surfaces.add("floor", paint["floor"], zero, x, y)
    surfaces.add("ceiling", paint["ceiling"], z, x, y)
    for corner, along in ((zero, x), (y, x), (zero, y), (x, y)):
        surfaces.add("wall", paint["wall"], corner, along, z)
    door = np.array([0.8, 0.05, 2.05])
    surfaces.box("door", paint["door"], np.array([rng.uniform(0.1, length - 1), 0.02, 0]), door)
    for _ in range(rng.integers(1, 4)):
        top = np.array([*rng.uniform((0.8, 0.6), (1.6, 0.9)), 0.04])
        low = np.array([rng.uniform(0.1, length - top[0]), rng.uniform(0.5, width - top[1]), 0.72])
        surfaces.box("table", paint["table"], low, top)
        for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
            leg = low[:2] + np.array(corner) * (top[:2] - 0.06)
            surfaces.box("table", paint["table"], np.array([*leg, 0]), np.array([0.06, 0.06, 0.72]))
        _chair(surfaces, _pick(rng, "chair"), low + np.array([top[0] * rng.random(), -0.45, 0]))
        lamp = np.array([low[0], low[1], height - rng.uniform(0.15, 0.5)])
        surfaces.box("lamp", paint["lamp"], lamp, np.array([0.5, 0.2, 0.1]))
    return surfaces


def _chair(surfaces: _Surfaces, color: Array, at: Array) -> None:
    """Add a seat, its back and a column below it."""
    x, y = at[0], at[1]
    surfaces.box("chair", color, np.array([x, y, 0.42]), np.array([0.42, 0.42, 0.05]))
    surfaces.box("chair", color, np.array([x, y, 0.47]), np.array([0.42, 0.05, 0.45]))
    surfaces.box("chair", color, np.array([x + 0.18, y + 0.18, 0]), np.array([0.06, 0.06, 0.42]))


def _pick(rng: np.random.Generator, name: str) -> Array:
    colors = np.array(_COLORS[name], np.float64)
    return np.asarray(colors[rng.integers(len(colors))] + rng.normal(0, 8, 3))

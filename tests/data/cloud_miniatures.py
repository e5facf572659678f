"""Miniatures of the datasets that hold point clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

OBJECTS = ("ceiling_1", "chair_1", "chair_12", "table_1", "stairs_1", "clutter_2")


def points(number: int) -> np.ndarray:
    """Return three points, x y z r g b, that tell the number."""
    return np.array([[number, i / 4, -1.25, 10 * i, number, 255] for i in range(3)])


def s3dis(root: Path) -> Path:
    """Write a room of each area, two of the fifth; object i of area k holds number 10 k + i."""
    for area in range(1, 7):
        for room in ("office_1", "hallway_6")[: 1 + (area == 5)]:
            folder = root / f"Area_{area}" / room / "Annotations"
            folder.mkdir(parents=True)
            (folder.parent / f"{room}.txt").write_text("not read")
            for i, name in enumerate(OBJECTS):
                np.savetxt(folder / f"{name}.txt", points(10 * area + i), fmt="%g")
        (root / f"Area_{area}" / ".DS_Store").write_text("not read")
    return root


CLOUDS = {"s3dis": s3dis, "synthetic_rooms": lambda root: None}
"""What writes a miniature below a folder and gives its root, by name."""

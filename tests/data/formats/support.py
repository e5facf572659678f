"""Label maps and masks that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semseg.core.labels import Label, LabelMap
from semseg.data.formats import Annotation, Mask, label_format

PLAIN = LabelMap(
    (
        Label("background", 0, 0, (0, 0, 0)),
        Label("leaf", 3, 1, (10, 200, 30)),
        Label("stem", 200, 2, (1, 2, 3)),
        Label("void", 255, None, (255, 255, 255)),
    )
)
WIDE = LabelMap(  # ids of 16 bits, merged classes, no background and nothing ignored
    (
        Label("a", 3, 0, (9, 8, 7)),
        Label("b", 700, 1, (1, 2, 3)),
        Label("c", 65535, 1, (1, 2, 4)),
    )
)
IGNORING = LabelMap(  # no background: what no shape covers is "edge"
    (
        Label("a", 1, 0, (9, 8, 7)),
        Label("b", 7, 1, (1, 2, 3)),
        Label("edge", 8, None, (1, 2, 4)),
        Label("crowd", 9, None, (1, 2, 5)),
    )
)
MAPS = {"plain": PLAIN, "wide": WIDE, "ignoring": IGNORING}

RINGS = np.array(  # rings in rings, a part in a hole, pixels that touch in a corner
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 1, 1, 2],
        [0, 1, 2, 2, 2, 2, 2, 1, 2],
        [0, 1, 2, 0, 0, 0, 2, 1, 0],
        [0, 1, 2, 0, 1, 0, 2, 1, 0],
        [0, 1, 2, 0, 0, 1, 2, 1, 0],
        [0, 1, 2, 2, 2, 2, 2, 1, 2],
        [0, 1, 1, 1, 1, 1, 1, 1, 0],
        [3, 0, 3, 0, 2, 2, 0, 1, 0],
    ]
)


def write(kind: str, folder: Path, masks: list[Mask], labels: LabelMap) -> list[Annotation]:
    """Write masks in a format and return what is read back, one entry for each."""
    entry = label_format(kind)
    suffix = entry.suffixes[0]
    if entry.many:
        entry.write(folder / f"all{suffix}", masks, labels, None)
        return list(entry.read(folder / f"all{suffix}"))
    found: list[Annotation] = []
    for i, mask in enumerate(masks):
        entry.write(folder / f"{i}{suffix}", [mask], labels, None)
        found.extend(entry.read(folder / f"{i}{suffix}"))
    return found

"""Mapillary Vistas, version 1.2 or 2.0 of its classes.

Layout::

    {training,validation}/images/*.jpg
    {training,validation}/v1.2/labels/*.png   {training,validation}/v2.0/labels/*.png
    config_v1.2.json   config_v2.0.json

and the older release, which has ``labels`` beside ``images`` and ``config.json``, for v1.2.

Encoding: palette PNG; an index is the position in the list ``labels`` of the version's JSON. Names,
colours and what is evaluated are read from that JSON, so they are always those of your files;
labels that are not evaluated count for nothing. It has 66 entries in v1.2 and 124 in v2.0.

Splits: train 18,000, val 2,000. The labels of the test split are not public.

Licence: CC BY-NC-SA 4.0.

Citation: Neuhold, Ollmann, Rota Bulo, Kontschieder: The Mapillary Vistas dataset for semantic
understanding of street scenes. ICCV 2017.

Source: https://www.mapillary.com/dataset/vistas
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Literal

from semseg.core.checks import FileError
from semseg.core.labels import Label, LabelMap
from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.public import PublicDataset, find_file, find_folder, find_pairs

_FOLDERS = {"train": "training", "val": "validation"}
_ENTRIES = {"v1.2": 66, "v2.0": 124}


class MapillaryVistasSettings(DatasetSettings):
    """What can be said about Mapillary Vistas."""

    version: Literal["v1.2", "v2.0"] = "v1.2"
    """Which classes; the images are the same."""


@register_dataset(
    "mapillary_vistas",
    MapillaryVistasSettings,
    title="Mapillary Vistas, classes of v1.2 or v2.0",
    classes=None,
    licence="CC BY-NC-SA 4.0",
    citation=(
        "Neuhold, Ollmann, Rota Bulo, Kontschieder: The Mapillary Vistas dataset for semantic "
        "understanding of street scenes. ICCV 2017"
    ),
    source="https://www.mapillary.com/dataset/vistas",
    layout="training/, validation/, config_v1.2.json, config_v2.0.json",
    counts={"train": 18000, "val": 2000},
)
class MapillaryVistas(PublicDataset):
    """One split of Mapillary Vistas.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with ``training``, ``validation`` and the JSON files.
        settings: which version of the classes.

    Raises:
        FileError: a file is missing or its JSON is not that of Mapillary Vistas.
    """

    def __init__(self, split: str, root: Path, settings: MapillaryVistasSettings) -> None:
        version, part = settings.version, root / _FOLDERS[split]
        images = find_folder("mapillary_vistas", part / "images")
        places, configs = [part / version / "labels"], [root / f"config_{version}.json"]
        if version == "v1.2":
            places.append(part / "labels")
            configs.append(root / "config.json")
        masks = find_folder("mapillary_vistas", *places)
        config = find_file("mapillary_vistas", *configs)
        labels = read_labels(config)
        notes: tuple[str, ...] = ()
        if len(labels.labels) != _ENTRIES[version]:
            notes = (
                f"{config} has {len(labels.labels)} labels, officially {_ENTRIES[version]}; scores "
                "cannot be compared with published ones",
            )
        pairs = find_pairs(
            "mapillary_vistas", images, "*.jpg", lambda file: masks / f"{file.stem}.png"
        )
        super().__init__("mapillary_vistas", split, root, pairs, labels, notes=notes)


def read_labels(path: Path) -> LabelMap:
    """Return the label map of a ``config_….json`` of the dataset.

    Raises:
        FileError: it is not JSON, or lacks what belongs there.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["labels"]
        readable = Counter(entry["readable"] for entry in entries)
        labels: list[Label] = []
        classes = 0
        for raw, entry in enumerate(entries):
            # two labels may read alike; the long name tells them apart
            name = entry["readable"] if readable[entry["readable"]] == 1 else entry["name"]
            red, green, blue = entry["color"]
            train = classes if entry["evaluate"] else None
            classes += train is not None
            labels.append(Label(name, raw, train, (red, green, blue)))
        return LabelMap(tuple(labels))
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path} is not a config of Mapillary Vistas: {error!r}; copy it again"
        ) from error

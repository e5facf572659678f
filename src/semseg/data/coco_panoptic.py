"""COCO panoptic, read as semantic segmentation: the category of each segment.

Layout::

    images/train2017/*.jpg   (or train2017/*.jpg)
    annotations/panoptic_train2017.json   annotations/panoptic_train2017/*.png
    and the same for val2017

Encoding: the colour of a pixel is its segment, ``R + 256 G + 65536 B``; the JSON says the category
of each segment. 0 belongs to no segment and counts for nothing. Crowds keep their category.

Splits: train 118,287, val 5,000.

Licence: annotations CC BY 4.0, images under Flickr's terms of use.

Citation: Kirillov, He, Girshick, Rother, Dollar: Panoptic segmentation. CVPR 2019.

Source: https://cocodataset.org/#download, "2017 Panoptic Train/Val annotations"
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError
from semseg.core.labels import LabelMap
from semseg.data.base import DatasetSettings, digest, register_dataset
from semseg.data.pairs import Pair
from semseg.data.public import (
    PublicDataset,
    class_table,
    find_file,
    find_folder,
    look_up,
    read_packed,
)


@register_dataset(
    "coco_panoptic",
    DatasetSettings,
    title="COCO panoptic as semantic, 133 classes",
    classes=133,
    licence="CC BY 4.0",
    citation="Kirillov, He, Girshick, Rother, Dollar: Panoptic segmentation. CVPR 2019",
    source="https://cocodataset.org/#download",
    layout="images/{train,val}2017/, annotations/panoptic_{train,val}2017.json and folders",
    counts={"train": 118287, "val": 5000},
)
class COCOPanoptic(PublicDataset):
    """One split of COCO panoptic.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with ``annotations`` and the images.
        settings: nothing beyond what every dataset has.

    Raises:
        FileError: a file is missing or is not JSON; the message says where to get it.
        InputError: the JSON's categories are not those of COCO panoptic.
    """

    def __init__(self, split: str, root: Path, settings: DatasetSettings) -> None:
        part = f"{split}2017"
        images = find_folder("coco_panoptic", root / "images" / part, root / part)
        listed = find_file("coco_panoptic", root / "annotations" / f"panoptic_{part}.json")
        masks = find_folder("coco_panoptic", root / "annotations" / f"panoptic_{part}")
        labels = class_table("coco_panoptic")
        entries = _entries(listed, labels)
        pairs: list[Pair] = []
        segments: list[tuple[int, int]] = []
        self._starts = [0]
        for entry in entries:
            mask = masks / entry["file_name"]
            pairs.append((images / f"{mask.stem}.jpg", mask))
            segments += sorted((s["id"], s["category_id"]) for s in entry["segments_info"])
            self._starts.append(len(segments))
        # one flat array, which loader workers share
        self._segments = np.array(segments, dtype=np.int64).reshape(-1, 2)
        self._places = {mask.name: place for place, (_, mask) in enumerate(pairs)}
        super().__init__("coco_panoptic", split, root, pairs, labels)

    def read_ids(self, file: Path) -> NDArray[Any]:
        """Return the category of each pixel's segment, 0 where there is none."""
        place = self._places[file.name]
        segments = self._segments[self._starts[place] : self._starts[place + 1]]
        ids, categories = np.vstack([[0, 0], segments]).T
        mask, wrong = look_up(read_packed(file), ids, categories.astype(np.uint8))
        if wrong.size:
            shown = ", ".join(map(str, wrong[:8]))
            raise InputError(
                f"{file}: holds the segments {shown}, which the JSON does not list for it; it "
                "belongs to another JSON or was not saved losslessly"
            )
        return mask

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, file sizes, segments and the label map."""
        segments = hashlib.sha256(self._segments.tobytes()).hexdigest()
        return digest([super().fingerprint(), segments], self.labels)


def _entries(path: Path, labels: LabelMap) -> list[dict[str, Any]]:
    """Return the annotations of a panoptic JSON in the order of their files."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        entries = sorted(data["annotations"], key=lambda entry: str(entry["file_name"]))
        categories = {c["id"]: c["name"] for c in data["categories"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is not a COCO panoptic file: {error!r}; copy it again") from error
    known = {label.raw_id: label.name for label in labels.classes}
    if foreign := {i: name for i, name in categories.items() if known.get(i) != name}:
        i, name = next(iter(foreign.items()))
        raise InputError(
            f"{path}: category {i} is {name!r}, but COCO panoptic has {known.get(i)!r} there; "
            "convert your own panoptic data to id masks and use the dataset 'folder'"
        )
    return entries

"""COCO-Stuff 164k: things and stuff of the COCO 2017 images.

Layout::

    images/train2017/*.jpg        images/val2017/*.jpg
    annotations/train2017/*.png   annotations/val2017/*.png   (stuffthingmaps_trainval2017.zip)

Encoding: grey PNG; the number in labels.txt minus one, 0 to 181, and 255 for unlabeled. Eleven of
the numbers were never annotated, so 171 classes are left; such an id in a file is an error.

Splits: train 118,287, val 5,000.

Licence: annotations CC BY 4.0, images under Flickr's terms of use.

Citation: Caesar, Uijlings, Ferrari: COCO-Stuff: Thing and stuff classes in context. CVPR 2018.

Source: https://github.com/nightrome/cocostuff
"""

from __future__ import annotations

from pathlib import Path

from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.public import PublicDataset, class_table, find_folder, find_pairs


@register_dataset(
    "coco_stuff",
    DatasetSettings,
    title="COCO-Stuff 164k, 171 classes",
    classes=171,
    licence="CC BY 4.0",
    citation="Caesar, Uijlings, Ferrari: COCO-Stuff: Thing and stuff classes in context. CVPR 2018",
    source="https://github.com/nightrome/cocostuff",
    layout="images/{train,val}2017/, annotations/{train,val}2017/",
    counts={"train": 118287, "val": 5000},
)
class COCOStuff(PublicDataset):
    """One split of COCO-Stuff.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with ``images`` and ``annotations``; ``stuffthingmaps`` is also taken for
            the latter, and image folders may lie at the top.
        settings: nothing beyond what every dataset has.

    Raises:
        FileError: a file is missing; the message says where to get it.
    """

    def __init__(self, split: str, root: Path, settings: DatasetSettings) -> None:
        part = f"{split}2017"
        images = find_folder("coco_stuff", root / "images" / part, root / part)
        masks = find_folder(
            "coco_stuff", root / "annotations" / part, root / "stuffthingmaps" / part
        )
        pairs = find_pairs("coco_stuff", images, "*.jpg", lambda file: masks / f"{file.stem}.png")
        super().__init__("coco_stuff", split, root, pairs, class_table("coco_stuff"))

"""ADE20K in the form of the scene parsing benchmark: 150 classes.

Layout: the folder ``ADEChallengeData2016``::

    images/{training,validation}/*.jpg   annotations/{training,validation}/*.png

Encoding: grey PNG; 1 to 150 are the classes, in the order of their share of pixels, and 0 is
everything else, which counts for nothing ("reduce zero label").

Splits: train 20,210, val 2,000. The labels of the test split are not public.

Licence: BSD 3-clause for the annotations, images for non-commercial research.

Citation: Zhou, Zhao, Puig, Fidler, Barriuso, Torralba: Scene parsing through ADE20K dataset. CVPR
2017.

Source: http://sceneparsing.csail.mit.edu/, ADEChallengeData2016.zip
"""

from __future__ import annotations

from pathlib import Path

from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.public import PublicDataset, class_table, find_folder, find_pairs

_FOLDERS = {"train": "training", "val": "validation"}


@register_dataset(
    "ade20k",
    DatasetSettings,
    title="ADE20K scene parsing, 150 classes",
    classes=150,
    licence="BSD 3-clause",
    citation=(
        "Zhou, Zhao, Puig, Fidler, Barriuso, Torralba: Scene parsing through ADE20K dataset. "
        "CVPR 2017"
    ),
    source="http://sceneparsing.csail.mit.edu/",
    layout="images/{training,validation}/, annotations/{training,validation}/",
    counts={"train": 20210, "val": 2000},
)
class ADE20K(PublicDataset):
    """One split of ADE20K.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder ``ADEChallengeData2016``, or the one above it.
        settings: nothing beyond what every dataset has.

    Raises:
        FileError: a file is missing; the message says where to get it.
    """

    def __init__(self, split: str, root: Path, settings: DatasetSettings) -> None:
        part = _FOLDERS[split]
        inner = root / "ADEChallengeData2016"
        images = find_folder("ade20k", root / "images" / part, inner / "images" / part)
        base = images.parents[1]
        masks = find_folder("ade20k", base / "annotations" / part)
        pairs = find_pairs("ade20k", images, "*.jpg", lambda file: masks / f"{file.stem}.png")
        super().__init__("ade20k", split, base, pairs, class_table("ade20k"))

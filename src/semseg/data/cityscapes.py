"""Cityscapes, with fine or coarse annotations.

Layout::

    leftImg8bit/{train,val,train_extra}/CITY/CITY_SEQ_FRAME_leftImg8bit.png
    gtFine/{train,val}/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png
    gtCoarse/{train,val,train_extra}/CITY/CITY_SEQ_FRAME_gtCoarse_labelIds.png

Encoding: grey PNG of label ids 0 to 33, of which 19 are classes and the others count for nothing.
Predictions written back carry label ids, which is what the server wants.

Splits: train 2,975, val 500; coarse also train_extra 19,998. The labels of the test split are not
public; its files hold nothing but ignored ids, so it is not offered.

Licence: the Cityscapes terms, non-commercial use.

Citation: Cordts, Omran, Ramos, Rehfeld, Enzweiler, Benenson, Franke, Roth, Schiele: The Cityscapes
dataset for semantic urban scene understanding. CVPR 2016.

Source: https://www.cityscapes-dataset.com/downloads/, leftImg8bit_trainvaltest.zip and
gtFine_trainvaltest.zip; coarse: leftImg8bit_trainextra.zip and gtCoarse.zip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from semseg.core.checks import InputError
from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.public import PublicDataset, class_table, find_folder, find_pairs


class CityscapesSettings(DatasetSettings):
    """What can be said about Cityscapes."""

    annotations: Literal["fine", "coarse"] = "fine"
    """Which polygons the masks were drawn from."""


@register_dataset(
    "cityscapes",
    CityscapesSettings,
    title="Cityscapes, 19 classes, fine or coarse",
    classes=19,
    licence="the Cityscapes terms, non-commercial use",
    citation=(
        "Cordts, Omran, Ramos, Rehfeld, Enzweiler, Benenson, Franke, Roth, Schiele: The Cityscapes "
        "dataset for semantic urban scene understanding. CVPR 2016"
    ),
    source="https://www.cityscapes-dataset.com/downloads/",
    layout="leftImg8bit/, gtFine/ or gtCoarse/",
    splits=("train", "val", "train_extra"),
    counts={"train": 2975, "val": 500, "train_extra": 19998},
)
class Cityscapes(PublicDataset):
    """One split of Cityscapes.

    Args:
        split: ``"train"``, ``"val"`` or, with coarse annotations, ``"train_extra"``.
        root: the folder with ``leftImg8bit`` and ``gtFine`` or ``gtCoarse``.
        settings: which annotations.

    Raises:
        FileError: a file is missing; the message says where to get it.
        InputError: train_extra is wanted with fine annotations.
    """

    def __init__(self, split: str, root: Path, settings: CityscapesSettings) -> None:
        if split == "train_extra" and settings.annotations == "fine":
            raise InputError(
                "cityscapes train_extra has coarse annotations only; set annotations: coarse"
            )
        images = find_folder("cityscapes", root / "leftImg8bit" / split)
        kind = f"gt{settings.annotations.capitalize()}"
        masks = find_folder("cityscapes", root / kind / split)

        def mask_of(image: Path) -> Path:
            frame = image.name.removesuffix("_leftImg8bit.png")
            return masks / image.parent.name / f"{frame}_{kind}_labelIds.png"

        pairs = find_pairs("cityscapes", images, "*/*_leftImg8bit.png", mask_of)
        super().__init__("cityscapes", split, root, pairs, class_table("cityscapes"))

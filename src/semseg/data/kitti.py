"""KITTI semantic segmentation, with the labels of Cityscapes.

Layout: ``data_semantics``::

    training/image_2/000000_10.png …   training/semantic/000000_10.png …

Encoding: grey PNG of Cityscapes' label ids, of which 19 are classes and the others count for
nothing.

Splits: 200 labelled images, of which the last 40 are val. The labels of the test split are not
public.

Licence: CC BY-NC-SA 3.0.

Citation: Alhaija, Mustikovela, Mescheder, Geiger, Rother: Augmented reality meets computer vision:
Efficient data generation for urban driving scenes. IJCV 126(9), 2018.

Source: https://www.cvlibs.net/datasets/kitti/eval_semseg.php?benchmark=semantics2015
"""

from __future__ import annotations

from pathlib import Path

from semseg.data.base import register_dataset
from semseg.data.public import HeldOutSettings, PublicDataset, class_table, find_folder, find_pairs


@register_dataset(
    "kitti",
    HeldOutSettings,
    title="KITTI semantics, the 19 classes of Cityscapes",
    classes=19,
    licence="CC BY-NC-SA 3.0",
    citation=(
        "Alhaija, Mustikovela, Mescheder, Geiger, Rother: Augmented reality meets computer vision: "
        "Efficient data generation for urban driving scenes. IJCV 126(9), 2018"
    ),
    source="https://www.cvlibs.net/datasets/kitti/eval_semseg.php?benchmark=semantics2015",
    layout="training/image_2/, training/semantic/",
    counts={"train": 160, "val": 40},
)
class KITTI(PublicDataset):
    """One split of the labelled images of KITTI.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with ``training``, or the one above ``data_semantics``.
        settings: what train holds.

    Raises:
        FileError: a file is missing; the message says where to get it.
    """

    def __init__(self, split: str, root: Path, settings: HeldOutSettings) -> None:
        images = find_folder(
            "kitti", root / "training/image_2", root / "data_semantics/training/image_2"
        )
        masks = find_folder("kitti", images.parent / "semantic")
        pairs = find_pairs("kitti", images, "*_10.png", lambda file: masks / file.name)
        official = 200 if settings.whole_train and split == "train" else None
        super().__init__(
            "kitti",
            split,
            images.parents[1],
            settings.part(pairs, split),
            class_table("cityscapes"),
            official=official,
            notes=settings.notes,
        )

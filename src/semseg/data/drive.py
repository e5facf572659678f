"""DRIVE: vessels in photographs of the retina.

Layout::

    training/images/21_training.tif … 40_training.tif
    training/1st_manual/21_manual1.gif …
    training/mask/21_training_mask.gif …
    test/ alike, with 01_test.tif … 20_test.tif and 01_test_mask.gif …

Encoding: GIF of 0 for background and 255 for vessel. ``mask`` holds the round field of view, 255
inside; scores are taken inside only, so pixels outside count for nothing.

Splits: 20 training images, of which the last four are val, and 20 test images, whose first
observer is in the original release and not in the one of the Grand Challenge page.

Licence: research and education, no redistribution.

Citation: Staal, Abramoff, Niemeijer, Viergever, van Ginneken: Ridge-based vessel segmentation in
color images of the retina. IEEE Transactions on Medical Imaging 23(4), 2004.

Source: https://drive.grand-challenge.org/
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from semseg.core.checks import InputError
from semseg.core.labels import Label, LabelMap
from semseg.data.base import digest, register_dataset
from semseg.data.images import read_mask
from semseg.data.public import (
    HeldOutSettings,
    PublicDataset,
    check_pairs,
    find_folder,
    find_pairs,
)

_OUTSIDE = 1  # not a value of the files: what pixels outside the field of view become

LABELS = LabelMap(
    (
        Label("background", 0, 0, (0, 0, 0)),
        Label("vessel", 255, 1, (255, 255, 255)),
        Label("outside the field of view", _OUTSIDE, None, (0, 0, 0)),
    )
)
"""Background and vessel; outside the field of view nothing counts."""


class DRIVESettings(HeldOutSettings):
    """What can be said about DRIVE."""

    field_of_view: bool = True
    """Leave pixels outside the field of view out of loss and scores."""


@register_dataset(
    "drive",
    DRIVESettings,
    title="DRIVE, retinal vessels",
    classes=LABELS.num_classes,
    licence="research and education, no redistribution",
    citation=(
        "Staal, Abramoff, Niemeijer, Viergever, van Ginneken: Ridge-based vessel segmentation in "
        "color images of the retina. IEEE Transactions on Medical Imaging 23(4), 2004"
    ),
    source="https://drive.grand-challenge.org/",
    layout="training/{images,1st_manual,mask}/, test/ alike",
    splits=("train", "val", "test"),
    counts={"train": 16, "val": 4, "test": 20},
)
class DRIVE(PublicDataset):
    """One split of DRIVE.

    Args:
        split: ``"train"``, ``"val"`` or, where its labels are, ``"test"``.
        root: the folder with ``training``.
        settings: what counts, and what train holds.

    Raises:
        FileError: a file is missing; the message says where to get it.
    """

    def __init__(self, split: str, root: Path, settings: DRIVESettings) -> None:
        self.field_of_view = settings.field_of_view
        part = root / ("test" if split == "test" else "training")
        images = find_folder("drive", part / "images")
        masks = find_folder("drive", part / "1st_manual")
        pairs = find_pairs(
            "drive", images, "*.tif", lambda file: masks / f"{_number(file)}_manual1.gif"
        )
        official: int | None = None
        notes: tuple[str, ...] = ()
        if split != "test":
            pairs, notes = settings.part(pairs, split), settings.notes
            official = 20 if settings.whole_train and split == "train" else None
        super().__init__("drive", split, root, pairs, LABELS, official=official, notes=notes)

    def check(self, name: str) -> None:
        """Refuse missing images, masks and fields of view."""
        super().check(name)
        if self.field_of_view:
            check_pairs(name, [(image, _view(mask)) for image, mask in self.pairs])

    def read_ids(self, file: Path) -> NDArray[Any]:
        """Return 0, 255, and 1 outside the field of view."""
        ids = super().read_ids(file)
        if not self.field_of_view:
            return ids
        view = read_mask(_view(file))
        if view.shape != ids.shape:
            raise InputError(
                f"field of view {_view(file)} is {view.shape[0]} x {view.shape[1]}, but {file} is "
                f"{ids.shape[0]} x {ids.shape[1]}; copy the dataset again"
            )
        if (ids == _OUTSIDE).any():
            raise InputError(f"{file}: holds the ids {_OUTSIDE}; masks of drive hold 0 and 255")
        ids[view == 0] = _OUTSIDE
        return ids

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, file sizes, fields of view and the label map."""
        views = [_view(mask) for _, mask in self.pairs] if self.field_of_view else []
        sizes = [(view.name, view.stat().st_size) for view in views]
        return digest([super().fingerprint(), sizes], self.labels)


def _view(mask: Path) -> Path:
    """Return the field of view that belongs to a mask."""
    part = mask.parents[1]
    return part / "mask" / f"{_number(mask)}_{part.name}_mask.gif"


def _number(file: Path) -> str:
    return file.name.partition("_")[0]

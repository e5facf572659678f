"""The built-in dataset: landscapes rendered from a seed, with exact labels and no files.

A sample is a function of ``(seed, split, index)`` and of the settings alone; between machines its
values may differ by the rounding of floats. Colours and textures of the classes overlap, so that a
pixel's class follows from its surroundings: grey is road, wall, pole or overcast sky; green is
ground, hill or tree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torchvision import tv_tensors

from semseg.core.labels import Label, LabelMap
from semseg.data.base import (
    DatasetSettings,
    Sample,
    SegmentationDataset,
    digest,
    register_dataset,
)
from semseg.data.scenes.render import DIFFICULTIES, render

_RENDERER = 1
"""Raised when the same seed gives another picture."""

_LENGTHS = {"train": 1000, "val": 200}

_CLASSES = {
    "sky": (134, 188, 232),
    "hill": (122, 134, 170),
    "ground": (126, 176, 92),
    "road": (92, 92, 104),
    "house": (212, 120, 84),
    "tree": (38, 110, 70),
    "ball": (240, 200, 60),
    "pole": (200, 70, 150),
}

LABELS = LabelMap(
    tuple(Label(name, i, i, color) for i, (name, color) in enumerate(_CLASSES.items()))
)

Side = Annotated[int, Field(ge=16)]


class SyntheticSettings(DatasetSettings):
    """What the built-in dataset can vary."""

    size: tuple[Side, Side] = (96, 128)
    """Height and width in pixels, at least 16 each."""

    length: Annotated[int, Field(ge=1)] | None = None
    """Number of scenes; 1000 for train and 200 for val if left out."""

    difficulty: Literal["easy", "medium", "hard"] = "medium"
    """More objects, colours that mislead, less contrast, more blur and noise."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed gives other scenes of the same kind."""


@register_dataset(
    "synthetic",
    SyntheticSettings,
    title="Landscapes rendered from a seed",
    classes=LABELS.num_classes,
    licence="Apache-2.0",
    citation=None,
    source="built in",
    layout=None,
)
class Synthetic(SegmentationDataset):
    """Rendered scenes; train and val never share one.

    Args:
        split: ``"train"`` or ``"val"``.
        root: not used; there are no files.
        settings: what to render.
    """

    def __init__(self, split: str, root: Path | None, settings: SyntheticSettings) -> None:
        self.labels = LABELS
        self.channels = 3
        self.split = split
        self.settings = settings

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.settings.length or _LENGTHS[self.split]

    def __getitem__(self, index: int) -> Sample:
        """Render one scene."""
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        settings = self.settings
        rng = np.random.default_rng((settings.seed, list(_LENGTHS).index(self.split), index))
        image, mask = render(*settings.size, DIFFICULTIES[settings.difficulty], rng)
        return Sample(
            image=tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1).contiguous()),
            mask=tv_tensors.Mask(torch.from_numpy(mask)),
            path=self.path(index),
            size=settings.size,
        )

    def path(self, index: int) -> str:
        """Return a name that tells seed, split and index."""
        return f"synthetic/{self.settings.difficulty}/{self.settings.seed}/{self.split}/{index:06d}"

    def fingerprint(self) -> str:
        """Return the SHA-256 over everything a scene depends on, and the label map."""
        settings = self.settings.model_dump(exclude={"cache"})
        return digest([_RENDERER, self.split, len(self), settings], self.labels)

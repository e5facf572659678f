"""What can be asked of augmentation."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semseg.data.transforms.points import PointAugment

Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
"""Height and width in pixels."""


class AugmentConfig(BaseModel):
    """Augmentation of training samples; applied in the order of the fields.

    A mask never gets a value it did not have, except the ignore id where there was no image.

    Example:
        >>> AugmentConfig(crop=[256, 512], scale=[0.5, 2.0]).crop
        (256, 512)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    resize: Size | None = None
    """Fixed ``[height, width]`` for every image; its shape is not kept."""

    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotation by up to this many degrees either way."""

    translate: Probability = 0.0
    """Shift by up to this share of height and width."""

    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Shear by up to this many degrees, both ways and along both axes."""

    elastic: Amount = 0.0
    """Smooth deformation: standard deviation in pixels of the shifts on a 3 x 3 grid; Ronneberger
    et al. (arXiv:1505.04597, section 3.1) use 10."""

    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """Range of a random factor; 2 shows things twice as large."""

    crop: Size | None = None
    """``[height, width]`` of a random window; where it reaches beyond the image, the image is
    filled with the mean colour and the mask with the ignore id."""

    max_class_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    """A window in which one class has more than this share of the counted pixels is drawn again,
    ten times at most; 1 takes the first."""

    hflip: Probability = 0.5
    """Probability of mirroring left and right."""

    vflip: Probability = 0.0
    """Probability of mirroring top and bottom."""

    brightness: Amount = 0.0
    """Factor of the brightness, drawn from 1 ± this."""

    contrast: Amount = 0.0
    """Factor of the contrast, drawn from 1 ± this."""

    saturation: Amount = 0.0
    """Factor of the saturation, drawn from 1 ± this."""

    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Shift of the hue by up to this share of the colour circle."""

    blur: Probability = 0.0
    """Probability of a Gaussian blur with a standard deviation of 0.1 … 2 pixels."""

    noise: Probability = 0.0
    """Largest standard deviation of added Gaussian noise, as a share of the full range."""

    cutmix: Probability = 0.0
    """Probability of a window of another sample in the place of this one's (arXiv:1905.04899)."""

    classmix: Probability = 0.0
    """Probability of half of another sample's classes laid over this one (arXiv:2007.07936)."""

    copy_paste: Probability = 0.0
    """Probability of what another sample shows of `copy_paste_classes` laid over this one
    (arXiv:2012.07177)."""

    copy_paste_classes: tuple[str, ...] = ()
    """Names of the classes that are copied."""

    points: PointAugment = PointAugment()
    """Augmentation of point clouds; everything above is for images."""

    @model_validator(mode="after")
    def _check_mix(self) -> Self:
        if self.cutmix + self.classmix + self.copy_paste > 1:
            raise ValueError("cutmix, classmix and copy_paste add up to more than 1")
        if bool(self.copy_paste) != bool(self.copy_paste_classes):
            raise ValueError("copy_paste and copy_paste_classes need each other")
        return self

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.scale is not None and self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be [least, greatest], got {list(self.scale)}")
        return self

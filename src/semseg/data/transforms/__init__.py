"""Augmentation: image and mask change together, by one draw."""

from __future__ import annotations

from semseg.data.transforms.build import build_transform
from semseg.data.transforms.config import AugmentConfig

__all__ = ["AugmentConfig", "build_transform"]

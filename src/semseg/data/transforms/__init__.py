"""Augmentation: image and mask change together, by one draw."""

from __future__ import annotations

from semseg.data.transforms.build import build_transform
from semseg.data.transforms.config import AugmentConfig
from semseg.data.transforms.mix import Mix, build_mix

__all__ = ["AugmentConfig", "Mix", "build_mix", "build_transform"]

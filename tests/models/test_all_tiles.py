"""What every network of images computes in tiles, and computes in the form for prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semseg.models.base import SegmentationModel
from semseg.predict.tiles import tiled
from semseg.predict.tiling import Tiling
from tests.models.conftest import Build
from tests.models.support import image


@pytest.fixture
def model(build: Build) -> SegmentationModel:
    model = build()
    if model.takes != "images":
        pytest.skip("clouds are cut into blocks: tests/predict/test_points.py")
    return model


def rows(model: SegmentationModel, images: torch.Tensor, tiling: Tiling, start: int) -> np.ndarray:
    found = tiled(
        model,
        lambda y, x, h, w: images[0, :, y : y + h, x : x + w],
        tuple(images.shape[-2:]),
        tiling,
        num_classes=model.config.num_classes,
        start=start,
    )
    return np.concatenate([part.labels for part in found])


def test_tiles(model: SegmentationModel) -> None:
    multiple = model.multiple_of
    tile = -(-max(model.min_size + multiple - 1, 32) // multiple) * multiple
    facts = {"multiple_of": multiple, "min_size": model.min_size}
    images = image(1, model.config.in_channels, tile + 3, 2 * tile - 1)
    with torch.inference_mode():
        one = Tiling(tile=4 * tile, **facts)
        whole = model(images).argmax(1)[0].numpy()
        np.testing.assert_array_equal(rows(model, images, one, 0), whole, "one tile is the image")
        many = Tiling(tile=tile, overlap=0.5, **facts)
        labels = rows(model, images, many, 0)
        assert labels.shape == whole.shape
        # what was predicted before a kill does not change what comes after it
        np.testing.assert_array_equal(rows(model, images, many, tile // 2), labels[tile // 2 :])

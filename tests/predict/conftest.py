"""A small network with weights that tell many classes apart, and files to predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.labels import Label, LabelMap
from semseg.core.preprocess import Preprocessing
from semseg.models import create_model
from semseg.models.base import SegmentationModel, settings_of
from semseg.predict import Predictor

RULE = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
LABELS = LabelMap(
    (
        Label("void", 0, None, (0, 0, 0)),
        Label("road", 7, 0, (128, 64, 128)),
        Label("car", 26, 1, (0, 0, 142)),
        Label("sky", 23, 2, (70, 130, 180)),
        Label("tree", 21, 3, (107, 142, 35)),
    )
)


def network(num_classes: int = 4, in_channels: int = 3) -> SegmentationModel:
    """A narrow U-Net whose random weights predict every class somewhere."""
    torch.manual_seed(6)
    model = create_model("unet", num_classes=num_classes, in_channels=in_channels, width=4)
    return model.eval()


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of several scales, ``(H, W, 3)`` ``uint8``."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    large = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].astype(np.int16)
    noise = draw.integers(-20, 21, large.shape)
    return np.clip(large + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with ``best.safetensors`` alone."""
    model = network()
    info = WeightsInfo(model="unet", settings=settings_of(model), labels=LABELS, preprocessing=RULE)
    folder = tmp_path_factory.mktemp("run")
    save_weights(folder / "best.safetensors", model.state_dict(), info)
    return folder


@pytest.fixture(scope="session")
def predictor(weights: Path) -> Predictor:
    return Predictor(weights, "cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with images of several sizes and something else."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (height, width) in enumerate([(40, 50), (33, 64), (64, 33)]):
        Image.fromarray(scene(height, width, i)).save(folder / f"p{i}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder

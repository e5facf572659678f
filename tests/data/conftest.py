"""Samples that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.data import build_dataset
from semseg.data.shard_writer import write_shards
from tests.data.cloud_miniatures import CLOUDS
from tests.data.forms import FORMS


@pytest.fixture
def miniature(tmp_path: Path) -> Callable[[str], Path | None]:
    """Return a function that writes a tiny copy of a dataset's files and gives its root."""

    def write(name: str) -> Path | None:
        if name == "synthetic":
            return None
        if name in CLOUDS:
            return CLOUDS[name](tmp_path)
        if name == "webdataset":
            folder = write("folder")
            for split in ("train", "val"):
                write_shards(build_dataset("folder", split, folder), tmp_path)
            return tmp_path
        if name != "folder":
            form = next(form for form in FORMS if form.name == name)
            form.write(tmp_path, form.raw)
            return tmp_path
        rng = np.random.default_rng(0)
        for split in ("train", "val"):
            images, masks = (tmp_path / kind / split for kind in ("images", "masks"))
            images.mkdir(parents=True)
            masks.mkdir(parents=True)
            for i in range(3):
                file, size = f"{split}_{i}.png", (5 + i, 8)
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(image).save(images / file)
                mask = rng.integers(0, 3, size, dtype=np.uint8)
                Image.fromarray(mask).save(masks / file)
        (tmp_path / "classes.yaml").write_text("classes: [a, b, {name: c, ignore: true}]\n")
        return tmp_path

    return write

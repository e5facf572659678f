"""Samples that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def miniature(tmp_path: Path) -> Callable[[str], Path | None]:
    """Return a function that writes a tiny copy of a dataset's files and gives its root."""

    def write(name: str) -> Path | None:
        if name == "synthetic":
            return None
        rng = np.random.default_rng(0)
        folders = {"folder": "images/{0} masks/{0}", "camvid": "{0} {0}annot"}[name]
        for split in ("train", "val"):
            images, masks = (tmp_path / part for part in folders.format(split).split())
            images.mkdir(parents=True)
            masks.mkdir(parents=True)
            files = [f"{split}_{i}.png" for i in range(3)]
            for i, file in enumerate(files):
                size = (5 + i, 8)
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(image).save(images / file)
                mask = rng.integers(0, 3, size, dtype=np.uint8)
                Image.fromarray(mask).save(masks / file)
            if name == "camvid":
                (tmp_path / f"{split}.txt").write_text("\n".join(files))
        if name == "folder":
            (tmp_path / "classes.yaml").write_text("classes: [a, b, {name: c, ignore: true}]\n")
        return tmp_path

    return write

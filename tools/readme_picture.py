"""Make docs/pictures/demo.png from a trained demo: ``python tools/readme_picture.py demo``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from semseg.data import build_dataset
from semseg.predict import Predictor, render
from semseg.train import load_recipe

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "demo.png"
SCENES = (0, 1, 2)
ENLARGE = 2  # scenes are small; a whole factor keeps masks sharp
GAP = 6


def main(run: Path) -> None:
    """Show image, truth, prediction and errors of some scenes below each other."""
    predictor = Predictor(run)
    # another seed than the recipe's, so the network has not seen these scenes
    settings = load_recipe(run).data.settings
    dataset = build_dataset("synthetic", "val", **{**settings, "seed": 1, "length": len(SCENES)})
    rows = []
    for row, index in enumerate(SCENES):
        sample = dataset[index]
        arrays = (
            sample.image.permute(1, 2, 0).numpy(),
            sample.mask.numpy(),
            predictor(sample.image).mask,
        )
        image, truth, mask = (np.kron(a, _block(a)) for a in arrays)
        titles = ("image", "truth", "prediction", "error") if row == 0 else ()
        rows.append(render.strip(image, truth, mask, predictor.labels, titles))
    rows.append(render.legend(predictor.labels, rows[0].width))
    picture = Image.new("RGB", (rows[0].width, sum(r.height + GAP for r in rows) - GAP), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height + GAP
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    picture.save(PICTURE, optimize=True)
    print(f"{PICTURE}: {picture.width} x {picture.height}, {PICTURE.stat().st_size // 1000} kB")


def _block(array: np.ndarray) -> np.ndarray:
    """Return what a pixel becomes, for ``numpy.kron``."""
    return np.ones((ENLARGE, ENLARGE, 1)[: array.ndim], dtype=array.dtype)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Speed of loading: CamVid's training pipeline beside albumentations doing the same work.

``python benchmarks/data.py [ROOT]`` reads the folder of CamVid (``../shared/data/camvid`` if not
given) from PNG files: random scale, window, mirror image, brightness, contrast and saturation as in
``recipes/camvid_enet.yaml``, normalised batches of 8 from 2 worker processes. Rounds of both take
turns. Beside images per second on the clock it reports processor time per image over all processes,
which other work on the machine hardly changes, and how our time divides into steps. ``--images N``
takes the first N images only. Without albumentations (``pip install albumentations``, it is no
dependency) ours is measured alone.

What is compared: from files to batches of normalised float32 images and int64 masks in the main
process, ``semseg.data.make_loader`` against torch's ``DataLoader`` over ``A.Compose``. Over half of
all time is decoding, so it is said who decodes: the other pipeline reads with OpenCV as its users
do, and in one more round as ours does; ours with imagecodecs where that is installed
(``pip install imagecodecs``), and then in one more round with Pillow. Not alike: we apply EXIF
orientation, check size and ids of every mask and seed every sample by itself, cut the window before
resizing and antialias; they resize the whole image without antialiasing.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from semseg.core.files import write_text
from semseg.core.preprocess import Preprocessing
from semseg.data import build_dataset, png
from semseg.data.images import read_image, read_mask
from semseg.data.loader import make_loader
from semseg.data.pairs import PairDataset
from semseg.data.transforms import AugmentConfig, build_transform

ROOT = Path(__file__).parents[2] / "shared" / "data" / "camvid"
RESULTS = Path(__file__).parent / "results" / "data.json"
CROP, SCALE, COLOUR = (192, 256), (0.5, 1.1), 0.3
BATCH, WORKERS, ROUNDS, STEP_SAMPLES = 8, 2, 3, 60
RULE = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
AUGMENT = AugmentConfig(
    scale=SCALE,
    crop=CROP,
    max_class_share=1.0,  # the other pipeline does not draw again either
    hflip=0.5,
    brightness=COLOUR,
    contrast=COLOUR,
    saturation=COLOUR,
)


def ours(dataset: PairDataset, epoch: int, pillow: bool = False) -> Iterable[Any]:
    """Yield one epoch as training has it; on request as it is without imagecodecs."""
    # workers start as copies of this process
    with mock.patch.object(png, "_decoder", (lambda: None) if pillow else png._decoder):
        yield from make_loader(
            dataset,
            transform=build_transform(AUGMENT, dataset.labels, RULE.mean),
            preprocessing=RULE,
            batch_size=BATCH,
            seed=0,
            epoch=epoch,
            shuffle=True,
            workers=WORKERS,
            drop_last=True,
        )


class Albumented(Dataset[Any]):
    """The same pairs, changed by albumentations.

    Args:
        source: the pairs.
        alike: read them as we do, otherwise with OpenCV.
    """

    def __init__(self, source: PairDataset, alike: bool = False) -> None:
        import albumentations as A
        import cv2

        cv2.setNumThreads(0)
        fill = [round(255 * value) for value in RULE.mean]
        self.pairs = source.pairs
        self.alike = alike
        self.table = source.labels.encode(np.arange(12, dtype=np.uint8)[None])[0]
        self.change = A.Compose(
            [
                A.RandomScale((SCALE[0] - 1, SCALE[1] - 1), p=1),
                A.PadIfNeeded(*CROP, border_mode=cv2.BORDER_CONSTANT, fill=fill, fill_mask=255),
                A.RandomCrop(*CROP),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(*([(1 - COLOUR, 1 + COLOUR)] * 3), hue=(0, 0), p=1),
                A.Normalize(RULE.mean, RULE.std),
            ]
        )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and mask."""
        import cv2

        image, mask = self.pairs[index]
        if self.alike:
            pixels, ids = read_image(image), read_mask(mask)
        else:
            pixels = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
            ids = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        done = self.change(image=pixels, mask=self.table[ids])
        planes = np.ascontiguousarray(done["image"].transpose(2, 0, 1))
        return torch.from_numpy(planes), torch.from_numpy(done["mask"]).long()


def theirs(dataset: PairDataset, epoch: int, alike: bool = False) -> Iterable[Any]:
    """Return one epoch of the other pipeline."""
    torch.manual_seed(epoch)
    source = Albumented(dataset, alike)
    return DataLoader(source, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)


def processor_seconds() -> float:
    """Return the time that this process and its ended children have computed."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def rounds(
    loaders: dict[str, Callable[[PairDataset, int], Iterable[Any]]], dataset: PairDataset
) -> dict[str, dict[str, float]]:
    """Let the pipelines take turns; the best round of each counts."""
    images = len(dataset) // BATCH * BATCH
    speed: dict[str, list[float]] = {name: [] for name in loaders}
    cost: dict[str, list[float]] = {name: [] for name in loaders}
    for epoch in range(ROUNDS):
        for name, loader in loaders.items():
            started, used = time.perf_counter(), processor_seconds()
            for _ in loader(dataset, epoch):
                pass
            speed[name].append(images / (time.perf_counter() - started))
            cost[name].append(1000 * (processor_seconds() - used) / images)
    return {
        name: {
            "images_per_second": round(max(speed[name]), 1),
            "processor_milliseconds_per_image": round(min(cost[name]), 2),
        }
        for name in loaders
    }


def shares(dataset: PairDataset) -> dict[str, float]:
    """Return what part of our processor time each step takes, in one process."""
    spent: dict[str, float] = {}

    def timed(name: str, call: Callable[..., Any], *given: Any) -> Any:
        started = time.process_time()
        result = call(*given)
        spent[name] = spent.get(name, 0.0) + time.process_time() - started
        return result

    transform: Any = build_transform(AUGMENT, dataset.labels, RULE.mean)
    for index in range(min(STEP_SAMPLES, len(dataset))):
        image, mask = dataset.pairs[index]
        timed("read image", read_image, image)
        timed("encode mask", dataset.labels.encode, timed("read mask", read_mask, mask))
        sample = dataset[index]
        pair = sample.image, sample.mask
        for step in transform.transforms:
            pair = timed(type(step).__name__, step, *pair)
        timed("normalise", RULE, pair[0][None])
    total = sum(spent.values())
    return {name: round(seconds / total, 3) for name, seconds in spent.items()}


def main(arguments: list[str]) -> None:
    """Measure, print and write the figures."""
    words = list(arguments)
    limit = None
    if "--images" in words:
        place = words.index("--images")
        limit = int(words[place + 1])
        del words[place : place + 2]
    root = Path(words[0]) if words else ROOT
    if not root.is_dir():
        sys.exit(f"{root} does not exist; give the folder of CamVid as the argument")
    dataset = build_dataset("camvid", "train", root)
    assert isinstance(dataset, PairDataset)
    dataset.pairs = dataset.pairs[:limit]
    loaders: dict[str, Callable[[PairDataset, int], Iterable[Any]]] = {"semseg": ours}
    reader = "imagecodecs" if png._decoder() else "Pillow"
    if reader != "Pillow":
        loaders["semseg, read by Pillow"] = partial(ours, pillow=True)
    if importlib.util.find_spec("albumentations"):
        loaders["albumentations"] = theirs
        loaders["albumentations, read as semseg reads"] = partial(theirs, alike=True)
    else:
        print("albumentations is not installed; semseg alone (pip install albumentations)")
    figures: dict[str, Any] = {"images": len(dataset), "batch": BATCH, "workers": WORKERS}
    figures["reader of semseg"] = reader
    figures |= rounds(loaders, dataset)
    ours_measured, key = figures["semseg"], "processor_milliseconds_per_image"
    for name in list(loaders)[1:]:
        other = figures[name]
        figures[f"ratio to {name}"] = {
            "images_per_second": round(
                ours_measured["images_per_second"] / other["images_per_second"], 3
            ),
            "processor_time": round(other[key] / ours_measured[key], 3),
        }
    figures["shares"] = shares(dataset)
    print(json.dumps(figures, indent=1))
    write_text(RESULTS, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Time of ``semseg doctor`` on 10,000 images of 480 x 360: ``python benchmarks/doctor.py``.

Writes that many pairs (JPEG images, PNG masks) cut from rendered scenes into a temporary folder,
looks at them with one process per core and deletes them. Reports the time on the clock and the
processor time of all processes: the first says what this machine took with all else it did, the
second, over the number of cores, what it would take alone. Give another number of images as the
argument; ``--png`` stores the images as PNG, which takes longer to write and to read.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semseg.core.files import write_text
from semseg.data import build_dataset
from semseg.data.doctor import diagnose
from semseg.data.synthetic import LABELS

SIZE = (360, 480)
SCENES, SCENE_SIZE = 24, (480, 640)
RESULTS = Path(__file__).parent / "results" / "doctor.json"


def write_pairs(root: Path, number: int, suffix: str) -> None:
    """Write windows of rendered scenes, mirrored and brightened at random; one in five is val."""
    (root / "classes.yaml").write_text(json.dumps(LABELS.to_dict()))
    scenes = build_dataset("synthetic", "train", length=SCENES, size=SCENE_SIZE)
    held = [
        (scenes[i].image.permute(1, 2, 0).numpy(), scenes[i].mask.numpy()) for i in range(SCENES)
    ]
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(number):
        split = "val" if i % 5 == 4 else "train"
        image, mask = held[rng.integers(SCENES)]
        top, left = (
            rng.integers(whole - part + 1) for whole, part in zip(SCENE_SIZE, SIZE, strict=True)
        )
        window = np.s_[top : top + SIZE[0], left : left + SIZE[1]]
        step = -1 if rng.integers(2) else 1
        table = np.clip(np.arange(256) * rng.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
        picture = Image.fromarray(table[image[window][:, ::step]])
        picture.save(root / f"images/{split}/{i:05d}{suffix}", quality=90, compress_level=1)
        ids = Image.fromarray(np.ascontiguousarray(mask[window][:, ::step]))
        ids.save(root / f"masks/{split}/{i:05d}.png", compress_level=1)


def processor_seconds() -> float:
    """Return the time that this process and its ended children have computed."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(number: int, suffix: str) -> dict[str, Any]:
    """Write, look, delete; return the figures."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pairs(root, number, suffix)
        print(f"{number} pairs written", flush=True)
        started, used = time.perf_counter(), processor_seconds()
        found = diagnose("folder", root, workers=cores, on_progress=report)
        wall, used = time.perf_counter() - started, processor_seconds() - used
    return {
        "images": number,
        "size": SIZE,
        "suffix": suffix,
        "cores": cores,
        "load": round(os.getloadavg()[0], 1),
        "seconds": round(wall, 1),
        "processor_seconds": round(used, 1),
        "seconds_alone": round(used / cores, 1),
        "milliseconds_per_pair": round(1000 * used / number, 2),
        "findings": Counter(finding.check for finding in found.findings),
        "processor": platform.processor() or platform.machine(),
    }


def report(done: int, total: int) -> None:
    """Print ten lines on the way."""
    if done * 10 // total != (done - 16) * 10 // total:
        print(f"{done} of {total}", flush=True)


def main(arguments: list[str]) -> None:
    """Measure and write the figures."""
    numbers = [int(word) for word in arguments if word.isdigit()]
    figures = measure(numbers[0] if numbers else 10_000, ".png" if "--png" in arguments else ".jpg")
    print(json.dumps(figures, indent=1))
    write_text(RESULTS, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

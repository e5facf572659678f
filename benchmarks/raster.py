"""A large TIFF, predicted in a fresh process: time, and the most memory that it held.

``python benchmarks/raster.py [--size 40000] [--folder FOLDER]`` writes a synthetic TIFF of size x
size pixels (RGB, deflated tiles of 512, a few textures in random order) into ``FOLDER`` (a
temporary one if not given; 40,000 pixels take about 4 GB), predicts it there with a network of
three convolutions and five classes, prints the figures and writes ``results/raster.json``. Threads
are torch's own choice; ``OMP_NUM_THREADS`` sets them. ``--kill N`` ends the process by SIGKILL
after every N tiles and starts it again until the file is done, and compares its bytes with those of
a run that was left alone.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "raster.json"
BLOCK, TEXTURES, CLASSES = 512, 24, 5


def textures() -> list[bytes]:
    """Return deflated tiles of noise at several scales, as photos have it."""
    draw, tiles = np.random.default_rng(0), []
    for _ in range(TEXTURES):
        tile = np.zeros((BLOCK, BLOCK, 3))
        for scale, strength in ((64, 60), (16, 30), (4, 12), (1, 4)):
            coarse = draw.normal(0, strength, (BLOCK // scale, BLOCK // scale, 3))
            tile += coarse.repeat(scale, 0).repeat(scale, 1)
        tiles.append(zlib.compress(np.clip(tile + 128, 0, 255).astype(np.uint8).tobytes(), 6))
    return tiles


def make(path: Path, size: int) -> None:
    """Write the image, tile by tile."""
    import tifffile

    kinds, draw = textures(), np.random.default_rng(1)
    count = (-(-size // BLOCK)) ** 2

    def tiles() -> Iterator[bytes]:
        for kind in draw.integers(0, TEXTURES, count):
            yield kinds[kind]

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            tiles(),
            shape=(size, size, 3),
            dtype=np.uint8,
            tile=(BLOCK, BLOCK),
            compression="zlib",
            photometric="rgb",
            metadata=None,
        )


def peak() -> float:
    """Return the most memory this process has held, in megabytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held before this program began
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def child(source: str, out: str, kill: str) -> None:
    """Predict, and print the figures as JSON; die after ``kill`` tiles if that is not 0."""
    import torch
    from torch import Tensor, nn

    from semseg.core.flush import FlushingThread
    from semseg.core.labels import LabelMap
    from semseg.core.preprocess import IMAGENET
    from semseg.predict.rasters import predict_raster

    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, CLASSES, 3, padding=1)]
    network, labels = nn.Sequential(*layers).eval(), LabelMap.from_names(list("abcde"))
    calls, inside = 0, 0.0

    def scores(images: Tensor) -> Tensor:
        nonlocal calls, inside
        calls += 1
        if calls == int(kill):
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.perf_counter()
        with torch.inference_mode():
            logits: Tensor = network(images)
        inside += time.perf_counter() - began
        return logits

    done = FlushingThread().run(lambda: predict_raster(scores, IMAGENET, labels, source, out))
    figures = {
        "tiles": done.tiles,
        "rows resumed": done.resumed,
        "seconds": round(done.seconds, 1),
        "seconds in the network": round(inside, 1),
        "peak memory (MB)": round(peak()),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures))


def run(source: Path, out: Path, kill: int = 0) -> dict[str, Any] | None:
    """Predict in a fresh process; ``None`` if it was killed."""
    command = [sys.executable, __file__, "--child", str(source), str(out), str(kill)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if ended.returncode == -signal.SIGKILL and kill:
        return None
    if ended.returncode:
        sys.exit(ended.returncode)
    figures: dict[str, Any] = json.loads(ended.stdout)
    return figures


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(folder: Path, size: int, kill: int) -> dict[str, Any]:
    """Make the image, predict it, and again with kills if they are wanted."""
    source, out, killed = (folder / name for name in ("image.tif", "masks.tif", "killed.tif"))
    began = time.perf_counter()
    make(source, size)
    print(f"image written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    packages = ("torch", "tifffile", "numpy")
    figures: dict[str, Any] = {"height": size, "width": size, "pixels": size * size}
    figures |= run(source, out) or {}
    figures |= {
        "image (MB)": round(source.stat().st_size / 1e6, 1),
        "result (MB)": round(out.stat().st_size / 1e6, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
    if kill:
        row = math.isqrt(figures["tiles"])
        if kill < 4 * row:  # what is resumed begins with the tiles above
            sys.exit(f"--kill {kill} is too often to come further; take {4 * row} tiles or more")
        kills = 0
        while run(source, killed, kill) is None:
            kills += 1
        figures |= {"kills": kills, "same bytes after kills": digest(out) == digest(killed)}
    return figures


def main(arguments: list[str]) -> None:
    """Measure, print and write the figures."""
    if arguments[:1] == ["--child"]:
        child(*arguments[1:])
        return
    words = dict(zip(arguments[::2], arguments[1::2], strict=True))
    size, kill = int(words.pop("--size", "40000")), int(words.pop("--kill", "0"))
    folder = words.pop("--folder", None)
    if words:
        sys.exit(f"unknown: {' '.join(words)}; known: --size, --folder, --kill")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        figures = measure(Path(place), size, kill)
    print(json.dumps(figures, indent=1))
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

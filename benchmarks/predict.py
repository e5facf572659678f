"""End to end: image files to written masks, beside the loops that people write.

    python benchmarks/predict.py runs/unet runs/segformer --images data/camvid/val --out predict

Each folder holds a network that segmentation_models_pytorch saved with ``save_pretrained``. Six
ways predict the same files, in turn and several times; the median of the wall times counts:

- ``plain``: that package in a loop, one image at a time, in PyTorch as it is;
- ``plain openvino``: the same network converted, an asynchronous queue, at the precision named;
- ``semseg``: :func:`semseg.predict.predict_files` over the same weights, ``backend="auto"``, in
  fp32, in bf16, or in bf16 only if 99.9 % of the labels stay (``auto``).

Masks are compared with those of ``plain``. What is done once (reading weights, conversion, the
first image of each size) is timed apart, as ``ready_s``.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from PIL import Image

from semseg.core.files import write_atomic
from semseg.core.labels import LabelMap
from semseg.core.preprocess import IMAGENET
from semseg.data.images import IMAGE_SUFFIXES
from semseg.predict import Predictor, predict_files

RESULTS = Path(__file__).parent / "results"
Way = Callable[[list[Path], Path], None]
app = App(help=__doc__)


@app.default
def main(
    networks: list[Path], /, *, images: Path, count: int = 100, rounds: int = 3, out: str = ""
) -> None:
    """Time the ways for each network.

    Args:
        networks: folders of saved networks.
        images: a folder of images.
        count: images that are predicted, the first of the folder.
        rounds: times that each way is run.
        out: name of a file in ``benchmarks/results``; printed alone if empty.
    """
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)[:count]
    figures = [measure(folder, files, rounds) for folder in networks]
    result = {
        "what": f"{len(files)} images of {Image.open(files[0]).size[::-1]}, decoded to written",
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "torch": torch.__version__,
        "machine": _machine(),
        "networks": figures,
    }
    text = json.dumps(result, indent=1) + "\n"
    sys.stdout.write(text)
    if out:
        write_atomic(RESULTS / f"{out}.json", lambda file: file.write_bytes(text.encode()))


def measure(folder: Path, files: list[Path], rounds: int) -> dict[str, Any]:
    """Return the figures of one network."""
    ways: dict[str, Way] = {}
    ready: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, build in _builders(folder).items():
            began = time.perf_counter()
            ways[name] = build()
            ways[name](files[:1], Path(place) / name)  # what is done once
            ready[name] = time.perf_counter() - began
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                way(files, Path(place) / name)
                times[name].append(time.perf_counter() - began)
        plain = _masks(Path(place) / "plain", files)
        same = {name: _equal(plain, _masks(Path(place) / name, files)) for name in ways}
    middle = {name: statistics.median(found) for name, found in times.items()}
    rows = {
        name: {
            "seconds": round(middle[name], 2),
            "images_per_s": round(len(files) / middle[name], 2),
            "ratio_to_plain": round(middle["plain"] / middle[name], 2),
            "equal_pixels": round(same[name], 6),
            "ready_s": round(ready[name], 2),
            "all_seconds": [round(t, 2) for t in times[name]],
        }
        for name in ways
    }
    return {"network": folder.name, "ways": rows}


def _builders(folder: Path) -> dict[str, Callable[[], Way]]:
    return {
        "plain": lambda: _plain(folder),
        "plain openvino fp32": lambda: _plain_openvino(folder, "f32"),
        "semseg fp32": lambda: _semseg(folder, "fp32"),
        "plain openvino bf16": lambda: _plain_openvino(folder, "bf16"),
        "semseg bf16": lambda: _semseg(folder, "bf16"),
        "semseg auto": lambda: _semseg(folder, "auto"),
    }


def _plain(folder: Path) -> Way:
    """Return the loop of a first script."""
    import segmentation_models_pytorch as smp

    model = smp.from_pretrained(folder).eval()

    def run(files: list[Path], out: Path) -> None:
        out.mkdir(exist_ok=True)
        for path in files:
            image, height, width = _prepared(path, model.encoder.output_stride)
            with torch.inference_mode():
                mask = model(torch.from_numpy(image)).argmax(1)[0, :height, :width]
            Image.fromarray(mask.byte().numpy()).save(out / f"{path.stem}.png")

    return run


def _plain_openvino(folder: Path, precision: str) -> Way:
    """Return the loop of OpenVINO's own tutorials: a queue that works ahead."""
    import openvino as ov
    import segmentation_models_pytorch as smp

    model = smp.from_pretrained(folder).eval()
    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    queues: dict[tuple[int, ...], Any] = {}

    def finish(request: Any, wanted: tuple[Path, int, int]) -> None:
        path, height, width = wanted
        mask = request.get_output_tensor().data.argmax(1)[0, :height, :width]
        Image.fromarray(mask.astype(np.uint8)).save(path)

    def run(files: list[Path], out: Path) -> None:
        out.mkdir(exist_ok=True)
        for path in files:
            image, height, width = _prepared(path, model.encoder.output_stride)
            if image.shape not in queues:
                program = torch.export.export(model, (torch.from_numpy(image),))
                graph = ov.convert_model(program)
                compiled = ov.Core().compile_model(graph, "CPU", settings)
                queues[image.shape] = ov.AsyncInferQueue(compiled)
                queues[image.shape].set_callback(finish)
            queues[image.shape].start_async([image], (out / f"{path.stem}.png", height, width))
        for queue in queues.values():
            queue.wait_all()

    return run


def _semseg(folder: Path, precision: str) -> Way:
    """Return this library's way."""
    labels = LabelMap.from_names([f"class{i}" for i in range(_classes(folder))])
    predictor = Predictor(
        folder,
        "cpu",
        labels=labels,
        preprocessing=IMAGENET,
        backend="auto",
        precision=precision,
    )

    def run(files: list[Path], out: Path) -> None:
        predict_files(predictor, files, out, ("ids",), overwrite=True)

    return run


def _prepared(path: Path, multiple: int) -> tuple[np.ndarray, int, int]:
    """Return a normalised image, grown to a size that the network takes, and its own size."""
    image = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    image = (image - np.float32(IMAGENET.mean)) / np.float32(IMAGENET.std)
    height, width = image.shape[:2]
    grown = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    return np.ascontiguousarray(np.pad(image, grown).transpose(2, 0, 1)[None]), height, width


def _classes(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["classes"])


def _masks(folder: Path, files: list[Path]) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / f"{path.stem}.png")) for path in files]


def _equal(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    pairs = list(zip(a, b, strict=True))
    return float(sum((x == y).sum() for x, y in pairs) / sum(x.size for x, _ in pairs))


def _machine() -> str:
    names = [s for s in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in s]
    return f"{os.cpu_count()} cores, {names[0].split(':')[1].strip() if names else 'unknown'}"


if __name__ == "__main__":
    app()

"""Time of the dense CRF on a GPU: ``python benchmarks/crf_gpu.py``.

Image and logits are on the device; a run builds the lattice and does ten rounds. Backends take
turns, the median of the runs counts, and the share of labels that equal those of the CPU is given.
Writes ``results/crf_gpu.json``; with ``--device cpu`` it only prints, to try the command.
"""

from __future__ import annotations

import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from cyclopts import App
from torch import Tensor

from crf import SETTINGS, SIZES, noisy
from semseg.core.checks import InputError
from semseg.core.files import write_atomic
from semseg.kernels.permutohedral import Backend
from semseg.postprocess.dense_crf import DenseCRF

RESULTS = Path(__file__).parent / "results" / "crf_gpu.json"

app = App(help=__doc__)


def refine(backend: Backend, image: Tensor, logits: Tensor) -> Tensor:
    """Return labels."""
    crf = DenseCRF(
        sxy=SETTINGS["sxy"],
        srgb=SETTINGS["srgb"],
        compat=SETTINGS["compat"],
        smooth_sxy=SETTINGS["near"],
        smooth_compat=SETTINGS["weight"],
        iterations=SETTINGS["iterations"],
        backend=backend,
    )
    return crf(image, logits).argmax(0)


def seconds(backend: Backend, image: Tensor, logits: Tensor) -> float:
    """Return the time of one run, from an idle device to an idle device."""
    wait = torch.cuda.synchronize if image.is_cuda else lambda: None
    wait()
    begun = time.perf_counter()
    refine(backend, image, logits)
    wait()
    return time.perf_counter() - begun


def measure(height: int, width: int, classes: int, device: torch.device, runs: int) -> Any:
    """Return the figures of one size."""
    pixels, unary = noisy(height, width, classes)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    logits = -torch.from_numpy(unary).reshape(classes, height, width)
    wanted = refine("auto", image, logits)
    image, logits = image.to(device), logits.to(device)
    row: dict[str, Any] = {"size": f"{height}x{width}", "classes": classes}
    times: dict[Backend, list[float]] = {}
    for backend in (b for b in get_args(Backend) if b != "auto"):
        try:
            labels = refine(backend, image, logits)  # compiles
        except InputError as error:
            print(f"{backend}: {error}")
            continue
        times[backend] = []
        row[backend] = {"equal_labels": round(float((labels.cpu() == wanted).float().mean()), 6)}
    for _ in range(runs):
        for backend, spent in times.items():
            spent.append(seconds(backend, image, logits))
    for backend, spent in times.items():
        row[backend]["ms"] = round(statistics.median(spent) * 1000, 2)
    return row


@app.default
def main(device: str = "cuda", runs: int = 9) -> None:
    """Measure and print.

    Args:
        device: ``cuda``; ``cpu`` shows that the command works.
        runs: of each backend and size.
    """
    rows = [measure(*size, torch.device(device), runs) for size in SIZES]
    report = {"settings": SETTINGS, "torch": torch.__version__, "timing": rows}
    if device != "cpu":
        report["machine"] = torch.cuda.get_device_name()
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if device != "cpu":
        write_atomic(RESULTS, partial(Path.write_text, data=text, encoding="utf-8"))


if __name__ == "__main__":
    app()

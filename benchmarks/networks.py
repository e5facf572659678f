"""Cost of every network at one image size: ``make bench``.

One image of 512 x 512, float32, eval mode, eager: parameters, operations (a multiplication and an
addition count 2), median milliseconds of repetitions after one that does not count. On a CPU they
are processor time of one thread, which other work on the machine hardly changes. Writes
``benchmarks/results/networks.json`` after every network, so that a stopped run keeps its figures,
and draws published accuracy against operations. Names as arguments measure only those networks
and keep the other figures; ``--plot`` draws again without measuring.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from semseg.core.files import write_atomic
from semseg.models import create_model, list_models, model_entry
from semseg.models.summary import summarize

SIZE = (512, 512)
LEAST, MOST, SECONDS = 3, 20, 2.0
"""Repetitions: at least, at most, and the time after which they end."""

RESULTS = Path(__file__).parent / "results" / "networks.json"
PLOT = Path(__file__).parents[1] / "docs" / "pictures" / "accuracy_and_cost.png"
PANELS = ("PASCAL VOC 2012", "Cityscapes", "CamVid", "ADE20K")
"""Datasets on which networks published results; val and test are drawn apart."""


def milliseconds(name: str, device: torch.device) -> list[float]:
    """Return the times of repeated forward passes, after one that warms up."""
    model = create_model(name).eval().to(device)
    images = torch.rand(1, model.config.in_channels, *SIZE, device=device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: list[float] = []
    while len(times) <= LEAST or (len(times) <= MOST and sum(times) < SECONDS * 1000):
        start = clock()
        with torch.inference_mode():
            model(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((clock() - start) * 1000)
    return times[1:]


def figures(name: str, device: torch.device) -> dict[str, Any]:
    """Measure one network."""
    summary = summarize(name, size=SIZE)
    times = milliseconds(name, device)
    return {
        "parameters": summary.parameters,
        "classes": model_entry(name).config.num_classes,
        "gflop": round(summary.flops / 1e9, 2),
        "milliseconds": round(statistics.median(times), 1),
        "fastest": round(min(times), 1),
        "repetitions": len(times),
        "output_stride": summary.output_stride,
        "published": [
            {"dataset": p.dataset, "miou": p.miou, "source": p.source}
            for p in model_entry(name).published
        ],
    }


def plot(networks: dict[str, Any]) -> None:
    """Draw published accuracy against operations, one panel per dataset."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 10), layout="constrained")
    for axes, dataset in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        points = {True: [], False: []}
        for name, values in networks.items():
            for result in values["published"]:
                if result["dataset"].startswith(dataset):
                    test = "test" in result["dataset"]
                    points[test].append((values["gflop"], result["miou"], name))
        for test, held in points.items():
            color = "C0" if test else "C1"
            best = 0.0
            for gflop, miou, name in sorted(held, key=lambda point: (point[0], -point[1])):
                axes.plot(gflop, miou, "o" if test else "s", color=color, alpha=0.6, ms=4)
                if miou > best:  # the names of all would hide each other
                    best, place = miou, (gflop, miou)
                    axes.annotate(
                        name, place, fontsize=7, xytext=(3, 3), textcoords="offset points"
                    )
        axes.set(
            xscale="log", xlabel="GFLOP for one 512 x 512 image", ylabel="published mIoU, %",
            title=f"{dataset}: test (circles), val (squares); named: best at its cost",
        )  # fmt: skip
        axes.grid(alpha=0.3)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=80)


def main(arguments: list[str]) -> None:
    """Measure, print, write and draw."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as prediction does
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    known = list_models()
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    record = {
        "device": device.type,
        "machine": machine,
        "clock": "wall" if device.type == "cuda" else "processor time of one thread",
        "torch": torch.__version__.partition("+")[0],
        "size": SIZE,
        "networks": {},
    }
    asked = [name for name in arguments if name != "--plot"]
    if arguments and all(old.get(key) == record[key] for key in ("machine", "clock", "torch")):
        kept = old["networks"]
        record["networks"] = {name: kept[name] for name in known if name in kept}
    for name in known if not arguments else asked:
        model_entry(name)  # a misspelt one is refused before anything is measured
    for name in known if not arguments else asked:
        record["networks"][name] = values = figures(name, device)
        print(
            f"{name:<26} {values['parameters']:>12,} {values['gflop']:>9.1f} GFLOP "
            f"{values['milliseconds']:>9.1f} ms",
            flush=True,
        )
        text = json.dumps(record, indent=1) + "\n"
        write_atomic(RESULTS, partial(Path.write_text, data=text, encoding="utf-8"))
    plot(record["networks"])


if __name__ == "__main__":
    main(sys.argv[1:])

"""Speed of networks in the forms that prediction can take.

    python benchmarks/speed.py enet erfnet --sizes 360x480
    python benchmarks/speed.py realtime --sizes 360x480 512x1024 --forms eager fused

Names are networks or families. Each network runs on random images in a process of its own: every
form in turn, some passes to warm up, then passes until ``--seconds`` are over. Writes median and
99th percentile of the milliseconds, images per second, the ratio to eager, operations (a
multiplication and an addition count 2), parameters and the peak of memory above what was there
before, as JSON and as a picture of published accuracy against speed. Subnormal floats are flushed,
as prediction does.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from cyclopts import App

from semseg.core.checks import unknown_name
from semseg.core.files import write_atomic
from semseg.core.flush import FlushingThread
from semseg.models import create_model, list_models, model_entry
from semseg.models.base import SegmentationModel
from semseg.models.summary import summarize

RESULTS = Path(__file__).parent / "results"
WARM_UP, LEAST = 3, 5

Form = Literal["eager", "channels_last", "fused", "fused_channels_last", "compiled", "half"]
Forward = Callable[[torch.Tensor], torch.Tensor]

app = App(help=__doc__)


def prepared(model: SegmentationModel, form: Form, images: torch.Tensor) -> tuple[Forward, Any]:
    """Return a network in one form, and the images as it takes them."""
    if form == "half":
        kind = torch.float16 if images.is_cuda else torch.bfloat16
        return model.fuse().to(kind), images.to(kind)
    if "fused" in form or form == "compiled":
        model = model.fuse()
    if "channels_last" in form or (form == "compiled" and images.is_cuda):
        layout = torch.channels_last
        return model.to(memory_format=layout), images.to(memory_format=layout)
    return (torch.compile(model), images) if form == "compiled" else (model, images)


def resident(which: str) -> int:
    """Return kilobytes of this process: VmRSS now, or VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(which):
            return int(line.split()[1])
    return 0


def peak_megabytes(once: Callable[[], object], device: torch.device) -> float | None:
    """Return how far one pass raises the memory; ``None`` where the system does not say."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    if not Path("/proc/self/clear_refs").exists():
        return None
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before = resident("VmRSS")
    once()
    return round((resident("VmHWM") - before) / 1024, 1)


def timed(once: Callable[[], object], seconds: float, device: torch.device) -> dict[str, Any]:
    """Return the figures of repeated passes."""
    for _ in range(WARM_UP):
        once()
    times: list[float] = []
    while len(times) < LEAST or sum(times) < seconds:
        start = time.perf_counter()
        once()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    milliseconds = sorted(1000 * t for t in times)
    return {
        "p50": round(statistics.median(milliseconds), 2),
        "p99": round(milliseconds[min(len(times) - 1, int(0.99 * len(times)))], 2),
        "fastest": round(milliseconds[0], 2),
        "passes": len(times),
    }


def measure(name: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of one network: one line per size and form. Runs in its own process."""
    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    torch.manual_seed(0)
    model = create_model(name).eval().to(device)
    rows = []
    for size in job["sizes"]:
        summary = summarize(name, size=size)
        images = torch.rand(job["batch"], model.config.in_channels, *size, device=device)
        for form in job["forms"]:
            row = {"network": name, "size": size, "form": form}
            try:
                with torch.inference_mode():
                    row |= _figures(model, form, images, job)
            except Exception as error:  # one form that a machine cannot run must not end the rest
                row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            row |= {"gflop": round(summary.flops / 1e9, 2), "parameters": summary.parameters}
            rows.append(row)
    return rows


def _figures(
    model: SegmentationModel, form: Form, images: torch.Tensor, job: dict[str, Any]
) -> dict[str, Any]:
    network, given = prepared(model, form, images)

    def once() -> torch.Tensor:
        with torch.inference_mode():
            return network(given)

    figures = timed(once, job["seconds"], images.device)
    figures["images_per_second"] = round(1000 * len(images) / figures["p50"], 2)
    figures["peak_mb"] = peak_megabytes(once, images.device)
    return figures


def chosen(names: tuple[str, ...]) -> list[str]:
    """Return the networks that names and families mean."""
    known = list_models()
    families = {model_entry(name).family for name in known}
    found = []
    for asked in names:
        if asked not in families and asked not in known:
            raise unknown_name("network or family", asked, {*known, *families})
        found += [n for n in known if asked in (n, model_entry(n).family)]
    return sorted(set(found))


def with_ratio(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row how many times faster than eager it is."""
    eager = {(r["network"], tuple(r["size"])): r.get("p50") for r in rows if r["form"] == "eager"}
    for row in rows:
        base = eager.get((row["network"], tuple(row["size"])))
        if base and "p50" in row:
            row["ratio_to_eager"] = round(base / row["p50"], 2)
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw published accuracy against images per second, of each network's fastest form."""
    from matplotlib.figure import Figure

    sizes = sorted({tuple(row["size"]) for row in rows})
    figure = Figure(figsize=(7 * len(sizes), 5.5), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        here = [r for r in rows if tuple(r["size"]) == size and "p50" in r]
        for name in sorted({r["network"] for r in here}):
            speed = max(r["images_per_second"] for r in here if r["network"] == name)
            for result in model_entry(name).published:
                if result.dataset.startswith(("Cityscapes", "CamVid")):
                    city = result.dataset.startswith("Cityscapes")
                    axes.plot(speed, result.miou, "o" if city else "s", color=f"C{1 - city}")
                    axes.annotate(name, (speed, result.miou), fontsize=6)
        axes.set(xscale="log", xlabel="images per second", ylabel="published mIoU, %")
        axes.set_title(f"{size[0]} x {size[1]}: Cityscapes (circles), CamVid (squares)")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


@app.default
def main(
    *names: str,
    sizes: tuple[str, ...] = ("360x480",),
    forms: tuple[Form, ...] = ("eager", "channels_last", "fused", "fused_channels_last"),
    batch: int = 1,
    seconds: float = 2.0,
    threads: int = 0,
    device: str = "cpu",
    out: str = "speed",
) -> None:
    """Measure networks and write ``benchmarks/results/OUT.json`` and ``OUT.png``.

    Args:
        names: networks or families.
        sizes: height x width of the images.
        forms: what to compare.
        batch: images per pass.
        seconds: time of each form after warming up.
        threads: threads of the CPU; 0 for PyTorch's choice.
        device: ``cpu`` or ``cuda``.
        out: name of the files.
    """
    job = {
        "sizes": [tuple(int(side) for side in size.split("x")) for size in sizes],
        "forms": forms,
        "batch": batch,
        "seconds": seconds,
        "threads": threads or torch.get_num_threads(),
        "device": device,
    }
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    record = job | {"machine": gpu or platform.machine(), "torch": torch.__version__.split("+")[0]}
    rows: list[dict[str, Any]] = []
    for name in chosen(names):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows += with_ratio(pool.apply(flushed, (name, job)))
        for row in rows[-len(sizes) * len(forms) :]:
            shown = row.get("failed") or (
                f"{row['p50']:>9.1f} ms  p99 {row['p99']:>9.1f}  x{row.get('ratio_to_eager', 1):<5}"
                f" {row['images_per_second']:>7.1f}/s  {row['peak_mb']} MB"
            )
            size = "x".join(map(str, row["size"]))
            print(f"{name:<24} {size:<9} {row['form']:<20} {shown}", flush=True)
        text = json.dumps(record | {"rows": rows}, indent=1) + "\n"
        write_atomic(RESULTS / f"{out}.json", partial(Path.write_text, data=text, encoding="utf-8"))
    plot(rows, RESULTS / f"{out}.png")


def flushed(name: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return :func:`measure` of a thread in which subnormal floats are zero."""
    return FlushingThread().run(partial(measure, name, job))


if __name__ == "__main__":
    app()

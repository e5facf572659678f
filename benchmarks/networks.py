"""Time a forward pass of every network on this machine: ``make bench``.

One image of each network's paper size, float32, eval mode; median of the repetitions after one
that does not count. Writes ``benchmarks/results/networks.json``.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path

import torch

from semseg.models import create_model, list_models, model_entry

REPETITIONS = 5
RESULTS = Path(__file__).parent / "results" / "networks.json"


def milliseconds(name: str, device: torch.device) -> float:
    """Return the median time of one forward pass."""
    model = create_model(name).eval().to(device)
    images = torch.rand(1, model.config.in_channels, *model_entry(name).paper_size, device=device)
    times = []
    for _ in range(REPETITIONS + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            model(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[1:])


def main() -> None:
    """Time all networks, print and write the figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    figures = {}
    for name in list_models():
        size = model_entry(name).paper_size
        figures[name] = {"size": size, "milliseconds": round(milliseconds(name, device), 1)}
        print(f"{name:<24} {size[0]:>4} x {size[1]:<4} {figures[name]['milliseconds']:>9.1f} ms")
    RESULTS.parent.mkdir(exist_ok=True)
    record = {
        "device": device.type,
        "machine": machine,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "networks": figures,
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

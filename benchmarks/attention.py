"""Memory of networks that attend: ``python benchmarks/attention.py``.

One forward pass over one image of 1024 x 1024 in float32, eval mode, one thread, in a process of
its own for each network: the peak of resident memory above that before the pass, when weights and
image are there. By default all of the families ``transformer`` and ``context``; names as arguments
measure only those networks and keep the other figures. Writes
``benchmarks/results/attention.json`` after every network, so that a stopped run keeps its figures.
Needs Linux with glibc: what malloc has free is given back before the pass.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from semseg.core.files import write_atomic
from semseg.core.memory import give_back
from semseg.models import create_model, list_models, model_entry

SIZE = (1024, 1024)
FAMILIES = ("transformer", "context")

RESULTS = Path(__file__).parent / "results" / "attention.json"


def resident() -> int:
    """Return the kilobytes that this process holds now."""
    with Path("/proc/self/status").open(encoding="utf-8") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def forget_peak() -> None:
    """Let the peak of resident memory start again from what is in use now."""
    give_back()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """Return the most kilobytes that this process has held since :func:`forget_peak`."""
    with Path("/proc/self/status").open(encoding="utf-8") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(name: str) -> dict[str, Any]:
    """Return parameters and megabytes of one network; called in a process of its own."""
    torch.set_num_threads(1)
    model = create_model(name).eval()
    images = torch.rand(1, model.config.in_channels, *SIZE)
    with torch.inference_mode():
        model(images[..., :256, :256])  # libraries load and allocate on their first use
        forget_peak()
        before = resident()
        model(images)
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "classes": model.config.num_classes,
        "mb": round((peak() - before) / 1024, 1),
    }


def figures(name: str) -> dict[str, Any]:
    """Measure one network in a fresh process."""
    command = [sys.executable, __file__, "--one", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"failed": f"exit status {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(arguments: list[str]) -> None:
    """Measure, print and write."""
    known = [name for name in list_models() if model_entry(name).family in FAMILIES]
    asked = arguments or known
    for name in asked:
        model_entry(name)  # a misspelt one is refused before anything is measured
    record: dict[str, Any] = {
        "machine": platform.machine(),
        "torch": torch.__version__.partition("+")[0],
        "size": list(SIZE),
        "networks": {},
    }
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if arguments and all(old.get(key) == record[key] for key in ("machine", "torch", "size")):
        record["networks"] = {k: v for k, v in old["networks"].items() if k in list_models()}
    for name in asked:
        record["networks"][name] = values = figures(name)
        print(f"{name:<24} {values}", flush=True)
        record["networks"] = dict(sorted(record["networks"].items()))
        text = json.dumps(record, indent=1) + "\n"
        write_atomic(RESULTS, partial(Path.write_text, data=text, encoding="utf-8"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(sys.argv[1:])

"""The run folder: what a run leaves behind, and who may write into it."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from semseg import __version__
from semseg.core.checks import InputError
from semseg.core.files import write_text
from semseg.data import SegmentationDataset
from semseg.losses import ClassCounts
from semseg.train.checkpoint import Position
from semseg.train.config import TrainConfig, differences, load_recipe

FREE = (
    *("data.root", "data.workers", "out", "name"),
    *("train.device", "train.max_minutes", "train.profile", "train.recompute", "train.trackers"),
)
"""Settings that may differ when a run is resumed: they do not decide its result."""


@dataclass(frozen=True, slots=True)
class Run:
    """What :func:`semseg.train.train` gives back.

    Args:
        folder: the run folder.
        miou: best validation score, ``None`` before the first validation.
        epoch: epoch of the best weights, counted from 1.
        step: optimiser steps done.
        finished: whether all epochs are done; otherwise resume.
    """

    folder: Path
    miou: float | None
    epoch: int | None
    step: int
    finished: bool


def check_folder(config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
    """Refuse to start where a run would be lost, or to resume where there is none.

    Raises:
        InputError: the folder holds a run and neither was asked for; both were; there is nothing
            to resume; or the recipe is not the stored one.
    """
    folder = config.folder
    if resume and overwrite:
        raise InputError("resume and overwrite exclude each other; give one of them")
    held = (folder / "config.yaml").exists()
    if folder.exists() and not held and any(folder.iterdir()):
        raise InputError(f"{folder} holds files that are no run; give the run another name")
    if resume and not held:
        raise InputError(f"{folder} holds no run to resume; leave --resume out to start one")
    if resume:
        _check_same(config, folder)
    elif held and not overwrite:
        raise InputError(
            f"{folder} already holds a run; give --resume to continue it, --overwrite to replace "
            "it, or another name"
        )


def start_folder(config: TrainConfig) -> None:
    """Make the run folder with its ``config.yaml``; an older run in it is removed."""
    if config.folder.exists():
        shutil.rmtree(config.folder)
    config.folder.mkdir(parents=True)
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    write_text(config.folder / "config.yaml", text)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had half written."""
    for place in (folder, folder / "state"):
        for path in (*place.glob(".*.partial-*"), *place.glob(".*.old-*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _check_same(config: TrainConfig, folder: Path) -> None:
    changed = [
        line
        for line in differences(config, load_recipe(folder))
        if line.partition(":")[0] not in FREE
    ]
    if changed:
        raise InputError(
            f"{folder} was started with another recipe ({'; '.join(changed)}); resume it with the "
            "stored one, or give another name"
        )


def write_facts(
    folder: Path, train: SegmentationDataset, val: SegmentationDataset, counts: ClassCounts
) -> None:
    """Write ``environment.json``, ``data.json`` and ``labels.json``."""
    names = train.labels.names
    total = max(1, sum(counts.pixels))
    data = {
        "train": {"images": len(train), "fingerprint": train.fingerprint()},
        "val": {"images": len(val), "fingerprint": val.fingerprint()},
        "notes": sorted({*train.notes, *val.notes}),
        "pixels": list(counts.pixels),
        "pixels_of_images": list(counts.pixels_of_images),
        "frequencies": {n: p / total for n, p in zip(names, counts.pixels, strict=True)},
    }
    _write_json(folder / "environment.json", environment())
    _write_json(folder / "data.json", data)
    _write_json(folder / "labels.json", train.labels.to_dict())


def stored_counts(
    folder: Path, train: SegmentationDataset, val: SegmentationDataset
) -> ClassCounts | None:
    """Return the class counts of a run that is resumed, or ``None`` if it never wrote them.

    Raises:
        InputError: the data are not those the run was started with.
    """
    file = folder / "data.json"
    if not file.exists():
        return None
    data = json.loads(file.read_text(encoding="utf-8"))
    for dataset in (train, val):
        if data[dataset.split]["fingerprint"] != dataset.fingerprint():
            raise InputError(
                f"{folder} was started with other {dataset.split} data (their fingerprint in "
                "data.json differs); bring the same data back, or give another name"
            )
    return ClassCounts(tuple(data["pixels"]), tuple(data["pixels_of_images"]))


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``metrics.jsonl`` and ``metrics.csv``, whole, so that no row can come twice."""
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    table = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "metrics.csv", table.getvalue())


def write_result(folder: Path, position: Position, images_per_second: float) -> None:
    """Write ``result.json``: scores and confusion counts of the best weights."""
    speed = {"seconds": position.seconds, "images_per_second": images_per_second}
    _write_json(folder / "result.json", {**position.best, **speed})


def environment() -> dict[str, Any]:
    """Return versions, processor, GPU, the current folder's git commit and the command."""
    packages = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "semseg": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "git": _git_commit(),
        "command": sys.argv,
    }


def _processor() -> str:
    """Return the processor's name; Linux tells Python only its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Return the commit of the current folder, or ``None`` where there is no git or no commit."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=2) + "\n")

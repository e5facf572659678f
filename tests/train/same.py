"""Whether two runs are the same in everything but time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

TIMES = {"seconds", "images_per_second", "train_seconds"}


def assert_same_run(one: Path, other: Path) -> None:
    """Compare weights bit by bit, rows, result and the final training state."""
    for name in ("best.safetensors", "last.safetensors"):
        _assert_same_tensors(load_file(one / name), load_file(other / name), name)
    rows = [_read_rows(folder) for folder in (one, other)]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == list(range(1, len(rows[0]) + 1))
    results = [_without_times(json.loads((f / "result.json").read_text())) for f in (one, other)]
    assert results[0] == results[1]
    states = [max((folder / "state").iterdir()) for folder in (one, other)]
    assert states[0].name == states[1].name
    a, b = (torch.load(state / "training.pt", weights_only=True) for state in states)
    _assert_same_tensors(_tensors(a), _tensors(b), "training.pt")


def _assert_same_tensors(a: dict[str, Any], b: dict[str, Any], where: str) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), f"{where}: {key}"


def _tensors(value: Any, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {path: value}
    found: dict[str, torch.Tensor] = {}
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for key, inner in value.items() if isinstance(value, dict) else ():
        found |= _tensors(inner, f"{path}/{key}")
    return found


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [_without_times(json.loads(line)) for line in lines]


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMES}

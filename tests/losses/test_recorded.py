"""Losses against values that their authors' code, or a known port of it, has given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import semseg.losses

PATH = Path(__file__).parents[1] / "expected" / "losses.json"
RECORDED: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
CASES = [(name, case) for name, record in RECORDED.items() for case in record["cases"]]


def batch(name: str, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and target that follow from positions alone; the last of 5 classes is absent.

    Sines, and stripes of seven; the first row and one column are ignored where the code of origin
    knows ignored pixels.
    """
    count, height, width = RECORDED[name]["size"]
    size = (count, classes, height, width)
    flat = torch.arange(count * classes * height * width, dtype=torch.float64)
    logits = 3 * torch.sin(1.7 * flat).view(size)
    y, x = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    image = torch.arange(count).view(-1, 1, 1)
    target = (y * 3 + x * 2 + image) // 7 % min(max(2, classes), 4)
    target[:, 0] = target[0, :, -1] = 255
    if not RECORDED[name]["ignored"]:
        target[target == 255] = 0
    return logits, target


@pytest.mark.parametrize(
    ("name", "case"), CASES, ids=[f"{name}-{case['settings']}" for name, case in CASES]
)
def test_recorded_value(name: str, case: dict[str, Any]) -> None:
    loss = getattr(semseg.losses, name)(*batch(name, case["classes"]), **case["settings"])
    assert loss.item() == pytest.approx(case["value"], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", RECORDED)
def test_origin_is_stated(name: str) -> None:
    assert " at " in RECORDED[name]["origin"]

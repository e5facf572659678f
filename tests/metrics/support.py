"""Predictions and truth that follow from positions alone; recorded numbers belong to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PATH = Path(__file__).parents[1] / "expected" / "metrics.json"
RECORDED: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))

K = 6


def grid() -> list[Tensor]:
    """Row, column and number of each pixel of 4 images of 24 x 32."""
    ranges = (torch.arange(24), torch.arange(32), torch.arange(4))
    return [v.permute(2, 0, 1) for v in torch.meshgrid(*ranges, indexing="ij")]


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Return prediction, target and confidence.

    Class 4 is only predicted, class 5 nowhere; rows and a stripe are ignored; some confidences are
    1, and some lie between two bins.
    """
    y, x, i = grid()
    target = (y // 5 + x // 7 + i) % 4
    prediction = ((y + 1) // 5 + (x + y % 3) // 7 + i) % 4
    prediction = torch.where((x * y + i) % 11 == 0, 4, prediction)
    target[:, :3] = 255
    target[2, :, 20:23] = 255
    number = torch.arange(target.numel()).view(target.shape)
    sure = (1 / 6 + 5 / 6 * torch.sin(0.37 * number.double()).abs()).float().clamp(0.17, 1)
    sure[:, ::5, ::3] = 1.0
    sure[:, 1::6, 1::4] = 0.5
    return prediction, target, sure


def instances() -> tuple[Tensor, Tensor]:
    """Return numbers of predicted and of true instances: one for each patch."""
    y, x, _ = grid()
    return ((y + 1) // 5) * 5 + (x + y % 3) // 7, (y // 5) * 5 + x // 7


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal to 12 digits: means are float64 sums, in any order."""
    return json.dumps(rounded(one), sort_keys=True) == json.dumps(rounded(other), sort_keys=True)


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 12) if isinstance(value, float) else value

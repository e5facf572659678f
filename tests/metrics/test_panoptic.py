"""Panoptic quality by hand; its numbers against the authors' code are in ``test_parity``."""

from __future__ import annotations

import pytest
import torch

from semseg.core.checks import InputError
from semseg.metrics import PanopticQuality


def row(*ids: int) -> torch.Tensor:
    return torch.tensor([[ids]])


def test_by_hand() -> None:
    metric = PanopticQuality(3)
    truth, number = row(1, 1, 1, 1, 2, 2, 2, 0), row(1, 1, 2, 2, 0, 0, 0, 0)
    guess, guessed = row(1, 1, 1, 0, 2, 2, 1, 0), row(1, 1, 2, 0, 0, 0, 3, 0)
    metric.update_instances(guess, truth, guessed, number)
    # class 1: one pair at 1, one at 1/2 that does not match, one extra; class 2: one pair at 2/3;
    # class 0: 1/2 does not match
    state = {key: value.tolist() for key, value in metric.state.items()}
    assert state == {
        "matched": [0, 1, 1],
        "extra": [1, 2, 0],
        "missed": [1, 1, 0],
        "iou": pytest.approx([0, 1, 2 / 3]),
    }
    result = metric.result()
    assert result["per_class"] == pytest.approx([0, 1 / 2.5, 2 / 3])
    assert result["sq"] == pytest.approx((0 + 1 + 2 / 3) / 3)
    assert result["rq"] == pytest.approx((0 + 1 / 2.5 + 1) / 3)


def test_ignored_pixels_leave_unions_and_segments_alone() -> None:
    metric = PanopticQuality(3)
    metric.update(row(1, 1, 1, 2, 2, 2), row(1, 1, 255, 255, 255, 0))
    # class 1 matches wholly; class 2 lies on ignored pixels for more than half
    assert metric.state["extra"].tolist() == [0, 0, 0]
    assert metric.state["missed"].tolist() == [1, 0, 0]
    assert metric.state["iou"].tolist() == [0, 1, 0]
    half = PanopticQuality(3)
    half.update(row(2, 2), row(255, 0))
    assert half.state["extra"].tolist() == [0, 0, 1]


def test_shapes_of_instances() -> None:
    ids = row(0, 0)
    with pytest.raises(InputError, match=r"instances are \(1, 1, 1\), classes \(1, 1, 2\)"):
        PanopticQuality(2).update_instances(ids, ids, ids[..., :1], ids)

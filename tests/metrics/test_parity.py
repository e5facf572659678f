"""Scores against the numbers that other tools gave for the same predictions."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from semseg.core.checks import UnknownNameError
from semseg.metrics import (
    BoundaryIoU,
    CalibrationError,
    ConfusionMatrix,
    PanopticQuality,
    PerImage,
    parity,
)
from semseg.metrics.parity import TOOLS
from tests.metrics.support import RECORDED, K, batch, instances


def close(got: Any, expected: Any, tolerance: float) -> None:
    """Compare numbers in lists and dictionaries; None is equal to None alone."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            close(got[key], expected[key], tolerance)
    elif isinstance(expected, list):
        for one, other in zip(got, expected, strict=True):
            close(one, other, tolerance)
    elif expected is None:
        assert got is None
    else:
        assert got == pytest.approx(expected, rel=tolerance, abs=1e-12)


def matrix() -> ConfusionMatrix:
    counts = ConfusionMatrix(K)
    counts.update(*batch()[:2])
    return counts


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_numbers(tool: str) -> None:
    expected = dict(RECORDED[tool]["value"])
    categories = expected.pop("categories", None)
    got = parity(matrix(), tool, categories)
    # torchmetrics and mmsegmentation work in float32
    close(got, expected, 1e-12 if tool in ("cityscapesscripts", "detectron2") else 3e-7)
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_where_the_tools_agree_with_the_rules() -> None:
    scores = {rule: matrix().scores(rule) for rule in ("present", "gt")}
    assert parity(matrix(), "detectron2")["mIoU"] == pytest.approx(100 * scores["gt"].miou)
    assert parity(matrix(), "mmsegmentation")["mIoU"] == round(100 * scores["present"].miou, 2)
    assert scores["present"].miou != pytest.approx(scores["gt"].miou, rel=0.1)


def test_unknown_tools_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown tool 'mmseg'; known: 'cityscapesscripts'"):
        parity(matrix(), "mmseg")


@pytest.mark.parametrize("width", [0.02, 0.06])
def test_boundary_iou_is_the_authors(width: float) -> None:
    metric = BoundaryIoU(K, width=width)
    metric.update(*batch())
    close(metric.result()["per_class"], RECORDED["boundary_iou"]["value"][str(width)], 1e-12)


def test_calibration_is_that_of_torchmetrics() -> None:
    metric = CalibrationError(K, closed="left")
    metric.update(*batch())
    got, expected = metric.result(), RECORDED["torchmetrics_ece"]["value"]
    close({key: got[key] for key in expected}, expected, 1e-5)


def test_panoptic_quality_is_the_authors() -> None:
    whole, parts = PanopticQuality(K), PanopticQuality(K)
    prediction, target, _ = batch()
    whole.update(prediction, target)
    parts.update_instances(prediction, target, *instances())
    for metric, name in ((whole, "panoptic"), (parts, "panoptic_instances")):
        expected = RECORDED[name]["value"]
        got = metric.result()
        close(
            {key: got[key] for key in ("pq", "sq", "rq")},
            {k: expected[k] for k in ("pq", "sq", "rq")},
            1e-12,
        )
        close([value or 0.0 for value in got["per_class"]], expected["per_class"], 1e-12)


def test_dice_per_image_is_that_of_torchmetrics() -> None:
    prediction, target, _ = batch()
    metric = PerImage(K)
    metric.update(prediction, torch.where(target == 255, 0, target))
    expected = RECORDED["torchmetrics_dice_per_image"]["value"]
    assert metric.result()["dice"] == pytest.approx(expected, rel=1e-6)

"""Calibration error against a loop over pixels."""

from __future__ import annotations

import pytest
import torch

from semseg.core.checks import InputError
from semseg.metrics import CalibrationError
from tests.metrics.support import K, batch


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_against_a_loop(bins: int) -> None:
    metric = CalibrationError(K, bins=bins)
    prediction, target, sure = batch()
    metric.update(prediction, target, sure)
    edges = torch.linspace(0, 1, bins + 1).tolist()
    found: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    every = zip(*(x.flatten().tolist() for x in (prediction, target, sure)), strict=True)
    for guess, truth, confidence in every:
        if truth != 255:
            (place,) = [i for i in range(bins) if edges[i] < confidence <= edges[i + 1]]
            found[place].append((confidence, guess == truth))
    total = sum(len(pixels) for pixels in found)
    gaps, rows = [], []
    for pixels in found:
        if pixels:
            confidence = sum(c for c, _ in pixels) / len(pixels)
            accuracy = sum(right for _, right in pixels) / len(pixels)
            gaps.append((abs(confidence - accuracy), len(pixels)))
            rows.append([confidence, accuracy, len(pixels)])
    got = metric.result()
    assert got["ece"] == pytest.approx(sum(gap * n for gap, n in gaps) / total, rel=1e-6)
    assert got["mce"] == pytest.approx(max(gap for gap, _ in gaps), rel=1e-6)
    assert got["reliability"] == [pytest.approx(row, rel=1e-6) for row in rows]


def test_sums_do_not_depend_on_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    sure = torch.rand(1, 200, 200, generator=generator)
    ids = torch.zeros(1, 200, 200).long()
    one, two = CalibrationError(2), CalibrationError(2)
    one.update(ids, ids, sure)
    order = torch.randperm(200, generator=generator)
    for row in order.tolist():
        two.update(ids[:, [row]], ids[:, [row]], sure[:, [row]])
    assert one.result() == two.result()


def test_what_is_no_probability_is_refused() -> None:
    ids = torch.zeros(1, 1, 2).long()
    with pytest.raises(InputError, match=r"probability of each decision, \(1, 1, 2\), got None"):
        CalibrationError(2).update(ids, ids)
    for value in (1.5, -0.1, torch.nan):
        with pytest.raises(InputError, match="from 0 to 1; take the softmax"):
            CalibrationError(2).update(ids, ids, torch.full((1, 1, 2), value))
    with pytest.raises(InputError, match="at least one bin, got 0"):
        CalibrationError(2, bins=0)

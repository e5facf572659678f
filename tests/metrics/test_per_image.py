"""Scores per image, and intervals against drawings one by one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from semseg.core.checks import InputError
from semseg.metrics import ConfusionMatrix, PerImage, bootstrap
from semseg.metrics.per_image import KEYS, scores_of
from tests.metrics.support import K, batch


def images() -> PerImage:
    metric = PerImage(K)
    metric.update(*batch()[:2])
    return metric


def matrix_of(*which: int) -> ConfusionMatrix:
    prediction, target, _ = batch()
    matrix = ConfusionMatrix(K)
    for i in which:
        matrix.update(prediction[i], target[i])
    return matrix


@pytest.mark.parametrize("rule", ["present", "gt", "all"])
def test_scores_are_those_of_the_confusion_matrix(rule) -> None:
    counts = images().counts().astype(np.float64)
    for i in range(4):
        scores, got = matrix_of(i).scores(rule), scores_of(counts[[i]], rule)
        for key in KEYS:
            assert got[key][0] == pytest.approx(getattr(scores, key)), key
        assert got["iou"][0] == pytest.approx(scores.iou, nan_ok=True)
    mean = sum(matrix_of(i).scores(rule).miou for i in range(4)) / 4
    assert images().result(rule)["miou"] == pytest.approx(mean)


def test_an_image_without_labels_has_no_score() -> None:
    metric = images()
    prediction, target, _ = batch()
    metric.update(prediction[:1], torch.full_like(target[:1], 255))
    result = metric.result()
    assert result["images"] == 5
    assert result["miou"] == images().result()["miou"]


def test_interval_against_drawings_one_by_one() -> None:
    found = bootstrap(images(), drawings=150, seed=7)
    counts = images().counts()
    order = np.lexsort(counts.reshape(4, -1).T[::-1])
    random = np.random.default_rng(7)
    values = []
    for rows in (100, 50):  # as many at once as the module draws
        for drawn in random.multinomial(4, np.full(4, 0.25), size=rows):
            picked = [int(order[i]) for i in range(4) for _ in range(drawn[i])]
            values.append(matrix_of(*picked).scores())
    for key in KEYS:
        ends = np.quantile([getattr(v, key) for v in values], [0.025, 0.975])
        assert (found.low[key], found.high[key]) == pytest.approx(tuple(ends))
    first = np.quantile([v.iou[0] for v in values], [0.025, 0.975])
    assert found.iou[0] == pytest.approx(tuple(first))
    assert math.isnan(found.iou[5][0])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["iou"][5] == [None, None]


def test_interval_follows_from_the_seed_and_not_from_the_order() -> None:
    prediction, target, _ = batch()
    other = PerImage(K)
    for i in (2, 0, 3, 1):
        part = PerImage(K)
        part.update(prediction[[i]], target[[i]])
        other.merge(part)
    assert repr(bootstrap(other)) == repr(bootstrap(images()))
    few = [repr(bootstrap(images(), drawings=9, seed=seed).low) for seed in range(2)]
    assert few[0] != few[1]


def test_interval_holds_the_score_and_shrinks_with_images() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(2, (400, 4, 4), generator=generator)
    wrong = torch.rand(400, 4, 4, generator=generator) < torch.rand(400, 1, 1, generator=generator)
    prediction = torch.where(wrong, 1 - target, target)
    widths = []
    for count in (25, 400):
        metric = PerImage(2)
        metric.update(prediction[:count], target[:count])
        matrix = ConfusionMatrix(2)
        matrix.update(prediction[:count], target[:count])
        found = bootstrap(metric)
        assert found.low["miou"] < matrix.scores().miou < found.high["miou"]
        widths.append(found.high["accuracy"] - found.low["accuracy"])
    # by the root of 16, roughly
    assert 2.5 < widths[0] / widths[1] < 6
    # the mean of 400 accuracies has a standard error; 1.96 of it on either side
    each = (prediction == target).double().mean((1, 2))
    assert widths[1] == pytest.approx(2 * 1.96 * float(each.std()) / 20, rel=0.1)


@pytest.mark.parametrize("settings", [{"drawings": 0}, {"level": 1.0}])
def test_refusals(settings: dict) -> None:
    with pytest.raises(InputError, match="an interval needs images, drawings and a level"):
        bootstrap(images(), **settings)
    with pytest.raises(InputError, match=r"got 0, 1000 and 0\.95"):
        bootstrap(PerImage(2))

"""Metrics beside the confusion matrix, over a dataset and over a run."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from semseg.core.preprocess import Preprocessing
from semseg.metrics import PerImage, build_metrics, list_metrics
from semseg.train import Run, evaluate, validate_run
from semseg.train.evaluation import measure_run
from tests.metrics.support import same
from tests.train.tiny import TinyDataset

RULE = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.mark.parametrize("channels_out", [1, 2])
def test_shares_add_up_to_the_whole(channels_out: int) -> None:
    torch.manual_seed(0)
    model, dataset = nn.Conv2d(3, channels_out, 1), TinyDataset(length=5)
    parts = [build_metrics(list_metrics(), 2) for _ in range(4)]
    matrix = evaluate(model, dataset, RULE, metrics=list(parts[0].values()))
    for i in range(3):
        evaluate(model, dataset, RULE, share=(i, 3), metrics=list(parts[1 + i].values()))
    for name, metric in parts[0].items():
        merged = parts[3][name]
        merged.merge(parts[1][name])
        merged.merge(parts[2][name])
        assert same(merged.result(), metric.result()), name
    images = parts[0]["per_image"]
    assert isinstance(images, PerImage)
    assert images.counts()[:, 0].sum() == matrix.counts.diag().sum()


def test_a_run_is_measured_as_it_is_validated(whole_run: Run) -> None:
    measured = measure_run(whole_run.folder, metrics=["boundary_iou"], interval=True)
    assert measured.scores == validate_run(whole_run.folder)
    assert measured.interval is not None
    assert measured.interval.low["miou"] <= measured.scores.miou <= measured.interval.high["miou"]
    found = measured.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["metrics"]["boundary_iou"]["absent"] == "present"

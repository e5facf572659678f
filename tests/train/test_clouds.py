"""Point clouds are trained on, resumed, validated and predicted as images are."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semseg.core.checkpoint import read_info
from semseg.core.checks import InputError
from semseg.data import build_dataset
from semseg.predict.points import PointPredictor
from semseg.train import Run, train
from semseg.train.evaluation import measure_run, validate_run
from tests.train.same import assert_same_run

CLOUDS: dict[str, Any] = {
    "name": "clouds",
    "seed": 3,
    "model": {
        "name": "point_transformer",
        "settings": {"width": 8, "blocks": [0, 0, 0, 0, 0]},
    },
    "data": {
        "name": "synthetic_rooms",
        "settings": {"points": 600, "length": 4, "voxel": 0.05},
        "workers": 0,
    },
    "augment": {"points": {"scale": [0.9, 1.1], "color_jitter": 1.0, "crop": 300}},
    "loss": {"terms": [{"name": "cross_entropy", "settings": {"class_weights": "enet"}}]},
    "train": {"epochs": 2, "batch_size": 2, "save_every_steps": 1, "device": "cpu"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return train({**copy.deepcopy(CLOUDS), "out": str(tmp_path_factory.mktemp("clouds"))})


def test_a_run_says_what_it_did(run: Run) -> None:
    assert run.finished
    assert run.step == 4
    info = read_info(run.folder / "best.safetensors")
    assert info.preprocessing.voxel == 0.05
    assert info.settings["in_channels"] == 3
    facts = json.loads((run.folder / "data.json").read_text())
    assert sum(facts["pixels"]) == 4 * 600


def test_a_run_goes_on_bit_by_bit(run: Run, tmp_path: Path, at_step) -> None:
    import os
    import signal

    recipe = {**copy.deepcopy(CLOUDS), "out": str(tmp_path)}
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train(recipe)
    assert not stopped.finished
    resumed = train(recipe, resume=True)
    assert resumed.finished
    assert_same_run(resumed.folder, run.folder)


def test_the_best_score_again(run: Run) -> None:
    assert validate_run(run.folder, device="cpu").miou == run.miou
    measured = measure_run(run.folder, device="cpu", metrics=["ece"], interval=True)
    assert measured.scores.miou == run.miou
    dataset = build_dataset("synthetic_rooms", "val", **CLOUDS["data"]["settings"])
    assert int(measured.matrix.counts.sum()) <= len(dataset) * 600
    wanted = "boundary_iou is about shapes in images; leave it out for clouds"
    with pytest.raises(InputError, match=re.escape(wanted)):
        measure_run(run.folder, device="cpu", metrics=["boundary_iou"])


def test_predictions_are_those_of_validation(run: Run) -> None:
    predictor = PointPredictor(run.folder, "cpu", rounds=1000)
    measured = measure_run(run.folder, device="cpu")
    dataset = build_dataset("synthetic_rooms", "val", **{**CLOUDS["data"]["settings"], "length": 1})
    rows = np.asarray(dataset[0].image)[:, 0].T
    once = PointPredictor(run.folder, "cpu")(rows[:, :3], rows[:, 3:])
    every = predictor(rows[:, :3], rows[:, 3:])
    assert (once.ids == every.ids).mean() > 0.9
    assert measured.labels.names == once.labels.names


def test_kinds_that_do_not_fit(tmp_path: Path) -> None:
    recipe = {**copy.deepcopy(CLOUDS), "out": str(tmp_path)}
    wanted = (
        "point_transformer takes clouds, synthetic holds images; give clouds, or a network for "
        "images such as "
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        train(recipe, overrides={"data.name": "synthetic", "data.settings": {}})
    wanted = (
        "tiny takes images, synthetic_rooms holds clouds; give images, or a network for clouds "
        "such as point_transformer"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        train(recipe, overrides={"model.name": "tiny", "model.settings": {}})
    with pytest.raises(InputError, match=r"augment\.crop is for images"):
        train(recipe, overrides={"augment.crop": [8, 8]})


@pytest.mark.usefixtures("report")
def test_a_report_without_pictures(tmp_path: Path) -> None:
    short = {"out": str(tmp_path), "train.epochs": 1, "train.channels_last": True}
    done = train(copy.deepcopy(CLOUDS), overrides=short)
    html = (done.folder / "report.html").read_text(encoding="utf-8")
    assert "synthetic_rooms holds clouds, of which there are no pictures" in html

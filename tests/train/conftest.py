"""A run small enough for every test: batch norm, dropout, accumulation, average, clipping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from semseg.train import Run, train
from tests.train.tiny import listed

RECIPE: dict[str, Any] = {
    "name": "whole",
    "seed": 7,
    "model": {"name": "tiny"},
    "data": {"name": "synthetic", "settings": {"length": 13, "size": [48, 64]}, "workers": 0},
    "augment": {"crop": [32, 48], "scale": [0.8, 1.25], "brightness": 0.2},
    "loss": {"terms": [{"name": "cross_entropy", "settings": {"class_weights": "enet"}}]},
    "optimizer": {"name": "sgd", "lr": 0.02, "nesterov": True, "weight_decay": 1e-3},
    "schedule": {"name": "cosine", "warmup_steps": 2},
    "train": {
        "epochs": 3,
        "batch_size": 2,
        "accumulate": 2,
        "clip_norm": 5.0,
        "ema_decay": 0.5,
        "save_every_steps": 2,
        "device": "cpu",
    },
}
"""Three steps per epoch (one image of 13 is left out), nine in all."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Equal numbers need equal threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _tiny_network() -> Iterator[None]:
    with listed():
        yield


@pytest.fixture(autouse=True)
def _no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report reads the folder and changes nothing; one test writes it, the others save time."""
    if "report" not in request.fixturenames:
        monkeypatch.setattr("semseg.train.report.write_report", lambda folder: None)


@pytest.fixture
def report() -> None:
    """Ask for the report to be written."""


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return {**copy.deepcopy(RECIPE), "out": str(tmp_path / "runs")}


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The recipe trained without a stop."""
    torch.set_num_threads(1)
    with listed():
        return train({**copy.deepcopy(RECIPE), "out": str(tmp_path_factory.mktemp("whole"))})


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Do something once, after a given optimiser step."""

    def arm(step: int, action: Callable[[], None]) -> None:
        from semseg.train.loop import Loop

        original = Loop._show

        def show(self: Loop) -> None:
            original(self)
            if self.position.step == step:
                monkeypatch.setattr(Loop, "_show", original)
                action()

        monkeypatch.setattr(Loop, "_show", show)

    return arm

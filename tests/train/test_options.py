"""What a recipe may ask of the loop beyond epochs and batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from semseg.core.checks import InputError, SemsegError
from semseg.data import build_dataset
from semseg.data.subset import fold_indices
from semseg.train import Run, load_recipe, train, validate_run
from semseg.train.splits import open_split


def rows(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def weights(run: Run, name: str = "last.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run.folder / name)


def test_patience_ends_a_run_that_gets_no_better(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["optimizer"] = {"name": "sgd", "lr": 1e-12, "momentum": 0, "weight_decay": 0}
    recipe["train"] |= {"epochs": 9, "patience": 2, "ema_decay": None}
    recipe["model"]["settings"] = {"norm": False}
    run = train(recipe)
    assert run.finished
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3]
    assert "no better score in 2 validations; stopping early" in capsys.readouterr().out
    assert train(recipe, resume=True).step == run.step, "a finished run stays finished"


def test_patience_counts_validations_alone(recipe: dict[str, Any]) -> None:
    recipe["optimizer"] = {"name": "sgd", "lr": 1e-12, "momentum": 0, "weight_decay": 0}
    recipe["train"] |= {"epochs": 9, "patience": 1, "ema_decay": None, "val_every": 3}
    recipe["model"]["settings"] = {"norm": False}
    assert len(rows(train(recipe))) == 6


def test_a_fold_trains_on_the_rest(recipe: dict[str, Any]) -> None:
    recipe["data"] |= {"folds": 3, "fold": 1}
    recipe["train"] |= {"epochs": 1}
    run = train(recipe)
    config = load_recipe(run.folder)
    train_split, val_split = (open_split(config, split) for split in ("train", "val"))
    whole = build_dataset("synthetic", "train", length=13, size=(48, 64))
    indices = fold_indices(13, 3, 1)
    assert [len(train_split), len(val_split)] == [len(part) for part in indices]
    assert val_split.path(0) == whole.path(indices[1][0])
    data = json.loads((run.folder / "data.json").read_text())
    assert (data["train"]["images"], data["val"]["images"]) == (9, 4)
    assert validate_run(run.folder).miou == run.miou, "the same images are validated again"


def test_overfitting_validates_on_what_it_trains_on(recipe: dict[str, Any]) -> None:
    recipe["train"] |= {"epochs": 1, "overfit_batches": 2}
    run = train(recipe)
    data = json.loads((run.folder / "data.json").read_text())
    assert (data["train"]["images"], data["val"]["images"]) == (8, 8)
    config = load_recipe(run.folder)
    held = [open_split(config, split) for split in ("train", "val")]
    assert held[0].path(7) == held[1].path(7) == "synthetic/medium/0/train/000007"


@pytest.mark.parametrize("sampling", ["class_uniform", "repeat_rare"])
def test_sampled_runs_resume_bit_equal(recipe: dict[str, Any], sampling: str, at_step) -> None:
    recipe["data"]["sampling"] = sampling
    recipe["augment"] |= {"cutmix": 0.5}
    recipe["train"] |= {"epochs": 2}
    whole = train(recipe)
    recipe |= {"name": "stopped"}

    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    at_step(5, kill)
    with pytest.raises(Killed):
        train(recipe)
    resumed = train(recipe, resume=True)
    for key, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[key], tensor), key
    plain = train({**recipe, "name": "plain", "data": {**recipe["data"], "sampling": "uniform"}})
    assert any(not torch.equal(weights(plain)[k], t) for k, t in weights(whole).items())


def test_computing_again_gives_the_same_weights(recipe: dict[str, Any]) -> None:
    recipe["model"] = {"name": "erfnet"}
    recipe["data"]["settings"]["length"] = 4
    recipe["train"] |= {"epochs": 1}
    plain = train(recipe)
    again = train({**recipe, "name": "again", "train": {**recipe["train"], "recompute": True}})
    for key, tensor in weights(plain).items():
        assert torch.equal(weights(again)[key], tensor), key


def test_frozen_norms_stay_through_a_run(recipe: dict[str, Any]) -> None:
    recipe["train"] |= {"freeze_norm": True}
    held = weights(train(recipe))
    assert held["norm.running_mean"].eq(0).all()
    assert held["norm.running_var"].eq(1).all()
    assert held["norm.weight"].eq(1).all()
    assert not held["stem.weight"].eq(0).any()


def test_profile_writes_where_time_goes(recipe: dict[str, Any]) -> None:
    recipe["train"] |= {"profile": True}
    folder = train(recipe).folder
    assert "convolution" in (folder / "profile.txt").read_text()
    events = json.loads((folder / "profile.json").read_text())["traceEvents"]
    assert len(events) > 100


def test_a_loss_that_diverges_names_the_last_good_weights(
    recipe: dict[str, Any], at_step, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semseg.train.session import Objective

    forward = Objective.forward

    def spoil() -> None:
        def broken(self: Objective, images: torch.Tensor, masks: torch.Tensor):
            return {k: v * float("nan") for k, v in forward(self, images, masks).items()}

        monkeypatch.setattr(Objective, "forward", broken)

    at_step(4, spoil)
    with pytest.raises(SemsegError) as caught:
        train(recipe)
    last = Path(recipe["out"]) / "whole" / "last.safetensors"
    assert " is nan at step 5 with " in str(caught.value)
    assert str(caught.value).endswith(f"; the last good weights are {last}")
    assert all(tensor.isfinite().all() for tensor in load_file(last).values())


def test_refusals(recipe: dict[str, Any]) -> None:
    recipe["data"] |= {"folds": 14}
    with pytest.raises(InputError, match="fold 0 of 14 folds of 13 samples"):
        train(recipe)
    recipe["data"] |= {"folds": 3, "fold": 3}
    with pytest.raises(InputError, match="data: fold 3 of 3; they are counted from 0"):
        train(recipe)
    recipe["data"] |= {"folds": None, "fold": 0}
    recipe["schedule"] = {"name": "step"}
    with pytest.raises(InputError, match="schedule step needs step_epochs, and no other has it"):
        train(recipe)

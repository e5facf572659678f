"""Every recipe is complete and trains."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from semseg.data import dataset_entry
from semseg.models import model_entry
from semseg.train import TrainConfig, load_recipe, train

ROOT = Path(__file__).parents[2]
RECIPES = [*sorted((ROOT / "recipes").glob("*.yaml")), ROOT / "src/semseg/cli/demo.yaml"]
SECTIONS = {name for name in TrainConfig.model_fields if name not in ("out", "seed")}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid_and_named_after_its_file(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    dataset_entry(recipe.data.name)
    known = {field.name for field in fields(model_entry(recipe.model.name).config)}
    assert set(recipe.model.settings) <= known


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_complete(path: Path) -> None:
    """No section is left to the defaults, so a reader sees everything that decides the run."""
    assert load_recipe(path).model_fields_set >= SECTIONS


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains_two_steps_in_a_tiny_form(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    run = train(path, overrides=_tiny(recipe, tmp_path))
    assert run.finished
    assert run.step == 2
    assert run.miou is not None
    assert (run.folder / "best.safetensors").is_file()


TINY_DATA = {
    "images": {
        "data.name": "synthetic",
        "data.settings": {"size": [64, 64], "length": 4},
        "augment.resize": None,
        "augment.crop": [64, 64],
    },
    "clouds": {
        "data.name": "synthetic_rooms",
        "data.settings": {"points": 600, "length": 4},
        "augment.points.crop": 400,
    },
}


def _tiny(recipe: TrainConfig, out: Path) -> dict[str, Any]:
    """Return changes that keep network, loss, optimiser and schedule and shrink the rest."""
    return {
        "out": str(out),
        "model.pretrained": False,
        "model.settings": {**dict(model_entry(recipe.model.name).small), **_trunk(recipe)},
        "data.root": None,
        "data.workers": 0,
        **TINY_DATA[model_entry(recipe.model.name).takes],
        "train.epochs": 1,
        "train.batch_size": 2,
        "train.accumulate": 1,
        "train.precision": "fp32",
        "train.device": "cpu",
        "schedule.warmup_epochs": None,
    }


def _trunk(recipe: TrainConfig) -> dict[str, str]:
    """A tiny trunk where the recipe names one."""
    return {"encoder": "test_resnet"} if "encoder" in recipe.model.settings else {}

"""A folder dataset, a recipe for it and a trained run, all tiny."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from semseg.cli import main

SIZE = (32, 48)
NAMES = ("sky", "road", "tree")


def write_dataset(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Write four pairs for train and two for val; classes differ in colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            mask = np.repeat(rng.integers(len(names), size=(4, 6), dtype=np.uint8), 8, axis=0)
            mask = np.repeat(mask, 8, axis=1)
            Image.fromarray(mask * 80).convert("RGB").save(root / f"images/{split}/{i}.png")
            Image.fromarray(mask).save(root / f"masks/{split}/{i}.png")
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": list(names)}))
    return root


def write_recipe(folder: Path, root: Path) -> Path:
    """Write a recipe that trains two steps on a dataset."""
    recipe = {
        "name": "tiny",
        "out": str(folder / "runs"),
        "model": {"name": "unet", "settings": {"width": 4}},
        "data": {"name": "folder", "root": str(root), "workers": 0},
        "train": {"epochs": 1, "batch_size": 2, "device": "cpu"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


@pytest.fixture
def recipe(tmp_path: Path, dataset: Path) -> Path:
    return write_recipe(tmp_path, dataset)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder, write_dataset(folder / "data"))
    assert main(["train", str(recipe)]) == 0
    return folder / "runs" / "tiny"


@pytest.fixture
def mistake(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail as a user's mistake; return its one line."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        streams = capsys.readouterr()
        lines = streams.err.splitlines()
        assert len(lines) == 1, streams.err
        assert lines[0].startswith("semseg: ")
        return lines[0]

    return call

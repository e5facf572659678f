"""Training: a recipe in, a run folder out; nothing heavy is imported until it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semseg.train.config import TrainConfig, load_recipe
    from semseg.train.evaluation import evaluate, validate_run
    from semseg.train.folder import Run
    from semseg.train.start import train

__all__ = ["Run", "TrainConfig", "evaluate", "load_recipe", "train", "validate_run"]

_HOMES = {
    "Run": "semseg.train.folder",
    "TrainConfig": "semseg.train.config",
    "evaluate": "semseg.train.evaluation",
    "load_recipe": "semseg.train.config",
    "train": "semseg.train.start",
    "validate_run": "semseg.train.evaluation",
}


def __getattr__(name: str) -> Any:
    """Import the home of a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'semseg.train' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted(__all__)

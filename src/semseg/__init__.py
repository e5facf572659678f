"""Semantic segmentation: every network from FCN to today, trained, checked, run and shipped.

The names below are loaded on first use, so that ``import semseg`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semseg.models import create_model, list_models, load, model_entry
    from semseg.predict import Predictor
    from semseg.train import train

__version__ = "0.1.0"

__all__ = [
    "Predictor",
    "__version__",
    "create_model",
    "list_models",
    "load",
    "model_entry",
    "train",
]

_HOMES = {
    "Predictor": "semseg.predict",
    "create_model": "semseg.models",
    "list_models": "semseg.models",
    "load": "semseg.models",
    "model_entry": "semseg.models",
    "train": "semseg.train",
}


def __getattr__(name: str) -> Any:
    """Import the home of a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'semseg' has no attribute {name!r}")
    # `semseg.train` is a package and a function: the function is what users call, so it is
    # put over the submodule's name once that is imported.
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted(__all__)

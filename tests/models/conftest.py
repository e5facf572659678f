"""The networks that the registry holds, as parameters of every test that asks for ``name``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest

from semseg.models import create_model, list_models, model_entry
from semseg.models.base import Entry, SegmentationModel
from tests.models.support import fill

Build = Callable[..., SegmentationModel]


# module scope keeps the tests of one network together, so that its tiny model is built once
@pytest.fixture(params=list_models(), scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def entry(name: str) -> Entry:
    return model_entry(name)


@pytest.fixture
def build(name: str, entry: Entry) -> Build:
    """Build the network at its ``small`` settings, filled with noise, in eval mode."""

    def make(**settings: Any) -> SegmentationModel:
        merged = {"num_classes": 5} | dict(entry.small) | settings
        return copy.deepcopy(_filled(name, tuple(sorted(merged.items()))))

    return make


@lru_cache(maxsize=2)
def _filled(name: str, settings: tuple[tuple[str, Any], ...]) -> SegmentationModel:
    model = create_model(name, **dict(settings))
    fill(model)
    return model


@pytest.fixture(autouse=True)
def _expected_failure(request: pytest.FixtureRequest) -> None:
    """Mark a contract test as failing where the network's entry says so, with its reason."""
    if "name" not in request.fixturenames:
        return
    reasons = model_entry(request.getfixturevalue("name")).xfail
    if reason := reasons.get(request.node.originalname):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

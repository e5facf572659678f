"""The recipe's keys as help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from semseg.cli import main
from semseg.cli.recipe_help import Key, recipe_keys
from semseg.train.config import TrainConfig


class Inner(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    kind: Literal["a", "b"] = "a"
    """Which
    one."""
    size: tuple[Annotated[int, Field(ge=1)], int] | None = None


class Outer(BaseModel):
    path: Path
    inner: Inner = Field(default_factory=Inner)
    many: tuple[Inner, ...] = (Inner(),)
    free: dict[str, object] = Field(default_factory=dict)


def test_keys_of_a_model() -> None:
    assert list(recipe_keys(Outer)) == [
        Key("path", "path", "required", ""),
        Key("inner.kind", "a | b", "a", "Which one."),
        Key("inner.size", "[integer, integer] | null", "null", ""),
        Key("many", "list of {kind, size}", "[{kind: a, size: null}]", ""),
        Key("free", "mapping", "{}", ""),
    ]


@pytest.mark.parametrize("key", list(recipe_keys(TrainConfig)), ids=lambda key: key.name)
def test_every_key_of_a_recipe_says_what_it_means(key: Key) -> None:
    assert key.description.endswith(".")


def test_help_of_train_shows_every_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for key in recipe_keys(TrainConfig):
        assert f"--{key.name} " in text

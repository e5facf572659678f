"""Recipes: what is read, and the one line that says what is wrong."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from semseg.core.checks import FileError, InputError, SemsegError, SettingError
from semseg.train import TrainConfig, load_recipe
from semseg.train.config import differences, parse_recipe

LEAST = {"name": "t", "model": {"name": "unet"}, "data": {"name": "synthetic"}}


def _sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for part in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _sections(part)


def test_every_key_is_described() -> None:
    sections = list(_sections(TrainConfig))
    assert len(sections) >= 9
    for section in sections:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_recipe_survives_being_written_and_read(tmp_path: Path) -> None:
    import yaml

    config = parse_recipe({**LEAST, "augment": {"crop": [8, 9]}, "out": "somewhere"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    assert load_recipe(tmp_path) == config
    assert load_recipe(tmp_path / "config.yaml") == config
    assert config.folder == Path("somewhere/t")


def test_overrides_win_and_leave_the_recipe_alone() -> None:
    data = {**LEAST, "train": {"epochs": 3}}
    config = parse_recipe(
        data, {"train.epochs": 5, "optimizer.lr": "1e-2", "model.settings.width": 4}
    )
    assert (config.train.epochs, config.optimizer.lr) == (5, 0.01)
    assert config.model.settings == {"width": 4}
    assert data["train"] == {"epochs": 3}
    assert LEAST["model"] == {"name": "unet"}


def _with(**changes: Any) -> dict[str, Any]:
    return {**LEAST, **changes}


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (
            _with(train={"epoch": 3}),
            SettingError,
            "r.yaml: no setting 'train.epoch'; did you mean 'epochs'?",
        ),
        (_with(losss={}), SettingError, "r.yaml: no setting 'losss'; did you mean 'loss'?"),
        (
            _with(loss={"terms": [{"name": "dice", "wieght": 2}]}),
            SettingError,
            "r.yaml: no setting 'loss.terms.0.wieght'; did you mean 'weight'?",
        ),
        (
            _with(augment={"crops": 3}, train={"epochs": 0}),
            SettingError,
            "r.yaml: no setting 'augment.crops'; did you mean 'crop'? (and 1 more)",
        ),
        ({"name": "t", "model": {"name": "x"}}, InputError, "r.yaml: 'data' is missing; add it"),
        (
            _with(train={"epochs": 0}),
            InputError,
            "r.yaml: train.epochs is 0; it should be greater than or equal to 1",
        ),
        (
            _with(optimizer={"name": "lamb"}),
            InputError,
            "r.yaml: optimizer.name is 'lamb'; it should be 'adamw', 'adam', 'sgd' or 'rmsprop'",
        ),
        (
            _with(optimizer={"nesterov": True}),
            InputError,
            "r.yaml: optimizer: nesterov needs sgd with momentum",
        ),
        (
            _with(schedule={"warmup_steps": 3, "warmup_epochs": 1}),
            InputError,
            "r.yaml: schedule: give warmup_steps or warmup_epochs, not both",
        ),
        (
            _with(schedule={"name": "one_cycle", "warmup_steps": 3}),
            InputError,
            "r.yaml: schedule: one_cycle rises by itself; leave the warm-up out",
        ),
        (
            _with(name="a/b"),
            InputError,
            r"r.yaml: name is 'a/b'; it should match pattern '^[\w][\w.\-]*$'",
        ),
    ],
)
def test_what_is_wrong_in_one_line(
    data: dict[str, Any], kind: type[SemsegError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        parse_recipe(data, source="r.yaml")
    assert str(caught.value) == message


def test_loss_settings_are_checked_with_the_recipe() -> None:
    terms = [{"name": "cross_entropy", "settings": {"smoothing": 0.1}}]
    with pytest.raises(SettingError, match="loss cross_entropy has no setting 'smoothing'"):
        parse_recipe(_with(loss={"terms": terms}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist; give a YAML file"),
        ("a: [", "is not YAML: "),
        ("just words", "holds no sections; it needs at least name, model and data"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "r.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FileError, match=message):
        load_recipe(path)


def test_override_into_a_value_is_refused() -> None:
    with pytest.raises(SettingError, match=r"'name\.first' goes into 'name', which has no keys"):
        parse_recipe(LEAST, {"name.first": 1})


def test_differences_are_named_by_path() -> None:
    old = parse_recipe(LEAST)
    new = parse_recipe(LEAST, {"optimizer.lr": 0.5, "model.settings.width": 4})
    assert differences(new, new) == []
    assert differences(new, old) == [
        "model.settings.width: 4 against None",
        "optimizer.lr: 0.5 against 0.001",
    ]

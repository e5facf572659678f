"""The recipe: everything that decides a run, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError

from semseg.core.checks import FileError, InputError, SettingError, nearest
from semseg.data.transforms import AugmentConfig
from semseg.train.sections import (
    DataConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    Section,
)


class TrainConfig(Section):
    """One run. A recipe is one YAML file with these sections, complete, without inheritance.

    Example:
        >>> config = TrainConfig(name="t", model={"name": "unet"}, data={"name": "synthetic"})
        >>> config.schedule.name
        'poly'
    """

    name: str = Field(pattern=r"^[\w][\w.\-]*$")
    """Name of the run and of its folder."""
    seed: int = Field(default=0, ge=0)
    """Decides initial weights, order and every random draw."""
    out: Path = Path("runs")
    """Folder of run folders, relative to the current folder."""
    model: ModelConfig
    """Which network."""
    data: DataConfig
    """Which images."""
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    """How training images are changed."""
    loss: LossConfig = Field(default_factory=LossConfig)
    """What is minimised."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """How weights move."""
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    """How the learning rate changes."""
    train: LoopConfig = Field(default_factory=LoopConfig)
    """How long, how much at once, on what."""

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return self.out / self.name

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML values, complete."""
        return self.model_dump(mode="json")


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a recipe.

    Args:
        path: a YAML file, or a run folder (its ``config.yaml``).
        overrides: values by dotted path, e.g. ``{"optimizer.lr": 0.01}``; they win.

    Raises:
        FileError: the file is missing or is not YAML.
        SettingError: a key that does not exist; the nearest are shown.
        InputError: a value that cannot be used, or a key that is missing.
    """
    import yaml

    path = Path(path)
    file = path / "config.yaml" if path.is_dir() else path
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileError(f"recipe {file} does not exist; give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileError(f"recipe {file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise FileError(f"recipe {file} holds no sections; it needs at least name, model and data")
    return parse_recipe(data, overrides, source=str(file))


def parse_recipe(
    data: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, source: str = "recipe"
) -> TrainConfig:
    """Check a recipe given as nested dictionaries; arguments and errors as :func:`load_recipe`."""
    merged = _copy(data)
    for key, value in (overrides or {}).items():
        *sections, last = key.split(".")
        place = merged
        for section in sections:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                raise SettingError(f"{source}: {key!r} goes into {section!r}, which has no keys")
            place = inner
        place[last] = value
    try:
        return TrainConfig.model_validate(merged)
    except ValidationError as error:
        raise explain(error, source) from error


def differences(new: TrainConfig, old: TrainConfig) -> list[str]:
    """Return ``"key: new against old"`` for every value that differs, by dotted path."""
    a, b = _flat(new.to_dict()), _flat(old.to_dict())
    missing = object()
    return [
        f"{key}: {a.get(key)!r} against {b.get(key)!r}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, missing) != b.get(key, missing)
    ]


def explain(error: ValidationError, source: str) -> SettingError | InputError:
    """Return one line for what pydantic found: the key, what came, what was wanted."""
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first, rest = errors[0], len(errors) - 1
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {rest} more)" if rest else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(first["loc"][:-1])
        hint = nearest(str(first["loc"][-1]), known)
        return SettingError(f"{source}: no setting {place!r}; {hint}{more}")
    if first["type"] == "missing":
        return InputError(f"{source}: {place!r} is missing; add it{more}")
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return InputError(f"{source}: {place}: {message}{more}")
    wanted = first["msg"].partition(" should ")[2] or first["msg"]
    return InputError(f"{source}: {place} is {first['input']!r}; it should {wanted}{more}")


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = TrainConfig
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat

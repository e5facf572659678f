"""The keys of a recipe as help text, read from the pydantic model that checks them."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union

import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python


class Key(NamedTuple):
    """One key of a recipe.

    Args:
        name: dotted, e.g. ``optimizer.lr``.
        kind: what its value is, e.g. ``number | null``.
        default: in YAML, or ``required``.
        description: what it means.
    """

    name: str
    kind: str
    default: str
    description: str


def recipe_keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Yield every key of a pydantic model, those of its sections included."""
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            yield from recipe_keys(field.annotation, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        yield Key(
            name=f"{prefix}{name}",
            kind=_kind(field.annotation),
            default="required" if field.is_required() else _yaml(default),
            description=" ".join((field.description or "").split()),
        )


def recipe_help(model: type[BaseModel]) -> str:
    """Return the keys of ``model`` as a Markdown list."""
    lines = [
        f"- `--{key.name}` {key.description} ({key.kind}; {key.default})"
        for key in recipe_keys(model)
    ]
    return "\n".join(["Keys of a recipe, all of them options too:", "", *lines])


_KINDS = {
    bool: "true/false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    dict: "mapping",
    type(None): "null",
}


def _is_section(annotation: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " | ".join(map(_kind, inner))
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"[{', '.join(map(_kind, inner))}]"
    if origin is tuple:
        return f"list of {_kind(inner[0])}"
    if _is_section(annotation):
        return f"{{{', '.join(annotation.model_fields)}}}"
    return _KINDS[origin or annotation]


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("...").strip()

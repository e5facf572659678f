"""Networks of Hugging Face transformers, with their weights, as networks of this library.

That package need not be installed and is never imported: ``config.json`` and the tensors of a
folder say everything. What its classes are called here stands in :mod:`semseg.models.hf_kinds`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semseg.core.checks import FileError, InputError
from semseg.encoders.weights import read_tensors
from semseg.models.base import MODELS, SegmentationModel, build
from semseg.models.hf_kind import Kind
from semseg.models.hf_kinds import KINDS

CONFIG = "config.json"
TENSORS = ("model.safetensors", "pytorch_model.bin")
"""Files that hold the weights; the older kind is read without running what is in it."""


def is_hf_folder(path: str | Path) -> bool:
    """Return whether ``path`` is a folder that transformers saved a network in."""
    config = Path(path) / CONFIG
    return config.is_file() and "architectures" in _read(config)


def load_hf(folder: str | Path) -> SegmentationModel:
    """Build the network that a folder of transformers describes, with its weights.

    Args:
        folder: what its ``save_pretrained`` wrote, or a copy of a repository of the hub, e.g. of
            ``nvidia/segformer-b0-finetuned-ade-512-512``.

    Returns:
        The network of the same kind, in eval mode. Its logits are the same but for norms whose
        epsilon transformers and the authors have differently, a difference below 1e-4 of them.

    Raises:
        InputError: a class, trunk or setting that this library has no equal of.
        FileError: a folder without the files, or tensors that do not fit.
    """
    folder = Path(folder)
    given = _read(folder / CONFIG)
    name = next(iter(given.get("architectures") or ["a network without name"]))
    if name not in KINDS:
        raise InputError(f"{folder}: load_hf has no equal of {name}; it takes {', '.join(KINDS)}")
    kind = _chosen(str(folder), KINDS[name], given)
    model = build(MODELS[kind.network], _settings(str(folder), kind, given))
    _fill(model, str(folder), kind, _tensors(folder))
    return model.eval()


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); give the folder that save_pretrained wrote"
        ) from error
    if not isinstance(held, dict):
        raise FileError(f"{path} holds no settings; give the folder that save_pretrained wrote")
    return held


def _tensors(folder: Path) -> dict[str, Tensor]:
    for name in TENSORS:
        if (folder / name).is_file():
            return read_tensors(folder / name)
    raise FileError(f"{folder} holds no weights; it needs {' or '.join(TENSORS)}, in one piece")


def _chosen(where: str, kinds: tuple[Kind, ...], given: Mapping[str, Any]) -> Kind:
    """Return the kind whose trunk the settings have."""
    for kind in kinds:
        own = (given.get(kind.inside or "") or {}).get("model_type")
        if not kind.model_types or own in kind.model_types:
            return kind
    known = ", ".join(dict.fromkeys(name for kind in kinds for name in kind.model_types))
    raise InputError(f"{where} has a trunk of kind {own}; load_hf takes {known}")


def _settings(where: str, kind: Kind, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return our settings for theirs; refuse those that would compute something else."""
    inner = given if kind.inside is None else given.get(kind.inside) or {}
    for key, allowed in kind.fixed.items():
        value = _at(key, given, inner)
        if value is not None and value not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise InputError(f"{where} has {key}={value!r}; load_hf takes {wanted} alone")
    shape = tuple(_at(key, inner) for key in kind.shape)
    if shape not in kind.trunks:
        values = ", ".join(f"{k}={v!r}" for k, v in zip(kind.shape, shape, strict=True))
        raise InputError(
            f"{where} has a trunk ({inner.get('model_type')}) with {values}; load_hf takes "
            f"{', '.join(kind.trunks.values())}"
        )
    settings: dict[str, Any] = {
        kind.trunk: kind.trunks[shape],
        "num_classes": len(given.get("id2label") or range(given.get("num_labels", 2))),
        "in_channels": inner.get("num_channels", 3),
    }
    for key, ours in kind.fields.items():
        if (value := _at(key, given)) is not None:
            settings[ours] = value - 1 if ours in kind.less else value
    return settings


def _at(key: str, *holders: Mapping[str, Any]) -> Any:
    """Return the value at a key with dots in the first of ``holders`` that has it, else None."""
    for held in holders:
        value: Any = held
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return tuple(value) if isinstance(value, list) else value  # JSON has no tuples
    return None


def _fill(model: SegmentationModel, where: str, kind: Kind, tensors: Mapping[str, Tensor]) -> None:
    """Copy all of ``tensors`` into all of ``model``, name by name and shape by shape."""
    own = model.state_dict()
    trunk = getattr(model.config, kind.trunk)
    problem = f"{where} does not fit {type(model).__name__} over {trunk}"
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if re.match(kind.zero, key) and tensor.any():
            raise InputError(f"{where} has {key} other than zero; load_hf takes zeros alone")
        if re.match(f"{kind.unused}|{kind.zero}", key) is None:
            name, part = _translate(key, kind)
            parts.setdefault(name, {})[part] = tensor
    found = {name: _joined(held) for name, held in parts.items()}
    for name, tensor in found.items():
        if name in own and own[name].shape == (1, *tensor.shape):
            found[name] = tensor[None]  # theirs is an embedding, ours a batch of one
        elif name not in own or own[name].shape != tensor.shape:
            raise FileError(f"{problem}: it has no {name} of shape {tuple(tensor.shape)}")
    counters = {k for k, t in own.items() if t.dim() == 0 and not t.is_floating_point()}
    if missing := [name for name in own if name not in found and name not in counters]:
        raise FileError(f"{problem}: {len(missing)} tensors are missing (first: {missing[0]})")
    model.load_state_dict(found, strict=False)


def _translate(key: str, kind: Kind) -> tuple[str, str]:
    """Return our name, and which part of that tensor it is."""
    for pattern, replacement in kind.rules:
        key = re.sub(pattern, replacement, key)
    part = re.search(r"@\d\.", key)
    return (key, "") if part is None else (key.replace(part[0], ""), part[0])


def _joined(held: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([held[part] for part in sorted(held)]) if len(held) > 1 else held[min(held)]

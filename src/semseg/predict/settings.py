"""What decides the results of a call, written beside them, so that no other call continues it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.core.files import write_text
from semseg.models.base import settings_of
from semseg.predict.predictor import Predictor

SETTINGS = "settings.yaml"
"""In the output folder. It decides nothing; not as JSON, which outputs of images may be."""

_SHOWN = 12  # digits of a checksum in a message


def settings_of_call(predictor: Predictor, outputs: Sequence[str]) -> dict[str, Any]:
    """Return everything but the images that results depend on, as plain values.

    Args:
        predictor: the network and how it is run.
        outputs: kinds of files that are written.
    """
    crf = predictor.crf
    settings = {
        "network": type(predictor.model).__name__,
        "weights": digest(predictor.model),
        "network settings": settings_of(predictor.model),
        "labels": predictor.labels.to_dict(),
        "preprocessing": predictor.preprocessing.to_dict(),
        "crf": None if crf is None else vars(crf),
        "device": predictor.device.type,  # results differ by rounding from kind to kind
        "backend": predictor.engine.backend,
        "precision": predictor.engine.precision,
        "views": asdict(predictor.views),
        "tiling": None if predictor.whole else asdict(predictor.tiling),
        "outputs": sorted(outputs),
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=_plain))
    return plain


def digest(model: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors and their names.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = digest(layer)
        >>> _ = nn.init.constant_(layer.bias.data, 7)
        >>> digest(layer) == before
        False
    """
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into an output folder.

    Raises:
        FileError: it cannot be written.
    """
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    write_text(folder / SETTINGS, text)


def check_same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to continue what was begun in another way.

    Args:
        folder: output folder of the call that is continued.
        settings: of this call.

    Raises:
        FileError: the folder's settings are missing or damaged.
        InputError: they are others.
    """
    path = folder / SETTINGS
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        different = [key for key in settings if before.get(key) != settings[key]]
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise FileError(
            f"{path} does not say how the predictions in {folder} were made, so they cannot be "
            "continued; choose another folder, or give --overwrite to replace them"
        ) from error
    if different:
        changed = [_change(key, before.get(key), settings[key]) for key in different]
        raise InputError(
            f"{folder} was begun with other settings ({'; '.join(changed)}); continue it with the "
            "same ones, or choose another folder"
        )


def _change(name: str, before: Any, now: Any) -> str:
    shown = [_short(value) for value in (before, now)]
    return f"other {name}" if None in shown else f"{name}: {shown[0]}, now {shown[1]}"


def _short(value: Any) -> str | None:
    """Return a value as a word or two, or ``None`` where it takes more."""
    if isinstance(value, str):
        return value[:_SHOWN]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else str(value)

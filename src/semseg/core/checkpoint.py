"""Weights in one file that needs nothing else, and reading them back without trusting them.

A weights file is ``.safetensors``; its header carries, as JSON, everything needed to use the
weights: network and settings, label map, preprocessing, scores, versions, licence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from semseg.core.checks import FileError
from semseg.core.files import write_atomic
from semseg.core.labels import LabelMap
from semseg.core.preprocess import Preprocessing

FORMAT = 1
"""Version of the header; raised when its meaning changes."""

_CHECKSUM = "sha256"  # of the tensors, beside the header


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """What a weights file says about itself.

    Args:
        model: registry name of the network.
        settings: the network's config fields, JSON values.
        labels: what the K channels mean; ``None`` for weights without a task (a trunk).
        preprocessing: what the network takes.
        metrics: scores, e.g. ``{"miou": 0.61}``.
        provenance: versions of data and code, licence, command; JSON values.
    """

    model: str
    settings: Mapping[str, Any]
    labels: LabelMap | None
    preprocessing: Preprocessing
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return one JSON text."""
        return json.dumps(
            {
                "format": FORMAT,
                "model": self.model,
                "settings": dict(self.settings),
                "labels": None if self.labels is None else self.labels.to_dict(),
                "preprocessing": self.preprocessing.to_dict(),
                "metrics": dict(self.metrics),
                "provenance": dict(self.provenance),
            }
        )

    @classmethod
    def from_json(cls, text: str, source: Path) -> WeightsInfo:
        """Read what :meth:`to_json` wrote.

        Args:
            text: the header.
            source: its file, for messages.

        Raises:
            FileError: it is of a newer format, or something is missing.
        """
        try:
            data = json.loads(text)
            if data["format"] > FORMAT:
                raise FileError(
                    f"{source} was written by a newer semseg (format {data['format']}, "
                    f"this one reads up to {FORMAT}); update semseg"
                )
            labels = data["labels"]
            return cls(
                model=data["model"],
                settings=data["settings"],
                labels=None if labels is None else LabelMap.from_dict(labels),
                preprocessing=Preprocessing.from_dict(data["preprocessing"]),
                metrics=data["metrics"],
                provenance=data["provenance"],
            )
        except FileError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(
                f"{source} has a header that cannot be read ({type(error).__name__}: {error}); "
                "take another copy of the file"
            ) from error


def save_weights(path: Path, tensors: Mapping[str, Tensor], info: WeightsInfo) -> None:
    """Write weights and header; atomic, so an older file survives a kill or a full disk.

    Raises:
        FileError: no space is left or the place cannot be written.
    """
    from safetensors.torch import save

    # safetensors refuses views and shared storage; a state dict may hold both
    own = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    checksum = _checksum(save(own))
    data = save(own, {"semseg": info.to_json(), _CHECKSUM: checksum})

    def write(partial: Path) -> None:
        partial.write_bytes(data)

    write_atomic(Path(path), write)


def read_info(path: Path) -> WeightsInfo:
    """Read the header alone.

    Raises:
        FileError: the file is missing, damaged, or was not written by :func:`save_weights`.
    """
    from safetensors import SafetensorError, safe_open

    path = _existing(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} is not a whole .safetensors file: {error}") from error
    if "semseg" not in metadata:
        raise FileError(
            f"{path} carries no semseg header; create the network yourself and load the tensors "
            "with safetensors.torch.load_file"
        )
    return WeightsInfo.from_json(metadata["semseg"], path)


def load_weights(path: Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Read tensors and header; errors as :func:`read_info`."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    path = Path(path)
    info = read_info(path)
    try:
        with safe_open(path, "pt") as file:
            wanted = (file.metadata() or {}).get(_CHECKSUM)
        if wanted is not None and _checksum_of_file(path) != wanted:
            raise FileError(
                f"{path} is damaged: its numbers do not have the checksum that was written with "
                "them; take another copy of the file"
            )
        return load_file(path), info
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} is damaged: {error}; take the copy before it") from error


def _checksum(data: bytes) -> str:
    """Return the SHA-256 of the tensors in a file, which come behind a header of stated length."""
    start = 8 + int.from_bytes(data[:8], "little")
    return hashlib.sha256(memoryview(data)[start:]).hexdigest()


def _checksum_of_file(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        total = hashlib.sha256()
        while part := file.read(1 << 22):
            total.update(part)
    return total.hexdigest()


def _existing(path: Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileError(f"weights {path} do not exist; give a .safetensors file or a run folder")
    return path

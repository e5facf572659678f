"""The training state on disk: a run that is killed at any moment goes on as if it had not been.

``state/step-00001234/`` holds ``model.safetensors``, ``training.pt`` (optimiser, gradient scaler,
weight average; read with ``weights_only=True``), ``position.json`` and ``checksums.json``. It is
written beside its place, flushed and renamed; the two newest are kept, so that a damaged newest
one costs only the steps since the one before.

There is no state of random generators: what a network draws in a step is a function of seed, step
and process, what the data draw one of seed, epoch and index.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from semseg.core.checks import FileError
from semseg.core.files import sha256, write_atomic

KEPT = 2
"""How many of the newest states are kept."""


@dataclass(kw_only=True)
class Position:
    """Where a run is.

    Args:
        epoch: counted from 0; the one that is being trained.
        step_in_epoch: optimiser steps done in it.
        step: optimiser steps done in all.
        samples_in_epoch: images consumed in this epoch, over all processes.
        loss_sums: sum of each loss term over the steps of this epoch.
        rows: one row of metrics per epoch that is done.
        best: scores, confusion counts, epoch and step of the best weights; empty before the first.
        seconds: time spent in the loop, validation included.
        train_seconds: time spent in training steps alone.
        finished: whether all epochs are done.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    samples_in_epoch: int = 0
    loss_sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    train_seconds: float = 0.0
    finished: bool = False

    @property
    def stale(self) -> int:
        """Validations since the best one."""
        after = [row for row in self.rows if row["epoch"] > self.best.get("epoch", 0)]
        return sum("val_miou" in row for row in after)

    def images_per_second(self, samples_per_step: int) -> float:
        """Return the speed of all training steps so far."""
        return self.step * samples_per_step / max(1e-9, self.train_seconds)


@dataclass(kw_only=True)
class TrainingState:
    """The objects whose state a run consists of; ``average`` only if it is more than a copy."""

    model: nn.Module
    optimizer: Optimizer
    scaler: Any = None
    average: AveragedModel | None = None

    def save(self, folder: Path, position: Position) -> None:
        """Write ``state/step-…`` below the run folder, then drop all but the newest two.

        Raises:
            FileError: no space is left or the place cannot be written; older states are kept.
        """
        target = folder / "state" / f"step-{position.step:08d}"
        write_atomic(target, lambda partial: self._write(partial, position))
        for old in _states(folder)[KEPT:]:
            shutil.rmtree(old)

    def load(self, folder: Path, say: Callable[[str], None]) -> Position:
        """Fill all objects from the newest whole state and return where it was.

        Args:
            folder: the run folder.
            say: told in one line when a damaged state is passed over.

        Raises:
            FileError: no state, or none that is whole.
        """
        states = _states(folder)
        for state in states:
            if damage := _damage(state):
                say(f"{state} is damaged ({damage}); taking the one before it")
                continue
            return self._read(state)
        reason = "only damaged training states" if states else "no training state yet"
        raise FileError(f"{folder} holds {reason}; start again with --overwrite")

    def _write(self, folder: Path, position: Position) -> None:
        folder.mkdir()
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        save_file({k: v.clone() for k, v in tensors.items()}, folder / "model.safetensors")
        training = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }
        torch.save(training, folder / "training.pt")
        (folder / "position.json").write_text(json.dumps(asdict(position)), encoding="utf-8")
        sums = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        (folder / "checksums.json").write_text(json.dumps(sums), encoding="utf-8")

    def _read(self, folder: Path) -> Position:
        tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
        self.model.load_state_dict(tensors)
        training = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(training["optimizer"])
        if self.scaler is not None and training["scaler"] is not None:
            self.scaler.load_state_dict(training["scaler"])
        if self.average is not None:
            self.average.load_state_dict(training["average"])
        return Position(**json.loads((folder / "position.json").read_text(encoding="utf-8")))


def has_state(folder: Path) -> bool:
    """Tell whether a run folder holds a training state."""
    return bool(_states(folder))


def _states(folder: Path) -> list[Path]:
    """Return the state folders, newest first; half-written ones begin with a dot."""
    return sorted((folder / "state").glob("step-*"), reverse=True)


def _damage(state: Path) -> str | None:
    """Return what is wrong with a state folder, or ``None``."""
    try:
        sums = json.loads((state / "checksums.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "checksums.json cannot be read"
    for name, expected in sums.items():
        if not (state / name).is_file():
            return f"{name} is missing"
        if sha256(state / name) != expected:
            return f"{name} has another checksum"
    return None

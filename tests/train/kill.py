"""Trains once per point named on the command line, each in a child killed at that point.

Not a test: `test_resume.py` runs it as a program, so that nothing survives in memory.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from semseg.core import files
from semseg.train import artefacts, checkpoint, folder, train
from semseg.train.checkpoint import TrainingState
from semseg.train.loop import Loop
from tests.train.tiny import listed


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(
    owner: ModuleType | type,
    name: str,
    call: int,
    action: Callable[..., None] = lambda *args: die(),
    counts: Callable[..., bool] = lambda *args: True,
) -> None:
    """Do ``action`` in place of the given call (counted from 1) of a function."""
    original, calls = getattr(owner, name), [0]

    def counting(*args: Any) -> Any:
        calls[0] += counts(*args)
        return action(original, *args) if calls[0] == call else original(*args)

    setattr(owner, name, counting)


def half_a_file(original: Callable[..., None], data: Any, path: Path) -> None:
    original(data, path)
    os.truncate(path, path.stat().st_size // 2)
    die()


def is_state(partial: Path, path: Path) -> bool:
    return path.parent.name == "state"


POINTS: dict[str, Callable[[], None]] = {
    "before the first state": lambda: at_call(Loop, "_step", 2),
    "in an epoch": lambda: at_call(Loop, "_step", 6),
    "before a validation": lambda: at_call(Loop, "_validate", 2),
    "within a state": lambda: at_call(torch, "save", 3, half_a_file),
    "before a state is renamed": lambda: at_call(files, "_put", 3, counts=is_state),
    "while an old state is removed": lambda: at_call(checkpoint.shutil, "rmtree", 2),
    "before the last weights": lambda: at_call(artefacts, "write_weights", 3),
    "after the best weights, before the state": lambda: at_call(TrainingState, "save", 5),
    "after the state, before the rows": lambda: at_call(folder, "write_rows", 3),
}


def main(recipe: dict[str, Any], points: list[str]) -> None:
    torch.set_num_threads(1)
    for number, point in enumerate(points):
        child = os.fork()
        if child == 0:
            POINTS[point]()
            with listed():
                train({**recipe, "name": f"killed-{number}"})
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"{point}: not killed, status {status}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])

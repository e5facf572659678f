"""Watching the loss without making a GPU wait at every step."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from semseg.core.checks import SemsegError
from semseg.train.checkpoint import Position

CHECK_EVERY = 20
"""Steps between two looks at the losses on a GPU, since a look waits for it."""


class DivergedError(SemsegError):
    """The loss is infinite or not a number."""


class LossWatch:
    """Collects the losses of steps and adds them to a run's position when they are read.

    Args:
        every: steps between two looks; 1 on a CPU, where looking costs nothing.
        last: file of the last weights whose losses were all looked at.
    """

    def __init__(self, every: int, last: Path) -> None:
        self.every = every
        self.last = last
        self._unread: list[tuple[int, dict[str, Tensor], list[str]]] = []

    def add(self, step: int, terms: dict[str, Tensor], paths: list[str]) -> None:
        """Take the loss terms of one step and the images it was computed from."""
        self._unread.append((step, terms, paths))

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return len(self._unread) >= self.every

    def read(self, position: Position) -> None:
        """Add what was not read yet to the epoch's sums.

        Raises:
            DivergedError: a loss is infinite or not a number; it names step and images.
        """
        good = f"; the last good weights are {self.last}" if self.last.exists() else ""
        for step, terms, paths in self._unread:
            for name, term in terms.items():
                value = term.item()
                if value - value != 0:
                    raise DivergedError(
                        f"loss {name!r} is {value} at step {step} with {', '.join(paths)}; lower "
                        f"optimizer.lr or set train.clip_norm, and look at these images{good}"
                    )
                position.loss_sums[name] = position.loss_sums.get(name, 0.0) + value
        self._unread.clear()

"""What a person sees of a run: a bar on a terminal, one line per epoch anywhere."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Display:
    """A progress bar with time left and images per second, and plain lines.

    Args:
        visible: false in all processes but one.
    """

    def __init__(self, visible: bool) -> None:
        self._console = Console(quiet=not visible, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not visible or not self._console.is_terminal,
        )
        self._steps = self._progress.add_task("training", total=None, note="")
        self._images = self._progress.add_task("validating", total=None, note="", visible=False)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self._progress.stop()

    def line(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        self._console.print(text, markup=False)

    def step(self, done: int, total: int, note: str) -> None:
        """Show how many steps are done."""
        self._progress.update(self._steps, completed=done, total=total, note=note)

    def validation(self, done: int, total: int) -> None:
        """Show how many validation images are done; the bar goes when all are."""
        self._progress.update(self._images, completed=done, total=total, visible=0 < done < total)


class StopSignals:
    """While entered, SIGTERM and Ctrl-C only set :attr:`requested`; a second one acts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take over both signals; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def ignore_signals(worker: int) -> None:
    """Let loader workers live through a signal to the whole group; the loop stops them itself."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

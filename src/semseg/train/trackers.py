"""Experiment pages: all is sent to them from a thread of its own, and none can stop a run."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import numpy as np
from accelerate import Accelerator
from accelerate.utils import is_mlflow_available, is_tensorboard_available, is_wandb_available
from numpy.typing import NDArray

INSTALLED: dict[str, Callable[[], bool]] = {
    "tensorboard": is_tensorboard_available,
    "wandb": is_wandb_available,
    "mlflow": is_mlflow_available,
}
"""Whether each tracker can be used here."""

HINTS = {
    "tensorboard": "pip install 'semseg[track]'",
    "wandb": "pip install wandb",
    "mlflow": "pip install mlflow",
}

SHOWN: dict[str, dict[str, str]] = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}
"""Trackers that show pictures, and what they have to be told of them."""

PATIENCE = 20.0
"""Seconds that the end of a run waits for what was not sent yet."""


class Trackers:
    """Sends rows of scores and pictures to the trackers of an accelerator.

    A tracker that raises is told in one line and gets nothing more; one that hangs holds up
    nothing but itself.

    Args:
        accelerator: made with ``log_with`` the trackers.
        say: prints one line.
    """

    def __init__(self, accelerator: Accelerator, say: Callable[[str], None]) -> None:
        self.accelerator = accelerator
        self.say = say
        self._items: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send, name="trackers", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Start sending."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait until everything is sent, but not for long."""
        self._items.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self.say(
                f"a tracker did not answer for {PATIENCE:.0f} s; the run is whole without it, its "
                "page may lack the last rows"
            )
        self.accelerator.trackers = []  # the accelerator's own end would wait for them again

    @property
    def wanted(self) -> bool:
        """Whether there is a page to send to."""
        return bool(self.accelerator.log_with)

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Send one row; returns at once."""
        self._items.put(lambda: self.accelerator.log(dict(row), step))

    def show(self, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        """Send pictures ``(H, W, 3)`` by name; returns at once."""
        self._items.put(lambda: self._show(pictures, step))

    def _show(self, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        batches = {name: picture[None] for name, picture in pictures.items()}
        for tracker in self.accelerator.trackers:
            if tracker.name in SHOWN:
                tracker.log_images(batches, step, **SHOWN[tracker.name])

    def _send(self) -> None:
        try:
            self.accelerator.init_trackers("semseg")
            while (send := self._items.get()) is not None:
                send()
            for tracker in self.accelerator.trackers:
                tracker.finish()
        except Exception as error:
            text = str(error).strip().partition("\n")[0]
            self.say(f"tracker left out: {type(error).__name__}: {text}; training goes on")


def missing(names: Iterable[str]) -> list[str]:
    """Return one line for each tracker that is not installed: how to get it."""
    return [f"no {name} pages; {HINTS[name]} adds them" for name in names if not INSTALLED[name]()]

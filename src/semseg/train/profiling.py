"""Where the time of training steps goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from semseg.core.files import write_text

SKIPPED, RECORDED = 3, 5
"""Steps before the record starts, when memory and caches are still being set up, and in it."""


class Profile:
    """Records some steps of a run; a context manager around each.

    Writes ``profile.txt``, the operators that took longest, and ``profile.json``, the course of
    the steps for ui.perfetto.dev or chrome://tracing.

    Args:
        folder: where to write.
        say: prints one line.
        wanted: whether to record at all.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], *, wanted: bool) -> None:
        self.folder = folder
        self.say = say
        self.steps = 0 if wanted else SKIPPED + RECORDED
        self._record: Any = None

    def __enter__(self) -> None:
        """Start the record at its first step."""
        if self.steps == SKIPPED and self._record is None:
            self._record = torch.profiler.profile(record_shapes=False)
            self._record.__enter__()

    def __exit__(self, *error: object) -> None:
        """Count a step; write the record after its last."""
        self.steps += 1
        if self._record is not None and self.steps == SKIPPED + RECORDED:
            self._record.__exit__(None, None, None)
            self._write()
            self._record = None

    def _write(self) -> None:
        by = "cuda" if torch.cuda.is_available() else "cpu"
        table = self._record.key_averages().table(sort_by=f"self_{by}_time_total", row_limit=30)
        write_text(self.folder / "profile.txt", table + "\n")
        self._record.export_chrome_trace(str(self.folder / "profile.json"))
        self.say(f"profile of {RECORDED} steps in {self.folder / 'profile.txt'}")

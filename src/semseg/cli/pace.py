"""How fast a long command goes and when it will be done: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

_WINDOW = 30.0  # seconds over which the speed is taken, so that a slow beginning is forgotten
_EVERY = 30.0  # seconds between lines in a log


class Pace:
    """Speed and remaining time of a count that grows.

    Args:
        what: is counted, in the plural.
        clock: seconds, from any beginning.

    Example:
        >>> seconds = iter([0.0, 1.0, 2.0])
        >>> pace = Pace("images", lambda: next(seconds))
        >>> pace.update(101, 110), pace.update(102, 110)
        ('1.0 images/s, ETA 0:00:09', '1.0 images/s, ETA 0:00:08')
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._began = clock()
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, done: int, total: int) -> str:
        """Note how many are done, and return the line; ``total`` is 0 where nobody knows."""
        now = self._clock()
        if not self._seen:  # what an earlier call has done does not count
            self._seen.append((self._began, done - 1))
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        speed = (done - before) / max(now - then, 1e-9)
        line = f"{speed:.1f} {self._what}/s"
        if not total or not speed:
            return line
        return f"{line}, ETA {timedelta(seconds=round((total - done) / speed))}"


@contextmanager
def paced(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how it goes on stderr while the block runs; call the value with (done, all).

    A terminal has a bar; where stderr is a file or a pipe, a line comes every half minute.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console, pace = Console(stderr=True), Pace(what)
    if not console.is_terminal:
        yield _lines(what, pace)
        return
    columns = (what, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None, pace="")
        yield lambda done, total: bar.update(
            task, completed=done, total=total or None, pace=pace.update(done, total)
        )


def _lines(
    what: str, pace: Pace, clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    last = clock()

    def tell(done: int, total: int) -> None:
        nonlocal last
        line = pace.update(done, total)
        if clock() - last >= _EVERY:
            last = clock()
            of = f" of {total}" if total else ""
            sys.stderr.write(f"semseg: {done}{of} {what}, {line}\n")

    return tell

"""Subnormal floats cost a CPU up to thirty times the time of others, and change no prediction."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def kept(function: Callable[[], T]) -> T:
    """Return what ``function`` returns, and leave the thread's rule as it was.

    Runtimes for inference set it, for everything that the thread does from then on.

    Example:
        >>> kept(lambda: torch.set_flush_denormal(True))
        True
        >>> (torch.tensor([1e-39]) * 0.5).item() > 0
        True
    """
    flushes = (torch.tensor([1e-39]) * 0.5).item() == 0
    try:
        return function()
    finally:
        torch.set_flush_denormal(flushes)


class FlushingThread:
    """A thread in which subnormal floats count as zero, in every operation on the CPU.

    ``torch.set_flush_denormal`` alone is not enough: it holds for the thread that calls it, and
    the threads that share its operations copy the rule only when they start. A new thread gets
    new ones. The caller's own rule stays as it is.

    Args:
        threads: how many calls run at a time.

    Example:
        >>> thread = FlushingThread()
        >>> tiny = torch.tensor([1e-39])
        >>> thread.run(lambda: (tiny * 0.5).item())
        0.0
    """

    def __init__(self, threads: int = 1) -> None:
        self._executor = ThreadPoolExecutor(
            threads, "semseg", initializer=torch.set_flush_denormal, initargs=(True,)
        )

    def run(self, function: Callable[[], T]) -> T:
        """Return what ``function`` returns there, or raise what it raises."""
        return self._executor.submit(function).result()

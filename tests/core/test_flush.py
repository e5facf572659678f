"""Subnormal floats are zero for every thread that shares an operation, and only there."""

from __future__ import annotations

import pytest
import torch

from semseg.core.flush import FlushingThread

MANY = 4_000_000  # enough for PyTorch to share the work


def remaining() -> int:
    return int(((torch.full((MANY,), 1e-39) * 0.5) != 0).sum())


def test_all_threads_flush_and_the_caller_keeps_its_rule() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    try:
        assert remaining() == MANY  # starts the caller's own threads
        assert FlushingThread().run(remaining) == 0
        assert remaining() == MANY
    finally:
        torch.set_num_threads(threads)


def test_errors_come_back() -> None:
    def fail() -> None:
        raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        FlushingThread().run(fail)

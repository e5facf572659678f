"""Options of the whole test suite."""

from __future__ import annotations

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept",
        action="store_true",
        help="record the outputs of networks instead of comparing them",
    )


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Give every test the same draws, whatever ran before it: no test fails by chance."""
    torch.manual_seed(0)

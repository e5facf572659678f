"""Whether Triton's kernels can run: it needs a GPU, and a C compiler on first use."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch


def jit(function: Callable[..., None]) -> Any:
    """Return what ``[grid](...)`` launches; compiled on first use, and kept on disk."""
    import triton

    return triton.jit(function)


def triton_runs(device: torch.device) -> bool:
    """Return whether Triton's kernels run on a device; found out once, by running one.

    Example:
        >>> triton_runs(torch.device("cpu"))
        False
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return _runs(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _runs(index: int) -> bool:
    device = torch.device("cuda", index)
    try:
        from semseg.kernels.argmax_triton import fill

        labels = torch.empty(1, 2, 2, dtype=torch.int64, device=device)
        fill(torch.tensor([[[[0.0]], [[1.0]]]], device=device), False, labels, None)
        return labels.tolist() == [[[1, 1], [1, 1]]]
    except Exception as error:  # no compiler, an old GPU, another Triton: each has its own class
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"Triton does not work on {device} here ({type(error).__name__}: {reason}); "
            "PyTorch's operators are used, which are slower",
            stacklevel=2,
        )
        return False

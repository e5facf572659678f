"""Memory that a program has freed and the C library still holds."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back() -> bool:
    """Return freed memory to the system, and say whether there was any.

    glibc keeps freed blocks of some sizes for later. A network that asks for blocks of changing
    sizes leaves holes between them that fit nothing, and a long run grows by them. Where the C
    library is another one, nothing is done.

    Example:
        >>> give_back() in (True, False)
        True
    """
    trim = _malloc_trim()
    return bool(trim is not None and trim(0))


@cache
def _malloc_trim() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows has no library without a name
        return None

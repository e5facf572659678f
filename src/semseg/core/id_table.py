"""From one set of ids to another, for whole masks at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1  # in tables: no such id
_WIDE = 65536  # ids that fit into two bytes


class IdTable:
    """What each raw id becomes.

    Masks of bytes go through a table of bytes, which costs a tenth of one of integers.

    Args:
        ids: new id of each raw id that may occur, 0 … 65535.

    Example:
        >>> table = IdTable({0: 255, 7: 0})
        >>> table(np.array([[7, 0]], dtype=np.uint8))
        (array([[  0, 255]], dtype=uint8), None)
        >>> table(np.array([[7, 1]]))[1]
        array([[False,  True]])
    """

    def __init__(self, ids: Mapping[int, int]) -> None:
        self._wide = np.full(_WIDE, UNKNOWN, dtype=np.int32)
        for raw, new in ids.items():
            self._wide[raw] = new
        # a byte that is no new id stands for the raw ids that must not occur
        spare = next((value for value in range(256) if value not in set(ids.values())), None)
        self._spare = spare if max(ids.values()) < 256 else None
        if self._spare is not None:
            small = self._wide[:256]
            self._bytes = np.where(small == UNKNOWN, self._spare, small).astype(np.uint8).tobytes()

    def __call__(self, mask: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the new ids and which pixels have none, or ``None`` where all have one."""
        if mask.dtype == np.uint8 and self._spare is not None:
            found = bytearray(mask.tobytes()).translate(self._bytes)
            if self._spare not in found:
                return np.frombuffer(found, np.uint8).reshape(mask.shape), None
        new = _take(self._wide, mask)
        missing = new == UNKNOWN
        return new, (missing if missing.any() else None)


def _take(table: NDArray[np.int32], mask: NDArray[Any]) -> NDArray[np.int32]:
    """Return ``table[mask]``, and ``UNKNOWN`` for values beyond the table."""
    if mask.dtype.kind == "u" and mask.dtype.itemsize <= 2:  # cannot be beyond it
        return table.take(mask)
    outside = (mask < 0) | (mask >= len(table))
    found = table.take(mask, mode="clip")
    found[outside] = UNKNOWN
    return found

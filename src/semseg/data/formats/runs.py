"""Run lengths: masks as counts of zeros and ones in turn, and COCO's text form of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import InputError

Counts = NDArray[np.int64]
"""Lengths of the runs, beginning with zeros; the first may be 0."""


def runs_of(values: NDArray[np.bool_]) -> Counts:
    """Return the run lengths of a flat mask.

    Example:
        >>> runs_of(np.array([True, True, False])).tolist()
        [0, 2, 1]
    """
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(values)]])
    counts = np.diff(edges)
    return np.concatenate([[0], counts]) if len(values) and values[0] else counts


def from_runs(counts: Counts, length: int, source: str) -> NDArray[np.bool_]:
    """Return the flat mask of ``length`` pixels.

    Raises:
        InputError: the runs are negative or make another length.
    """
    if len(counts) and counts.min() < 0:
        raise InputError(f"{source} has a run of {counts.min()} pixels; export it again")
    if counts.sum() != length:
        raise InputError(
            f"{source} has runs of {counts.sum()} pixels together, but its image has {length}; the "
            "size is wrong or the runs are cut short"
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def to_text(counts: Iterable[int]) -> str:
    """Return COCO's text of run lengths.

    From the fourth on, a run is written as the difference to the one two before it; each number in
    groups of five bits, least first, with the sixth bit set where more follow, plus 48.

    Example:
        >>> to_text([0, 2, 1])
        '021'
    """
    letters: list[str] = []
    before: list[int] = []
    for count in counts:
        value = int(count) - (before[-2] if len(before) > 2 else 0)
        before.append(int(count))
        while True:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            letters.append(chr((group | 32 if more else group) + 48))
            if not more:
                break
    return "".join(letters)


def from_text(text: str, source: str) -> Counts:
    """Return the run lengths of COCO's text.

    Raises:
        InputError: it holds other characters, or ends inside a number.

    Example:
        >>> from_text("021", "mask").tolist()
        [0, 2, 1]
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise InputError(f"{source} has {letter!r} in its compressed runs; export it again")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise InputError(f"{source} has compressed runs that are cut short; export it again")
    return np.array(counts, np.int64)

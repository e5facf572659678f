"""Where tiles lie on an image, and what each of their pixels weighs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checks import InputError, SettingError, unknown_name

_PROFILES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "gaussian": lambda t: np.exp(-0.5 * (8 * (t - 0.5)) ** 2),
    "cosine": lambda t: np.sin(np.pi * t) ** 2,
    "none": np.ones_like,
}
BLENDS = tuple(_PROFILES)
"""Weights along a tile's side: a Gaussian of an eighth of the side (nnU-Net, Isensee et al.,
arXiv:1904.08128), a raised cosine (Hann), or the plain mean of the tiles that meet."""


@dataclass(frozen=True, slots=True)
class Span:
    """Rows or columns of one tile: from ``start`` up to before ``stop``."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of rows or columns."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How an image is cut into tiles and put together.

    Tiles start at multiples of a step. The last one is moved inside, onto a multiple of
    ``multiple_of``, and may be cut by the image's border to less than that: the network pads it
    exactly as it pads the whole image. An image smaller than a tile is one tile. Nothing is
    reflected or padded here.

    Args:
        tile: height and width in pixels.
        overlap: share of a tile that the next one covers too, at least; in [0, 1).
        blend: of :data:`BLENDS`.
        margin: pixels along a tile's inner sides that do not count. From the radius of the
            network's receptive field on, tiles give what the whole image gives.
        multiple_of: of the network; tiles start where its grid has a point.
        min_size: of the network.

    Raises:
        InputError: a number out of its range.
        SettingError: not a number.
        UnknownNameError: an unknown blend.

    Example:
        >>> Tiling(tile=64, overlap=0.25).spans(150)
        [Span(start=0, stop=64), Span(start=48, stop=112), Span(start=86, stop=150)]
    """

    tile: int = 1024
    overlap: float = 0.25
    blend: str = "gaussian"
    margin: int = 0
    multiple_of: int = 1
    min_size: int = 1

    def __post_init__(self) -> None:
        for name in ("tile", "margin", "multiple_of", "min_size"):
            check_whole(name, getattr(self, name), least=0 if name == "margin" else 1)
        if isinstance(self.overlap, bool) or not isinstance(self.overlap, int | float):
            raise SettingError(f"overlap is a share of the tile, got {self.overlap!r}; give 0.25")
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap is a share in [0, 1), got {self.overlap:g}; give 0.25")
        if self.blend not in BLENDS:
            raise unknown_name("blend", self.blend, BLENDS)
        m = self.multiple_of
        if self.tile % m:
            near = f"{self.tile // m * m} or " if self.tile > m else ""
            raise InputError(
                f"tile {self.tile} is no multiple of {m}, to which the network pads; "
                f"take {near}{(self.tile // m + 1) * m}"
            )
        least = -(-(self.min_size + m - 1) // m) * m
        if self.tile < least:
            raise InputError(
                f"tile {self.tile} is too small, the network takes at least {self.min_size} x "
                f"{self.min_size} pixels; take {least} or more"
            )
        if self.tile - self.step < 2 * self.margin:
            raise InputError(
                f"tiles of {self.tile} overlap by {self.tile - self.step} pixels, a margin of "
                f"{self.margin} on both sides needs {2 * self.margin}; take a larger overlap"
            )

    @property
    def step(self) -> int:
        """Pixels from one tile to the next."""
        m = self.multiple_of
        # to a millionth, so that 0.9 of 10 leaves 1 and not 0.99999
        return max(int(round(self.tile * (1 - self.overlap), 6)) // m * m, m)

    def spans(self, length: int) -> list[Span]:
        """Return where tiles lie along a side of ``length`` pixels."""
        if length <= self.tile:
            return [Span(0, length)]
        m = self.multiple_of
        last = -(-(length - self.tile) // m) * m
        starts = [*range(0, last, self.step), last]
        return [Span(start, min(start + self.tile, length)) for start in starts]

    def count(self, height: int, width: int) -> int:
        """Return the number of tiles."""
        return len(self.spans(height)) * len(self.spans(width))

    def windows(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Yield heights and widths of the tiles."""
        for row in self.spans(height):
            for column in self.spans(width):
                yield row.length, column.length

    def cost(self, height: int, width: int) -> float:
        """Return how many times the pixels of one image of that size the network sees."""
        rows, columns = (sum(s.length for s in self.spans(x)) for x in (height, width))
        return rows * columns / (height * width)

    def live_rows(self, height: int) -> int:
        """Return how many rows of the sum are held from one row of tiles to the next.

        In bytes that is 4 times K times the width of the image.
        """
        spans = self.spans(height)
        return max((a.stop - b.start for a, b in pairwise(spans)), default=0)

    def weights(self, length: int) -> list[Tensor]:
        """Return the weights along each of :meth:`spans`; over all tiles they sum to 1."""
        spans = self.spans(length)
        raw = [self._profile(span, length) for span in spans]
        total = np.zeros(length)
        for span, weight in zip(spans, raw, strict=True):
            total[span.start : span.stop] += weight
        return [
            torch.from_numpy((w / total[s.start : s.stop]).astype(np.float32))
            for s, w in zip(spans, raw, strict=True)
        ]

    def _profile(self, span: Span, length: int) -> NDArray[np.float64]:
        before = self.margin if span.start > 0 else 0
        after = self.margin if span.stop < length else 0
        inner = span.length - before - after
        weight = np.zeros(span.length)
        weight[before : before + inner] = _PROFILES[self.blend]((np.arange(inner) + 0.5) / inner)
        return weight


def check_whole(name: str, value: int, least: int) -> None:
    """Refuse what is not a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingError(f"{name} is a whole number, got {value!r}")
    if value < least:
        raise InputError(f"{name} is at least {least}, got {value}")

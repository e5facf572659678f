"""A large image in overlapping tiles, blended, from top to bottom.

What is blended are probabilities: they are bounded, so that one tile's wild scores near its border
cannot outvote the others, classes that a network rules out (logits of minus infinity) stay numbers,
and the mean is the confidence. For K = 1 it is ``2 p - 1``, whose sign is exactly the logit's.

The weights of a tile are products of a row's and a column's weight, and are divided beforehand by
the sum over all tiles, which is a product too. So a pixel that one tile covers alone gets exactly
that tile's probability, and what is summed is already the mean. Of the K-channel sum only the rows
that a later tile reaches are held: ``K x overlap x width`` numbers.

Every pixel is summed in one order, tiles from left to right and rows of tiles from top to bottom.
A run that starts later (``start``) takes all tiles that reach its first row: it gets the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checks import InputError
from semseg.predict.tiling import Span, Tiling, check_whole
from semseg.predict.tta import Scores

Read = Callable[[int, int, int, int], Tensor | None]
"""From top, left, height and width to a normalised window ``(C, height, width)``, or ``None`` where
there is nothing to look at."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Finished rows.

    Args:
        top: number of the first one.
        labels: ``(rows, W)`` train ids; ``uint8``, or ``int32`` for more than 255 classes.
        confidence: ``(rows, W)`` ``float32``: mean probability of the class in ``labels``, or
            ``None``.
    """

    top: int
    labels: NDArray[Any]
    confidence: NDArray[np.float32] | None


def tiled(
    scores: Scores,
    read: Read,
    size: tuple[int, int],
    tiling: Tiling,
    *,
    num_classes: int,
    confidence: bool = False,
    device: str | torch.device = "cpu",
    batch: int = 1,
    start: int = 0,
) -> Iterator[Rows]:
    """Predict an image window by window, and yield its rows from top to bottom.

    Args:
        scores: the network.
        read: gives windows, row by row of tiles from left to right.
        size: height and width of the image.
        tiling: the tiles.
        num_classes: K, the channels of the scores.
        confidence: whether to compute it too; the labels are the same.
        device: of the network; windows are moved there, and blended there.
        batch: windows that the network takes at once.
        start: first row wanted; rows from there on are the same whatever it is.

    Raises:
        InputError: scores of another shape, or that are not numbers.

    Example:
        >>> image = torch.tensor([[[-1.0, 0.0, 2.0, 3.0]]])
        >>> read = lambda y, x, h, w: image[:, y : y + h, x : x + w]
        >>> tiling = Tiling(tile=2, overlap=0.5)
        >>> [rows] = tiled(lambda x: x, read, (1, 4), tiling, num_classes=1)
        >>> rows.labels
        array([[0, 0, 1, 1]], dtype=uint8)
    """
    check_whole("batch", batch, least=1)
    work = _Blending(scores, read, size, tiling, num_classes, torch.device(device), batch)
    for top, bottom, blocks in work.run(start):
        if bottom <= start:  # only the sums below matter
            deque(blocks, maxlen=0)
            continue
        labels = np.empty((bottom - top, size[1]), np.uint8 if num_classes <= 255 else np.int32)
        sure = np.empty(labels.shape, np.float32) if confidence else None
        for left, block in blocks:
            ids, values = _decide(block)
            columns = slice(left, left + block.shape[2])
            labels[:, columns] = ids.numpy(force=True)
            if sure is not None:
                sure[:, columns] = values.numpy(force=True)
        kept = max(start - top, 0)
        yield Rows(top + kept, labels[kept:], None if sure is None else sure[kept:])


@dataclass(frozen=True, slots=True)
class Seam:
    """How far tiles are from the whole image.

    Args:
        labels: share of pixels of another class.
        probability: largest difference of a class's probability.
    """

    labels: float
    probability: float


def seam_error(scores: Scores, image: Tensor, tiling: Tiling, num_classes: int) -> Seam:
    """Compare tiles with the whole image at once, which must fit into the memory.

    Args:
        scores: the network.
        image: ``(C, H, W)``, normalised, on its device.
        tiling: the tiles.
        num_classes: K.

    Raises:
        InputError: scores of another shape, or that are not numbers.
    """
    height, width = image.shape[-2:]
    whole = _bounded(scores, image[None], num_classes)[0]
    work = _Blending(
        scores,
        lambda y, x, h, w: image[:, y : y + h, x : x + w],
        (height, width),
        tiling,
        num_classes,
        image.device,
    )
    wrong, largest = 0, 0.0
    for top, bottom, blocks in work.run():
        for left, block in blocks:
            wanted = whole[:, top:bottom, left : left + block.shape[2]]
            wrong += int((_decide(block)[0] != _decide(wanted)[0]).sum())
            largest = max(largest, float((block - wanted).abs().max()))
    # of one channel it is 2 p - 1 that is compared
    return Seam(wrong / (height * width), largest / 2 if num_classes == 1 else largest)


@dataclass(slots=True)
class _Blending:
    """The sum over tiles, block by block."""

    scores: Scores
    read: Read
    size: tuple[int, int]
    tiling: Tiling
    num_classes: int
    device: torch.device
    batch: int = 1

    def run(self, start: int = 0) -> Iterator[tuple[int, int, Iterator[tuple[int, Tensor]]]]:
        """Yield, per row of tiles, the finished rows (from, to) and their blocks.

        A block is its first column and ``(K, rows, columns)`` means. All of a row's blocks must be
        taken before the next row.
        """
        spans, weights = self.tiling.spans(self.size[0]), self.tiling.weights(self.size[0])
        live = self.tiling.live_rows(self.size[0])
        held = torch.zeros(self.num_classes, live, self.size[1], device=self.device)
        reached = 0  # of a later start, tiles before the first are not there to be carried on
        for i, span in enumerate(spans):
            if span.stop <= start:
                continue
            bottom = spans[i + 1].start if i + 1 < len(spans) else span.stop
            carried = max(reached - span.start, 0)
            yield span.start, bottom, self._row(span, weights[i], held, carried, bottom)
            reached = span.stop

    def _row(
        self, span: Span, weight: Tensor, held: Tensor, carried: int, bottom: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Add one row of tiles to the rows ``held`` of those above, and hold what goes on."""
        done = bottom - span.start
        rest: Tensor | None = None
        columns = self.tiling.spans(self.size[1])
        ends = [column.start for column in columns[1:]] + [self.size[1]]
        for column, end, tile in zip(columns, ends, self._tiles(span, weight), strict=True):
            if rest is not None:
                tile[:, :, : rest.shape[2]] += rest
            block, rest = tile[:, :, : end - column.start], tile[:, :, end - column.start :]
            place = held[:, :, column.start : end]
            if carried:
                block[:, :carried] += place[:, :carried]
            if done < span.length:
                place[:, : span.length - done] = block[:, done:]
            yield column.start, block[:, :done]

    def _tiles(self, span: Span, weight: Tensor) -> Iterator[Tensor]:
        """Yield the weighted tiles of one row, ``(K, h, w)``."""
        columns = zip(
            self.tiling.spans(self.size[1]), self.tiling.weights(self.size[1]), strict=True
        )
        k, down = self.num_classes, weight.to(self.device)[:, None]
        # the last tile may be narrower, and does not go with the others
        for _, equal in groupby(columns, key=lambda column: column[0].length):
            members = list(equal)
            for at in range(0, len(members), self.batch):
                part = members[at : at + self.batch]
                windows = [self.read(span.start, c.start, span.length, c.length) for c, _ in part]
                seen = [window.to(self.device) for window in windows if window is not None]
                means = iter(_bounded(self.scores, torch.stack(seen), k) if seen else ())
                for (column, across), window in zip(part, windows, strict=True):
                    if window is None:
                        yield torch.zeros(k, span.length, column.length, device=self.device)
                    else:
                        yield next(means).mul_(down * across.to(self.device))


@torch.no_grad()
def _bounded(scores: Scores, images: Tensor, num_classes: int) -> Tensor:
    """Return probabilities, or ``2 p - 1`` of one sigmoid channel."""
    logits = scores(images).float()
    wanted = (len(images), num_classes, *images.shape[-2:])
    if logits.shape != wanted:
        raise InputError(
            f"scores of images {tuple(images.shape)} have the shape {tuple(logits.shape)}; wanted "
            f"{wanted}: give logits at full size, and num_classes as the network has it"
        )
    return (logits / 2).tanh_() if num_classes == 1 else logits.softmax(1)


def _decide(block: Tensor) -> tuple[Tensor, Tensor]:
    """Return classes and the probability of each, of ``(K, h, w)`` means."""
    if len(block) == 1:
        ids, values = block[0] > 0, (1 + block[0].abs()) / 2
    else:
        values, ids = block.max(0)
    if values.isnan().any():
        raise InputError(
            "the network's output is not a number: its training diverged, or its weights are "
            "damaged; take an earlier checkpoint"
        )
    return ids, values

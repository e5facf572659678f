"""The way back of :func:`semseg.kernels.upsample.strips`: from full-size rows to samples."""

from __future__ import annotations

from torch import Tensor

from semseg.kernels.upsample import Axis, runs


class Gradient:
    """Brings gradients of full-size rows back to the samples they were made from.

    Args:
        gradient: ``(n, K, h, w)`` that is added to.
        rows: of the output.
        columns: of the output.
    """

    def __init__(self, gradient: Tensor, rows: Axis, columns: Axis) -> None:
        self.gradient = gradient
        self.rows = rows
        self.columns = columns
        self.last = 0
        self.open: Tensor | None = None
        """The last row of samples so far, at full width: the next strip may add to it."""

    def add(self, first: int, end: int, values: Tensor) -> None:
        """Add the gradient ``values`` of the rows ``[first, end)``."""
        rows = self.rows
        if rows.same and self.columns.same:
            self.gradient[:, :, first:end, : values.shape[-1]] += values
            return
        low, high, weight = (t[first:end] for t in (rows.low, rows.high, rows.weight))
        parts = list(runs(rows, first, end))
        top, bottom = parts[0][2], parts[-1][3]
        share = weight.new_zeros(bottom - top + 1, end - first)
        share.scatter_add_(0, (low - top)[None], (1 - weight)[None])
        share.scatter_add_(0, (high - top)[None], weight[None])
        sums = share @ values
        if self.open is not None and self.last == top:
            sums[:, :, :1] += self.open
        else:
            self.finish()
        self._close(top, sums[:, :, :-1])
        self.last, self.open = bottom, sums[:, :, -1:]

    def finish(self) -> None:
        """Bring back what is still open."""
        if self.open is not None:
            self._close(self.last, self.open)
            self.open = None

    def _close(self, first: int, values: Tensor) -> None:
        columns = self.columns
        upper = values * columns.weight
        samples = self.gradient[:, :, first : first + values.shape[2]]
        samples.index_add_(3, columns.high, upper).index_add_(3, columns.low, values - upper)

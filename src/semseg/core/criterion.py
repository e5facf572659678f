"""What a loss is to a network: the two ways in which it takes a head's logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

Criterion = Callable[["Tensor", "Tensor"], "Tensor"]
"""``(logits (N, K, H, W), target (N, H, W) int64) -> scalar``; made by :mod:`semseg.losses`."""


@runtime_checkable
class Enlarging(Protocol):
    """A criterion that can also enlarge the logits itself, without holding all of them at once."""

    def enlarged(
        self, logits: Tensor, target: Tensor, size: tuple[int, int], align_corners: bool
    ) -> Tensor:
        """Return the loss of logits that are enlarged bilinearly to ``size``.

        Args:
            logits: ``(N, K, h, w)``, K at least 2.
            target: ``(N, H, W)``, the upper left part of ``size``.
            size: height and width, at least those of the target.
            align_corners: as in ``F.interpolate``.
        """

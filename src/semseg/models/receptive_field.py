"""How much of the image one score sees, followed through every operation without computing any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from semseg.models.reads import READS, Places

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Span:
    """First and last pixel of the image that each place along one side of a tensor sees."""

    first: Places
    last: Places
    whole: bool = False
    """Every place sees the whole side, however long it is."""

    def read(self, first: Places, last: Places) -> Span:
        """Return what places see that read the places ``first … last`` of this tensor."""
        end = len(self.first) - 1
        first, last = np.clip(first, 0, end), np.clip(last, 0, end)  # beyond it there is padding
        return Span(self.first[first], self.last[last], self.whole)

    def of_everything(self, places: int) -> Span:
        """Return spans of the whole side."""
        first, last = np.full(places, self.first.min()), np.full(places, self.last.max())
        return Span(first, last, whole=True)

    def size(self, side: int) -> int | None:
        """Return the most that a place sees of ``side`` pixels; ``None`` if it goes beyond."""
        inside = (self.first > 0) & (self.last < side - 1)
        if self.whole or not inside.any():
            return None
        return int((self.last - self.first + 1)[inside].max())


class ReceptiveField(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the receptive field of every tensor made while it is on.

    Every weight counts as other than zero. Where places meet by their content or all at once
    (global pooling, attention), the field is the whole image. Works on the meta device, where it
    costs neither memory nor time.

    Args:
        images: ``(N, C, H, W)``, the start.

    Example:
        >>> images = torch.empty(1, 3, 32, 32, device="meta")
        >>> with torch.device("meta"):
        ...     layer = torch.nn.Conv2d(3, 8, kernel_size=3, padding=4, dilation=4)
        >>> with ReceptiveField(images) as field:
        ...     scores = layer(images)
        >>> field.of(scores)
        (9, 9)
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._spans = WeakTensorKeyDictionary()
        self._sides = images.shape[-2:]
        places = [np.arange(side, dtype=np.int64) for side in self._sides]
        self._spans[images] = [Span(each, each) for each in places]

    def is_whole(self, tensor: Tensor) -> bool:
        """Return whether the field is the whole image, however large."""
        return any(span.whole for span in self._spans[tensor])

    def of(self, tensor: Tensor) -> tuple[int, int] | None:
        """Return height and width in pixels, ``None`` if they go beyond the images."""
        sizes = [
            span.size(side) for span, side in zip(self._spans[tensor], self._sides, strict=True)
        ]
        return None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute ``func`` and note what its results see."""
        result = func(*args, **(kwargs or {}))
        before = [t for t in _tensors(args) if t in self._spans]
        for made in _tensors((result,)) if before else ():
            self._spans[made] = self._seen(func, before, made, args)
        return result

    def _seen(
        self, func: Any, before: Sequence[Tensor], made: Tensor, args: Sequence[Any]
    ) -> list[Span]:
        source, rule = before[0], READS.get(func.overloadpacket)
        spans: list[Span] = self._spans[source]
        if rule is not None and [len(s.first) for s in spans] == list(source.shape[-2:]):
            reads = rule(source, made, args)
            return [span.read(*read) for span, read in zip(spans, reads, strict=True)]
        if rule is None and _keeps_places(func, before, args):
            others = list(zip(*(self._spans[other] for other in before), strict=True))
            if all(_fit(sides) for sides in others):
                return [_join(sides) for sides in others]
        places = made.shape[-2:] if made.ndim > 2 else (1, 1)
        return [span.of_everything(n) for span, n in zip(spans, places, strict=True)]


def _fit(spans: Sequence[Span]) -> bool:
    """Return whether tensors of these places can be added."""
    return len({len(span.first) for span in spans} - {1}) <= 1


def _join(spans: Sequence[Span]) -> Span:
    """Return the smallest spans that hold all."""
    first, last = spans[0].first, spans[0].last
    for span in spans[1:]:
        first, last = np.minimum(first, span.first), np.maximum(last, span.last)
    return Span(first, last, any(span.whole for span in spans))


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [item for item in value if isinstance(item, Tensor)]
    return found


KEEPING = {
    aten.native_batch_norm,
    aten._native_batch_norm_legit_no_training,
    aten._batch_norm_no_update,
    aten.native_layer_norm,
    aten._prelu_kernel,
    aten.cat,
    aten.stack,
    aten.mm,
    aten.addmm,
    aten.view,
    aten._unsafe_view,
    aten.permute,
    aten.transpose,
    aten.t,
    aten.expand,
    aten.unsqueeze,
    aten.squeeze,
    aten.select,
    aten.split,
    aten.split_with_sizes,
    aten.unbind,
    aten.clone,
    aten._to_copy,
    aten.detach,
    aten.alias,
}
"""Operations, besides those PyTorch calls pointwise, after which a place has seen no more."""

OVER_DIMS = {aten.mean, aten.sum, aten.amax, aten.max, aten._softmax, aten._log_softmax}
PRODUCTS = {aten.bmm, aten.baddbmm}


def _keeps_places(func: Any, before: Sequence[Tensor], args: Sequence[Any]) -> bool:
    operation, source = func.overloadpacket, before[0]
    if operation in OVER_DIMS:
        dims = args[1] if len(args) > 1 else range(source.ndim)
        dims = [dims] if isinstance(dims, int) else list(dims or range(source.ndim))
        return source.ndim >= 4 and all(d % source.ndim < source.ndim - 2 for d in dims)
    if operation in PRODUCTS:
        return len(before) == 1  # with a weight; of two features, it is attention
    return operation in KEEPING or torch.Tag.pointwise in func.tags

"""How a metric enters the list, and what all of them have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checks import InputError
from semseg.core.registry import Registry
from semseg.metrics.confusion import Absent


class Metric(ABC):
    """A score that is counted image by image and needs no image again.

    Its state is a few tensors of fixed size that add up over images, processes and shards; counts
    are int64, so that their order changes nothing.

    Args:
        num_classes: number of train ids; 2 for a binary network with one sigmoid channel.
        ignore_id: truth value of pixels that count for nothing.
    """

    needs_confidence: ClassVar[bool] = False
    """Whether :meth:`update` wants the probability of each decision too."""

    def __init__(self, num_classes: int, ignore_id: int = 255) -> None:
        if num_classes < 1 or 0 <= ignore_id < num_classes:
            raise InputError(
                f"a metric needs num_classes >= 1 and an ignore_id outside its classes, got "
                f"{num_classes} and {ignore_id}"
            )
        self.num_classes = num_classes
        self.ignore_id = ignore_id
        self.state: dict[str, Tensor] = {}

    @abstractmethod
    def update(self, prediction: Tensor, target: Tensor, confidence: Tensor | None = None) -> None:
        """Count images.

        Args:
            prediction: ``(N, H, W)`` integers 0 … K-1.
            target: ``(N, H, W)`` integers 0 … K-1 or the ignore id.
            confidence: ``(N, H, W)`` probability of the class in ``prediction``.

        Raises:
            InputError: shapes or values that do not fit, or no confidence where it is needed.
        """

    @abstractmethod
    def result(self, absent: Absent = "present") -> dict[str, Any]:
        """Return the scores as JSON values, ``None`` for what is undefined, with the rule.

        Args:
            absent: rule for absent classes, see :class:`semseg.metrics.Scores`.
        """

    def merge(self, other: Self) -> None:
        """Add what ``other`` counted, e.g. in another process.

        Raises:
            InputError: a metric of another kind or with other settings.
        """
        mine = {key: value.shape for key, value in self.state.items()}
        if type(other) is not type(self) or vars_of(self) != vars_of(other):
            raise InputError(
                f"cannot merge {type(other).__name__} {vars_of(other)} into "
                f"{type(self).__name__} {vars_of(self)}"
            )
        for key in mine:
            self._add(key, other.state[key])

    def _add(self, key: str, value: Tensor) -> None:
        self.state[key] = self.state[key].to(value.device) + value

    def _labelled(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Refuse what cannot be counted; return which pixels count."""
        if prediction.shape != target.shape or target.dim() != 3:
            raise InputError(
                f"{type(self).__name__} takes predictions and targets (N, H, W), got "
                f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            )
        if prediction.is_floating_point() or target.is_floating_point():
            raise InputError(
                f"wanted integer ids, got {prediction.dtype} and {target.dtype}; take the argmax"
            )
        labelled = target != self.ignore_id
        for values, what in ((target, "target"), (prediction, "prediction")):
            counted = values[labelled]
            if counted.numel():
                low, high = (int(v) for v in counted.aminmax())
                if low < 0 or high >= self.num_classes:
                    raise InputError(
                        f"{what} holds ids {low} … {high}; wanted 0 … {self.num_classes - 1}"
                        f"{f' or {self.ignore_id}' if what == 'target' else ''}"
                    )
        return labelled

    def _count(self, ids: Tensor) -> Tensor:
        return torch.bincount(ids.to(torch.int64), minlength=self.num_classes)


def vars_of(metric: Metric) -> dict[str, Any]:
    """Return a metric's settings."""
    return {key: value for key, value in vars(metric).items() if key != "state"}


METRICS: Registry[type[Metric]] = Registry("metric", "semseg.metrics")
"""Every metric beside the scores of the confusion matrix, by name."""

M = TypeVar("M", bound=type[Metric])


def register(name: str) -> Callable[[M], M]:
    """Enter a metric under ``name``; a decorator."""

    def enter(cls: M) -> M:
        METRICS.add(name, cls)
        return cls

    return enter


def list_metrics() -> list[str]:
    """Return the names that :func:`build_metrics` takes.

    Example:
        >>> "boundary_iou" in list_metrics()
        True
    """
    return list(METRICS)


def build_metrics(
    names: Sequence[str], num_classes: int, ignore_id: int = 255
) -> dict[str, Metric]:
    """Return metrics with their default settings, by name.

    Raises:
        UnknownNameError: no such metric.

    Example:
        >>> list(build_metrics(["ece"], 2))
        ['ece']
    """
    return {name: METRICS[name](num_classes, ignore_id) for name in names}


Floats = NDArray[np.float64]


def check_absent(absent: str) -> None:
    """Refuse a rule that does not exist."""
    if absent not in get_args(Absent):
        raise InputError(f"absent must be one of {get_args(Absent)}, got {absent!r}")


def mean_over(values: Floats, union: Floats, truth: Floats, absent: Absent) -> tuple[float, Floats]:
    """Return the mean over the classes that count, and the values with ``nan`` for the others.

    Args:
        values: per class, 0 where it is absent.
        union: how much of it there is in truth or prediction.
        truth: how much of it there is in the truth.
        absent: the rule.

    Raises:
        InputError: a rule that does not exist.
    """
    check_absent(absent)
    counted = {"present": union > 0, "gt": truth > 0, "all": np.ones(len(values), dtype=bool)}
    chosen = np.where(counted[absent], values, np.nan)
    return (float(np.nanmean(chosen)) if counted[absent].any() else math.nan), chosen


def ratio(part: Tensor | Floats, whole: Tensor | Floats) -> Floats:
    """Divide in float64; 0 where there is nothing to divide by."""
    above, below = (
        (x.cpu().numpy() if isinstance(x, Tensor) else x).astype(np.float64) for x in (part, whole)
    )
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


def numbers(values: Floats) -> list[float | None]:
    """Return JSON values, ``None`` for ``nan``."""
    return [number(float(value)) for value in values]


def number(value: float) -> float | None:
    """Return a JSON value, ``None`` for ``nan``."""
    return None if math.isnan(value) else value

"""How a loss enters the list, and how a recipe's terms become one criterion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from semseg.core.checks import InputError, unknown_setting
from semseg.core.criterion import Enlarging
from semseg.core.labels import LabelMap
from semseg.core.registry import Registry
from semseg.losses.class_weights import ClassCounts


class LossSettings(BaseModel):
    """Settings of one loss; a loss subclasses it and says how it is built."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the loss as a module ``(logits, target) -> scalar``.

        Args:
            labels: the classes; their ignore id marks pixels without influence.
            counts: pixels of each class in the training split, for computed class weights.
        """
        raise NotImplementedError


LOSSES: Registry[type[LossSettings]] = Registry("loss", "semseg.losses")
"""The settings of every loss, by name."""

S = TypeVar("S", bound=type[LossSettings])


def register(name: str) -> Callable[[S], S]:
    """Enter a loss under ``name``; a decorator of its settings."""

    def enter(cls: S) -> S:
        LOSSES.add(name, cls)
        return cls

    return enter


def list_losses() -> list[str]:
    """Return the names that a term may have.

    Example:
        >>> "dice" in list_losses()
        True
    """
    return list(LOSSES)


class LossTerm(BaseModel):
    """One term of the sum that is minimised.

    Example:
        >>> LossTerm(name="cross_entropy", settings={"label_smoothing": 0.1}).weight
        1.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """Which loss; `semseg.losses.list_losses()` names them."""
    weight: float = Field(default=1.0, gt=0)
    """Factor of this term in the sum."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the loss, e.g. {class_weights: median_frequency}."""

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        self.parsed()
        return self

    def parsed(self) -> LossSettings:
        """Return the settings as the loss's own type.

        Raises:
            SettingError: a setting that the loss does not have.
            InputError: a value that it cannot take.
            UnknownNameError: no such loss.
        """
        cls = LOSSES[self.name]
        if unknown := self.settings.keys() - cls.model_fields.keys():
            raise unknown_setting(f"loss {self.name}", unknown, cls.model_fields)
        try:
            return cls.model_validate(self.settings)
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"loss {self.name}: {first['loc'][0]} is {self.settings[str(first['loc'][0])]!r}; "
                f"{first['msg'].lower()}"
            ) from error


class Bound(nn.Module):
    """A loss function with its settings; class weights move with the module.

    Args:
        function: ``(logits, target, **settings) -> scalar``.
        weight: one factor per class, or none.
        settings: what ``function`` takes beside them.
    """

    weight: Tensor | None

    def __init__(
        self,
        function: Callable[..., Tensor],
        *,
        weight: Sequence[float] | None = None,
        **settings: float | str | None,
    ) -> None:
        super().__init__()
        self.function = function
        self.settings = settings
        tensor = None if weight is None else torch.tensor(weight, dtype=torch.float32)
        self.register_buffer("weight", tensor, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``(N, K, H, W)`` logits against ``(N, H, W)`` train ids."""
        weight = {} if self.weight is None else {"weight": self.weight}
        return self.function(logits, target, **weight, **self.settings)


class WeightedSum(nn.Module):
    """Sum of losses with a factor each."""

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the sum for ``(N, K, H, W)`` logits and ``(N, H, W)`` train ids."""
        return self._sum([loss(logits, target) for loss in self.losses])

    def _sum(self, values: Sequence[Tensor]) -> Tensor:
        terms = [w * value for w, value in zip(self.weights, values, strict=True)]
        return torch.stack(terms).sum()


class EnlargingSum(WeightedSum):
    """The same of losses that all take logits at a network's own stride."""

    def enlarged(
        self, logits: Tensor, target: Tensor, size: tuple[int, int], align_corners: bool
    ) -> Tensor:
        """Return the sum; see :class:`semseg.core.criterion.Enlarging`."""
        losses = (loss for loss in self.losses if isinstance(loss, Enlarging))
        return self._sum([loss.enlarged(logits, target, size, align_corners) for loss in losses])


def build_criterion(
    terms: Sequence[LossTerm], labels: LabelMap, counts: ClassCounts | None = None
) -> WeightedSum:
    """Return the weighted sum of ``terms`` as one criterion; it moves to a device as a module.

    Args:
        terms: at least one.
        labels: the classes; their ignore id marks pixels without influence.
        counts: pixels of each class in the training split; needed by computed class weights.

    Raises:
        InputError: no term, or class weights that do not fit the classes or lack counts.

    Example:
        >>> labels = LabelMap.from_names(["cell", "membrane"])
        >>> criterion = build_criterion([LossTerm(name="cross_entropy")], labels)
        >>> round(criterion(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4).long()).item(), 4)
        0.6931
    """
    if not terms:
        raise InputError("the loss has no terms; give at least one, e.g. {name: cross_entropy}")
    losses = [term.parsed().build(labels, counts) for term in terms]
    enlarge = all(isinstance(loss, Enlarging) for loss in losses)
    return (EnlargingSum if enlarge else WeightedSum)(losses, [term.weight for term in terms])


def check_target(owner: str, logits: Tensor, target: Tensor) -> None:
    """Refuse a target that is not int64 ``(N, H, W)`` for logits ``(N, K, H, W)``."""
    wanted = (logits.shape[0], *logits.shape[2:])
    if logits.dim() != 4 or target.shape != wanted or target.dtype != torch.int64:
        raise InputError(
            f"{owner} takes logits (N, K, H, W) and int64 targets (N, H, W), got "
            f"{tuple(logits.shape)} and {target.dtype} {tuple(target.shape)}"
        )


def at_least_float32(logits: Tensor) -> Tensor:
    """Return half-precision logits as float32: sums over pixels overflow or lose counts in half."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

"""Losses of distance: how far from the true border wrong pixels lie."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from semseg.core.labels import LabelMap
from semseg.kernels.distance import border_distance, signed_distance
from semseg.losses.base import Bound, LossSettings, register
from semseg.losses.class_maps import class_maps
from semseg.losses.class_weights import ClassCounts


def boundary(
    logits: Tensor,
    target: Tensor,
    *,
    background: bool = True,
    sigmoid: bool = False,
    ignore_id: int = 255,
) -> Tensor:
    """Return the mean over labelled pixels and classes of probability times signed distance.

    Kervadec et al. 2019 (arXiv:1812.07032), with the distances of the authors'
    code; negative where the classes are found. It does not see how much of a class is missed far
    from anything, so the paper adds it to an overlap loss, with a weight that grows from 0.01. A
    class that is absent from an image, or fills it, has the distance 0.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel, the foreground alone.
        target: ``(N, H, W)`` int64 train ids or ``ignore_id``; or ``(N, K, H, W)`` with 0, 1 or
            ``ignore_id`` for classes that do not exclude each other.
        background: class 0 counts too; the paper leaves it out.
        sigmoid: take each class against all others; else a softmax.
        ignore_id: target value of pixels without influence; they lie outside of every class.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> import torch
        >>> boundary(torch.zeros(1, 1, 1, 3), torch.tensor([[[1, 0, 0]]])).item()
        0.5
    """
    maps = class_maps("boundary", logits, target, ignore_id, sigmoid=sigmoid)
    first = 0 if background or logits.shape[1] == 1 else 1
    distance = signed_distance(maps.truth[:, first:] > 0).to(maps.truth.dtype)
    each = maps.probability()[:, first:] * distance
    return each.sum() / maps.valid[:, first:].sum().clamp_min(1)


def hausdorff(
    logits: Tensor,
    target: Tensor,
    *,
    power: float = 2.0,
    background: bool = True,
    sigmoid: bool = False,
    ignore_id: int = 255,
) -> Tensor:
    """Return the mean of ``(p - y)^2 (d_p^a + d_y^a)``, d the distances to the two borders.

    Karimi & Salcudean 2019 (arXiv:1904.10030, its loss by distance transforms): an estimate of
    the Hausdorff distance that has a slope. The predicted set is where p is above 1/2; its border
    is taken as fixed. The mean is over labelled pixels and classes. Without border, d is 0.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel, the foreground alone.
        target: ``(N, H, W)`` int64 train ids or ``ignore_id``; or ``(N, K, H, W)`` with 0, 1 or
            ``ignore_id`` for classes that do not exclude each other.
        power: a, how much more far pixels weigh.
        background: class 0 counts too.
        sigmoid: take each class against all others; else a softmax.
        ignore_id: target value of pixels without influence; they lie outside of every set.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> import torch
        >>> hausdorff(torch.zeros(1, 1, 1, 3), torch.tensor([[[1, 0, 0]]])).item()
        0.5
    """
    maps = class_maps("hausdorff", logits, target, ignore_id, sigmoid=sigmoid)
    first = 0 if background or logits.shape[1] == 1 else 1
    truth, probability = maps.truth[:, first:], maps.probability()[:, first:]
    distance = border_distance(truth > 0) ** power + border_distance(probability > 0.5) ** power
    each = (probability - truth) ** 2 * distance.to(truth.dtype)
    return each.sum() / maps.valid[:, first:].sum().clamp_min(1)


@register("boundary")
class BoundarySettings(LossSettings):
    """Settings of the term `boundary`."""

    background: bool = True
    """Class 0 counts too; false where it is no class of its own."""
    sigmoid: bool = False
    """Take each class against all others, not all together."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the module; see :meth:`LossSettings.build`."""
        return Bound(
            boundary,
            background=self.background,
            sigmoid=self.sigmoid,
            ignore_id=labels.ignore_id,
        )


@register("hausdorff")
class HausdorffSettings(BoundarySettings):
    """Settings of the term `hausdorff`."""

    power: float = Field(default=2.0, gt=0)
    """How much more pixels far from a border weigh."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the module; see :meth:`LossSettings.build`."""
        return Bound(
            hausdorff,
            power=self.power,
            background=self.background,
            sigmoid=self.sigmoid,
            ignore_id=labels.ignore_id,
        )

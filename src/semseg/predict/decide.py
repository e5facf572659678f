"""The class of each pixel: one way for prediction and validation, so that they agree exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from semseg.kernels import upsample_argmax
from semseg.models.base import SegmentationModel


@dataclass(frozen=True, slots=True)
class Decision:
    """What a network decides.

    Args:
        ids: ``(N, H, W)`` ``int64`` train ids.
        confidence: ``(N, H, W)`` probability of the class in ``ids``, or ``None``.
        logits: ``(N, K, h, w)`` that they come from, at the network's own stride where that is all
            there is.
    """

    ids: Tensor
    confidence: Tensor | None
    logits: Tensor

    @property
    def broken(self) -> bool:
        """Whether the logits are not numbers; infinite ones become it where they are enlarged."""
        highest = self.logits.amax(1)
        if self.logits.shape[-2:] == self.ids.shape[-2:]:
            return bool(highest.isnan().any())
        return not bool((highest - self.logits.amin(1)).isfinite().all())


def decide(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    confidence: bool = False,
    compute: Callable[[Tensor], Tensor] | None = None,
) -> Decision:
    """Run a network and take the largest logit of each pixel, or for K = 1 whether it is above 0.

    A network whose logits are enlarged bilinearly is asked for them at its own stride, and
    :func:`semseg.kernels.upsample_argmax` does the rest; of any other one :meth:`forward` is used.

    Args:
        model: a :class:`SegmentationModel`, or anything from images to logits of their size.
        images: ``(N, C, H, W)``, normalised.
        confidence: whether to compute it too; the ids are the same.
        compute: what computes the logits of the network, as
            :class:`semseg.predict.engine.Engine` does; ``None`` for the network itself.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> scores = nn.Conv2d(1, 2, 1, bias=False)
        >>> _ = nn.init.ones_(scores.weight[1:].data), nn.init.zeros_(scores.weight[:1].data)
        >>> decide(scores, torch.tensor([[[[-1.0, 0.0, 2.0]]]])).ids.tolist()
        [[[0, 0, 1]]]
    """
    height, width = images.shape[-2:]
    if isinstance(model, SegmentationModel) and takes_own_stride(model):
        padded = model.pad(images)
        logits = compute(padded) if compute else model.forward_heads(padded)["logits"]
        size, align_corners = model.padded_size((height, width)), model.align_corners
    else:
        logits = compute(images) if compute else model(images)
        size, align_corners = (height, width), False
    if not confidence:
        ids = upsample_argmax(logits, size, align_corners)
        return Decision(ids[:, :height, :width], None, logits)
    ids, sure = upsample_argmax(logits, size, align_corners, return_confidence=True)
    return Decision(ids[:, :height, :width], sure[:, :height, :width], logits)


def takes_own_stride(model: SegmentationModel) -> bool:
    """Return whether a network's logits are only enlarged bilinearly, and by nothing else."""
    # a forward of the object's own, as wrappers set it, counts too
    forward = getattr(model.forward, "__func__", None)
    return model.only_bilinear and forward is SegmentationModel.forward


def labels_of(model: SegmentationModel, logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the labels that logits of a network mean for images of ``size`` ``(H, W)``."""
    return upsample_argmax(logits, size, model.align_corners)

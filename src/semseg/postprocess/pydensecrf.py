"""The names of pydensecrf, so that scripts written for it change one import.

``import semseg.postprocess.pydensecrf as dcrf`` takes the place of ``pydensecrf.densecrf``, and its
``unary_from_labels`` and ``unary_from_softmax`` those of ``pydensecrf.utils``. Arrays are NumPy's,
layouts and defaults are the library's: unaries ``(K, N)``, features ``(d, N)``, images
``(H, W, 3)``. Written from its documentation and checked against its results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.mean_field import (
    Kernel,
    Normalization,
    Penalty,
    mean_field,
    near_kernel,
    places,
)
from semseg.kernels.permutohedral import finite

Array = np.ndarray[Any, Any]

NO_NORMALIZATION: Normalization = "none"
NORMALIZE_BEFORE: Normalization = "before"
NORMALIZE_AFTER: Normalization = "after"
NORMALIZE_SYMMETRIC: Normalization = "symmetric"
CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = range(3)
"""They differ in what pydensecrf's training may change, which is not offered here."""


class DenseCRF:
    """A CRF over ``nvar`` pixels with any Gaussian features.

    Args:
        nvar: number of pixels N.
        nlabels: number of classes K.

    Example:
        >>> crf = DenseCRF(3, 2)
        >>> crf.setUnaryEnergy(np.array([[1.0, 5.0, 1.0], [3.0, 4.0, 3.0]], np.float32))
        >>> crf.addPairwiseEnergy(np.zeros((1, 3), np.float32), compat=4)
        >>> crf.inference(5).argmax(0).tolist()
        [0, 0, 0]
    """

    def __init__(self, nvar: int, nlabels: int) -> None:
        if nlabels < 2:
            raise InputError(f"a CRF needs at least 2 labels, got {nlabels}")
        self._nvar, self._nlabels = nvar, nlabels
        self._logits = torch.zeros(nvar, nlabels)
        self._kernels: list[Kernel] = []
        self._penalties: list[Penalty] = []

    def setUnaryEnergy(self, u: Array) -> None:
        """Set ``(K, N)`` negative logarithms of probabilities."""
        if u.shape != (self._nlabels, self._nvar):
            raise InputError(
                f"the unary energy has shape {u.shape}, the CRF wants ({self._nlabels}, "
                f"{self._nvar}): labels, pixels; reshape it"
            )
        energy = torch.from_numpy(np.require(u, np.float32, ["C", "W"]))
        if not finite(energy):
            raise InputError("the unary energy holds NaN or infinity; clip probabilities first")
        self._logits = torch.neg(energy.T, out=torch.empty(self._nvar, self._nlabels))

    def addPairwiseEnergy(
        self,
        features: Array,
        compat: float | Array,
        kernel: int = DIAG_KERNEL,
        normalization: Normalization = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian over ``(d, N)`` features, already divided by their widths."""
        if features.shape[1] != self._nvar:
            raise InputError(
                f"the features are of {features.shape[1]} pixels, the CRF of {self._nvar}"
            )
        rows = torch.from_numpy(np.ascontiguousarray(features.T, np.float32))
        self._add(rows, compat, normalization)

    def inference(self, niter: int) -> Array:
        """Return ``(K, N)`` probabilities after ``niter`` rounds."""
        with torch.no_grad():
            rows = mean_field(self._logits, self._kernels, self._penalties, niter)
        return rows.T.numpy()

    def map(self, niter: int) -> Array:
        """Return ``(N,)`` labels after ``niter`` rounds."""
        labels: Array = self.inference(niter).argmax(0)
        return labels

    def _add(self, features: Tensor, compat: float | Array, normalization: Normalization) -> None:
        self._join(Kernel.of(features, normalization), compat)

    def _join(self, kernel: Kernel, compat: float | Array) -> None:
        penalty: Penalty
        if np.ndim(compat) == 0:
            penalty = float(compat)
        else:
            penalty = torch.from_numpy(np.asarray(compat, np.float32))
            if set(penalty.shape) != {self._nlabels} or penalty.dim() > 2:
                raise InputError(
                    f"compat has shape {tuple(penalty.shape)}, the CRF {self._nlabels} labels"
                )
            if penalty.dim() == 2:  # as the library does
                penalty = (penalty + penalty.T) / 2
        self._kernels.append(kernel)
        self._penalties.append(penalty)


class DenseCRF2D(DenseCRF):
    """A CRF over the pixels of one image.

    Args:
        w: width of the image.
        h: its height.
        nlabels: number of classes K.
    """

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        super().__init__(w * h, nlabels)
        self._places = places(torch.empty(h, w))
        self._shape = (h, w, 3)

    def addPairwiseGaussian(
        self,
        sxy: float | Sequence[float],
        compat: float | Array,
        kernel: int = DIAG_KERNEL,
        normalization: Normalization = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian of the given width, or widths along x and y, over places."""
        widths = tuple(_widths("sxy", sxy).reshape(-1).tolist())
        height, width = self._shape[:2]
        near = near_kernel(
            height, width, widths, normalization, "auto", torch.float32, torch.device("cpu")
        )
        self._join(near, compat)

    def addPairwiseBilateral(
        self,
        sxy: float | Sequence[float],
        srgb: float | Sequence[float],
        rgbim: Array,
        compat: float | Array,
        kernel: int = DIAG_KERNEL,
        normalization: Normalization = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian over places and the colours of an ``(H, W, 3)`` uint8 image."""
        if rgbim.shape != self._shape:
            raise InputError(f"the image has shape {rgbim.shape}, the CRF wants {self._shape}")
        colours = torch.from_numpy(np.ascontiguousarray(rgbim, np.float32)).view(-1, 3)
        near = self._places / _widths("sxy", sxy)
        self._add(torch.cat([near, colours / _widths("srgb", srgb)], 1), compat, normalization)


def unary_from_softmax(sm: Array, scale: float | None = None, clip: float | None = 1e-5) -> Array:
    """Return ``(K, N)`` energies of ``(K, …)`` probabilities.

    Args:
        sm: probabilities.
        scale: share that is theirs; the rest is uniform.
        clip: least probability; ``None`` for no limit.

    Example:
        >>> unary_from_softmax(np.array([[1.0, 0.5], [0.0, 0.5]])).round(2)
        array([[-0.  ,  0.69],
               [11.51,  0.69]], dtype=float32)
    """
    if scale is not None:
        if not 0 < scale <= 1:
            raise InputError(f"scale is above 0 and at most 1, got {scale}")
        sm = scale * sm + (1 - scale) / len(sm)
    if clip is not None:
        sm = sm.clip(clip, 1)
    return -np.log(sm).reshape(len(sm), -1).astype(np.float32)


def unary_from_labels(
    labels: Array, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> Array:
    """Return ``(K, N)`` energies of labels that are right with a given probability.

    Args:
        labels: of any shape.
        n_labels: number of classes K; without 0 where that means unsure.
        gt_prob: probability that a label is right, between 0 and 1.
        zero_unsure: whether 0 may be any class and the first class is 1.

    Example:
        >>> unary_from_labels(np.array([0, 1, 2]), 2, 0.8).round(2)
        array([[0.69, 0.22, 1.61],
               [0.69, 1.61, 0.22]], dtype=float32)
    """
    if not 0 < gt_prob < 1:
        raise InputError(f"gt_prob lies between 0 and 1, got {gt_prob}")
    if n_labels < 2:
        raise InputError(f"energies need at least 2 labels, got {n_labels}")
    flat = labels.ravel()
    last = n_labels if zero_unsure else n_labels - 1
    if flat.size and not 0 <= flat.min() <= flat.max() <= last:
        raise InputError(f"labels lie between 0 and {last}, got {flat.min()} to {flat.max()}")
    classes = np.arange(n_labels)[:, None] + int(zero_unsure)
    chance = np.where(flat == classes, gt_prob, (1 - gt_prob) / (n_labels - 1))
    if zero_unsure:
        chance[:, flat == 0] = 1 / n_labels
    return -np.log(chance).astype(np.float32)


def _widths(name: str, given: float | Sequence[float]) -> Tensor:
    widths = torch.tensor(given, dtype=torch.float32)
    if not (widths.isfinite() & (widths > 0)).all():
        raise InputError(f"{name} is a positive width or several, got {given}")
    return widths

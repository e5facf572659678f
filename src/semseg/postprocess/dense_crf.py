"""The fully connected CRF that sharpens a network's predictions along edges of the image.

Source: Krähenbühl, Koltun. "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials." NIPS 2011, arXiv:1210.5644. Parameters mean what they mean in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from semseg.core.checks import InputError, SettingError
from semseg.kernels.mean_field import (
    Kernel,
    Normalization,
    Penalty,
    mean_field,
    near_kernel,
    places,
)
from semseg.kernels.permutohedral import Backend, finite

Widths = float | Sequence[float]
Compat = float | Sequence[float] | Sequence[Sequence[float]] | Tensor

CLIP = 1e-5
"""Least probability whose logarithm is taken, as in pydensecrf."""


class DenseCRF:
    """Mean field of a CRF in which every pixel meets every other.

    Labels pay for differing from pixels nearby (the Gaussian term) and from pixels nearby that have
    a similar colour (the bilateral term).

    Args:
        sxy: width of the bilateral term in pixels, or widths along x and y.
        srgb: width of the bilateral term in colours, or one for each channel, in the units of the
            image: of its 255 levels where it is uint8.
        compat: weight of the bilateral term for differing labels (Potts); K numbers that each label
            pays for meeting itself (negative: it likes to); or a matrix of what labels pay.
        smooth_sxy: width of the Gaussian term, or widths along x and y.
        smooth_compat: of the Gaussian term, as ``compat``; 0 leaves it out.
        iterations: rounds of mean field; 0 returns the input's probabilities.
        normalization: of both terms: ``"symmetric"``, ``"before"`` or ``"after"`` filtering, or
            ``"none"``.
        mix: a ``(2 + C, 2 + C)`` matrix that mixes the bilateral features x, y and colours after
            they were divided by their widths: a full Gaussian.
        backend: see :class:`semseg.kernels.permutohedral.Permutohedral`.

    Raises:
        InputError: widths that are no positive numbers, or fewer than 0 iterations.

    Example:
        >>> crf = DenseCRF(sxy=20, srgb=13, compat=4, iterations=2)
        >>> crf(torch.zeros(3, 6, 8, dtype=torch.uint8), torch.randn(5, 6, 8)).shape
        torch.Size([5, 6, 8])
    """

    def __init__(
        self,
        *,
        sxy: Widths = 80.0,
        srgb: Widths = 13.0,
        compat: Compat = 10.0,
        smooth_sxy: Widths = 3.0,
        smooth_compat: Compat = 3.0,
        iterations: int = 10,
        normalization: Normalization = "symmetric",
        mix: Tensor | None = None,
        backend: Backend = "auto",
    ) -> None:
        self.sxy = _widths("sxy", sxy, 2)
        self.srgb = _widths("srgb", srgb, None)
        self.smooth_sxy = _widths("smooth_sxy", smooth_sxy, 2)
        self.compat = _penalty("compat", compat)
        self.smooth_compat = _penalty("smooth_compat", smooth_compat)
        if iterations < 0:
            raise InputError(f"iterations is 0 or more, got {iterations}; 10 is common")
        self.iterations = iterations
        self.normalization: Normalization = normalization
        self.mix = mix
        self.backend: Backend = backend

    def __call__(
        self,
        image: Tensor,
        scores: Tensor,
        given: Literal["logits", "probabilities"] = "logits",
        watch: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Return probabilities of the shape of ``scores``; they carry gradient to them.

        Args:
            image: ``(C, H, W)`` or ``(N, C, H, W)``, any number of channels.
            scores: ``(K, H, W)`` or ``(N, K, H, W)`` at the size of the image.
            given: what ``scores`` are.
            watch: called in each round with the Kullback-Leibler divergence so far, up to the
                constant log partition function; image after image.

        Raises:
            InputError: sizes that differ, fewer than two classes, scores that are not finite,
                probabilities below 0, or a setting that does not fit the number of channels or
                classes.
        """
        single = scores.dim() == 3
        images, batch = (t[None] if t.dim() == 3 else t for t in (image, scores))
        _check(images, batch, given)
        self._check_fit(images.shape[1], batch.shape[1])
        if not batch.is_floating_point() or batch.dtype in (torch.float16, torch.bfloat16):
            batch = batch.float()
        logits = batch if given == "logits" else batch.clamp_min(CLIP).log()
        images = images.to(logits.device, logits.dtype)
        smooth = self._smooth(logits) if _weighs(self.smooth_compat) else None
        results = []
        for pixels, values in zip(images, logits, strict=True):
            terms = [] if smooth is None else [(smooth, self.smooth_compat)]
            if _weighs(self.compat):
                terms.append((self._bilateral(pixels), self.compat))
            kernels = [kernel for kernel, _ in terms]
            penalties = [_on(penalty, logits) for _, penalty in terms]
            rows = values.flatten(1).T.contiguous()
            rows = mean_field(rows, kernels, penalties, self.iterations, watch)
            results.append(rows.T.reshape(values.shape))
        return results[0] if single else torch.stack(results)

    def _smooth(self, like: Tensor) -> Kernel:
        height, width = like.shape[-2:]
        return near_kernel(
            height,
            width,
            self.smooth_sxy,
            self.normalization,
            self.backend,
            like.dtype,
            like.device,
        )

    def _bilateral(self, image: Tensor) -> Kernel:
        colours = image.flatten(1).T / image.new_tensor(self.srgb)
        features = torch.cat([places(image) / image.new_tensor(self.sxy), colours], 1)
        if self.mix is not None:
            features = features @ self.mix.to(features).T
        return Kernel.of(features, self.normalization, self.backend)

    def _check_fit(self, channels: int, classes: int) -> None:
        """Refuse settings for another number of channels or classes."""
        if len(self.srgb) not in (1, channels):
            raise InputError(
                f"srgb has {len(self.srgb)} widths, the image {channels} channels; give one width, "
                "or one for each channel"
            )
        if self.mix is not None and self.mix.shape != (channels + 2, channels + 2):
            raise InputError(
                f"mix is a matrix of x, y and {channels} channels, {channels + 2} x "
                f"{channels + 2}, got shape {tuple(self.mix.shape)}"
            )
        for name, penalty in (("compat", self.compat), ("smooth_compat", self.smooth_compat)):
            if isinstance(penalty, Tensor) and set(penalty.shape) != {classes}:
                raise InputError(
                    f"{name} has shape {tuple(penalty.shape)}, the scores {classes} classes; give "
                    f"one number, {classes}, or {classes} x {classes}"
                )


def _weighs(penalty: Penalty) -> bool:
    return isinstance(penalty, Tensor) or penalty != 0


def _on(penalty: Penalty, like: Tensor) -> Penalty:
    return penalty.to(like) if isinstance(penalty, Tensor) else penalty


def _widths(name: str, given: Widths, count: int | None) -> tuple[float, ...]:
    widths = tuple(map(float, given)) if isinstance(given, Sequence) else (float(given),)
    wanted = "one positive number" + (f", or {count}" if count else ", or one for each channel")
    wrong_count = len(widths) not in (1, count or len(widths)) or not widths
    if wrong_count or not all(0 < w < float("inf") for w in widths):
        raise InputError(f"{name} is {wanted}, got {given}; widths are standard deviations")
    return widths


def _penalty(name: str, given: Compat) -> Penalty:
    if isinstance(given, int | float):
        penalty = torch.tensor(float(given))
    else:
        penalty = torch.as_tensor(given, dtype=None if isinstance(given, Tensor) else torch.float32)
    square = penalty.dim() == 2 and penalty.shape[0] == penalty.shape[1]
    if not (penalty.dim() < 2 or square):
        raise InputError(
            f"{name} is one number, K or K x K, got shape {tuple(penalty.shape)}; K is the number "
            "of classes"
        )
    if not penalty.isfinite().all():
        raise InputError(f"{name} must be finite, got NaN or infinity")
    return float(penalty) if penalty.dim() == 0 else penalty


def _check(images: Tensor, scores: Tensor, given: str) -> None:
    if given not in ("logits", "probabilities"):
        raise SettingError(f"given is 'logits' or 'probabilities', got {given!r}")
    if images.dim() != 4 or scores.dim() != 4 or len(images) != len(scores):
        raise InputError(
            "DenseCRF takes an image (C, H, W) and scores (K, H, W), or a batch of both, got "
            f"{tuple(images.shape)} and {tuple(scores.shape)}"
        )
    if images.shape[2:] != scores.shape[2:]:
        height, width = images.shape[2:]
        raise InputError(
            f"the image has {height}x{width} pixels, the scores {scores.shape[2]}x"
            f"{scores.shape[3]}; enlarge the scores to the image first"
        )
    if scores.shape[1] < 2:
        raise InputError(
            f"DenseCRF needs at least 2 classes, got {scores.shape[1]}; for one sigmoid channel x "
            "give torch.cat([0 * x, x])"
        )
    if not finite(scores):
        raise InputError("the scores hold NaN or infinity; DenseCRF needs finite ones")
    if given == "probabilities" and scores.min() < 0:
        raise InputError(
            f"probabilities are 0 or more, got {float(scores.min()):.3g}; give given='logits' for "
            "the network's output"
        )

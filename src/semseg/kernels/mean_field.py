r"""Mean field in a fully connected CRF whose pairwise terms are Gaussian filters.

Source: Krähenbühl, Koltun. "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials." NIPS 2011, arXiv:1210.5644, algorithm 1. With logits u, filters k and penalties
:math:`\mu_k` a round is

.. math:: Q \leftarrow \mathrm{softmax}(u - \sum_k \mu_k (k * Q)).

As in the authors' code, the filters hold the pixel itself too, and normalise as told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.permutohedral import Backend, Permutohedral

Normalization = Literal["none", "before", "after", "symmetric"]

Penalty = float | Tensor
"""What labels pay when they meet: a number w is Potts, that is ``-w`` for meeting themselves; a
``(K,)`` tensor pays each label for meeting itself (negative: it likes to); ``(K, K)`` is full."""


def places(like: Tensor) -> Tensor:
    """Return ``(H * W, 2)`` x and y of every pixel of ``(..., H, W)``, row by row."""
    height, width = like.shape[-2:]
    y = torch.arange(height, dtype=like.dtype, device=like.device)
    x = torch.arange(width, dtype=like.dtype, device=like.device)
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], 1)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A normalised Gaussian filter over the pixels of one image.

    Args:
        lattice: of the features.
        before: ``(N, 1)`` factors of what is filtered, or none.
        after: ``(N, 1)`` factors of what was filtered, or none.
    """

    lattice: Permutohedral
    before: Tensor | None
    after: Tensor | None

    @classmethod
    def of(
        cls, features: Tensor, normalization: Normalization = "symmetric", backend: Backend = "auto"
    ) -> Kernel:
        """Build the lattice of ``(N, d)`` features and measure its weights.

        Args:
            features: divided by their widths.
            normalization: ``"after"`` keeps constants, ``"before"`` keeps sums, ``"symmetric"``
                shares the factor between both, ``"none"`` leaves the raw sum.
            backend: see :class:`semseg.kernels.permutohedral.Permutohedral`.

        Raises:
            InputError: another normalisation, or features that the lattice refuses.
        """
        if normalization not in get_args(Normalization):
            raise InputError(
                f"normalization is 'none', 'before', 'after' or 'symmetric', got {normalization!r}"
            )
        lattice = Permutohedral(features, backend)
        if normalization == "none":
            return cls(lattice, None, None)
        # a pixel always meets itself, so no sum is zero
        sums = lattice.filter(features.new_ones(len(features), 1))
        if normalization == "symmetric":
            factors = sums.rsqrt()
            return cls(lattice, factors, factors)
        factors = 1 / sums
        before = normalization == "before"
        return cls(lattice, factors if before else None, None if before else factors)

    def filter(self, values: Tensor) -> Tensor:
        """Return filtered ``(N, C)`` values, with gradient."""
        values = values if self.before is None else values * self.before.to(values.dtype)
        values = self.lattice.filter(values)
        return values if self.after is None else values * self.after.to(values.dtype)


@lru_cache(maxsize=1)
def near_kernel(
    height: int,
    width: int,
    widths: tuple[float, ...],
    normalization: Normalization,
    backend: Backend,
    dtype: torch.dtype,
    device: torch.device,
) -> Kernel:
    """Return the filter over places alone, kept for the next image of the same size.

    Args:
        height: of the image.
        width: of the image.
        widths: standard deviations along x and y, or one for both, in pixels.
        normalization: see :meth:`Kernel.of`, as is ``backend``.
        backend: what filters.
        dtype: of the features.
        device: of the features.
    """
    # not an inference tensor, because a later image may want a gradient
    with torch.inference_mode(False), torch.no_grad():
        features = places(torch.empty(height, width, dtype=dtype, device=device))
        return Kernel.of(features / features.new_tensor(widths), normalization, backend)


def mean_field(
    logits: Tensor,
    kernels: Sequence[Kernel],
    penalties: Sequence[Penalty],
    iterations: int,
    watch: Callable[[float], None] | None = None,
) -> Tensor:
    """Return probabilities ``(N, K)`` after some rounds.

    Args:
        logits: ``(N, K)``, the negative unary energies.
        kernels: filters over the same N pixels.
        penalties: one for each kernel.
        iterations: rounds; 0 gives the softmax of the logits.
        watch: called in each round with the Kullback-Leibler divergence of the probabilities so
            far from the CRF, up to the constant log partition function.

    Gradients flow to logits and penalties. Without any, float32 on a CPU takes a fused path.
    """
    if not _learned(logits, penalties) and _fits(logits, kernels) and watch is None:
        return _fused(logits, kernels, penalties, iterations)
    return _plain(logits, kernels, penalties, iterations, watch).softmax(1)


def mean_field_logits(
    logits: Tensor, kernels: Sequence[Kernel], penalties: Sequence[Penalty], iterations: int
) -> Tensor:
    """Return logits ``(N, K)`` whose softmax :func:`mean_field` gives, up to a constant per pixel.

    Args:
        logits: as for :func:`mean_field`, like all that follows.
        kernels: filters.
        penalties: one for each kernel.
        iterations: rounds.
    """
    if not _learned(logits, penalties) and _fits(logits, kernels):
        return _fused(logits, kernels, penalties, iterations).log()
    return _plain(logits, kernels, penalties, iterations)


def _learned(logits: Tensor, penalties: Sequence[Penalty]) -> bool:
    tensors = [logits, *(p for p in penalties if isinstance(p, Tensor))]
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _fits(logits: Tensor, kernels: Sequence[Kernel]) -> bool:
    fast = all(k.lattice.backend == "numba" for k in kernels)
    return bool(kernels) and fast and logits.dtype == torch.float32


def _plain(
    logits: Tensor,
    kernels: Sequence[Kernel],
    penalties: Sequence[Penalty],
    iterations: int,
    watch: Callable[[float], None] | None = None,
) -> Tensor:
    """Return logits after the last round."""
    refined = logits
    for _ in range(iterations if kernels else 0):
        q = refined.softmax(1)
        messages = torch.zeros_like(q)
        for kernel, penalty in zip(kernels, penalties, strict=True):
            messages = messages + charged(kernel.filter(q), penalty)
        if watch is not None:
            watch(divergence(q, logits, messages))
        refined = logits - messages
    return refined


def charged(values: Tensor, penalty: Penalty) -> Tensor:
    """Return what each label pays for meeting filtered probabilities ``(N, K)``."""
    if not isinstance(penalty, Tensor):
        return -penalty * values
    penalty = penalty.to(values.dtype)
    return values * penalty if penalty.dim() == 1 else values @ penalty.T


def divergence(q: Tensor, logits: Tensor, messages: Tensor) -> float:
    """Return the divergence of ``q`` from the CRF up to a constant; each pair counts once."""
    q, logits, messages = (t.detach().double() for t in (q, logits, messages))
    entropy = -torch.special.entr(q).sum()
    return float(entropy + (q * (messages / 2 - logits)).sum())


def _fused(
    logits: Tensor, kernels: Sequence[Kernel], penalties: Sequence[Penalty], iterations: int
) -> Tensor:
    from semseg.kernels.mean_field_cpu import Term, mean_field

    terms = [
        Term.of(kernel.lattice, kernel.before, kernel.after, penalty)
        for kernel, penalty in zip(kernels, penalties, strict=True)
    ]
    return torch.from_numpy(mean_field(logits.detach().numpy(), terms, iterations))

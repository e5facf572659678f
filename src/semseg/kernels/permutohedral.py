r"""Gaussian filtering in d dimensions on the permutohedral lattice.

Every pixel has a feature vector f of d numbers, and wants the sum of all pixels' values v, weighted
by :math:`\exp(-|f_i - f_j|^2 / 2)`. The pixels are splatted onto the corners of the simplexes that
their features lie in, values are blurred between neighbouring lattice points along d + 1 axes, and
sliced off again. The time is that of N pixels, not of N^2 pairs.

Source: Adams, Baek, Davis. "Fast High-Dimensional Filtering Using the Permutohedral Lattice."
Eurographics 2010. Scales, rounding, ties and the final factor are those of the dense CRF by
Krähenbühl and Koltun (arXiv:1210.5644), so that its published parameters keep their meaning.

It is an approximation. Against the dense sum in float64, each row normalised, values of edges and
noise are off by 0.3 % of their range on average and 2 % at most for places alone (d = 2), by 0.5 %
and 6 % for places and colours (d = 5): ``tests/kernels/test_permutohedral.py``. The raw sum is too
small besides, by a factor of about 0.88 and 0.5, which normalising takes away.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semseg.core.checks import InputError, SettingError
from semseg.kernels.permutohedral_torch import Keys, TorchLattice
from semseg.kernels.with_triton import triton_runs

if TYPE_CHECKING:
    from semseg.kernels.permutohedral_cpu import CpuLattice
    from semseg.kernels.permutohedral_triton import TritonLattice

Backend = Literal["auto", "torch", "numba", "triton"]


class Permutohedral:
    """The lattice of given features: built once, filters many times.

    Args:
        features: ``(N, d)`` float32 or float64, divided by the widths of the Gaussian: one unit is
            one standard deviation. No gradient flows to them.
        backend: ``"torch"`` works on every device. ``"numba"`` is for float32 on a CPU, many times
            as fast and needs the extra ``crf``. ``"triton"`` is for float32 on a GPU.
            ``"auto"`` takes the fastest that can be had.

    Raises:
        InputError: features of another shape or not finite, widths too small for the space they
            span, or a backend asked for where it cannot be had.
        SettingError: integer features.

    Example:
        >>> lattice = Permutohedral(torch.tensor([[0.0], [0.5], [9.0]]))
        >>> sums = lattice.filter(torch.ones(3, 1))
        >>> (lattice.filter(torch.tensor([[1.0], [0.0], [5.0]])) / sums).flatten().tolist()[2]
        5.0
    """

    def __init__(self, features: Tensor, backend: Backend = "auto") -> None:
        _check(features, backend)
        features = features.detach()
        self.count, dims = features.shape
        self.dtype, self.device = features.dtype, features.device
        self.factor = 1 / (1 + 2.0**-dims)
        self.backend = backend = _fastest(features) if backend == "auto" else backend
        keys = Keys.of(features)
        self.lattice: TorchLattice | CpuLattice | TritonLattice
        if backend == "numba":
            from semseg.kernels.permutohedral_cpu import CpuLattice

            self.lattice = CpuLattice.of(features, keys)
        elif backend == "triton":
            from semseg.kernels.permutohedral_triton import TritonLattice

            self.lattice = TritonLattice.of(features, keys)
        else:
            self.lattice = TorchLattice.of(features, keys)

    @property
    def points(self) -> int:
        """Number of lattice points."""
        return self.lattice.before.shape[1]

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Return filtered values; their gradient is the same filter with ``reverse`` turned.

        Args:
            values: ``(N, C)`` of the same device; computed in the precision of the features.
            reverse: blur along the axes in the other order. The lattice has borders, so the order
                matters a little, and this is the adjoint.

        Raises:
            InputError: another number of rows.
        """
        if values.dim() != 2 or len(values) != self.count:
            raise InputError(
                f"the lattice holds {self.count} pixels, got values of shape "
                f"{tuple(values.shape)}; give (N, C) with N = {self.count}"
            )
        filtered: Tensor = _Filter.apply(values, self, reverse)
        return filtered


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: Permutohedral, reverse: bool) -> Tensor:
        ctx.lattice, ctx.reverse = lattice, reverse
        return _convolve(lattice, values, reverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _convolve(ctx.lattice, gradient, not ctx.reverse), None, None


def _convolve(owner: Permutohedral, values: Tensor, reverse: bool) -> Tensor:
    work = values.detach().to(owner.dtype)
    return owner.lattice.convolve(work, owner.factor, reverse).to(values.dtype)


def finite(values: Tensor) -> bool:
    """Return whether no value is NaN or infinite; NaN, too, shows in the least and the largest.

    Example:
        >>> finite(torch.tensor([1.0, -2.0])), finite(torch.tensor([1.0, float("nan")]))
        (True, False)
    """
    low, high = values.detach().aminmax()
    return bool(low.isfinite() & high.isfinite())


def has_numba() -> bool:
    """Return whether the extra ``crf`` is installed."""
    return find_spec("numba") is not None


def _fastest(features: Tensor) -> Backend:
    if _fits_numba(features) and has_numba():
        return "numba"
    return "triton" if _fits_triton(features) and triton_runs(features.device) else "torch"


def _fits_numba(features: Tensor) -> bool:
    return features.device.type == "cpu" and features.dtype == torch.float32


def _fits_triton(features: Tensor) -> bool:
    count, dims = features.shape
    few = (dims + 1) * count < 2**31  # corners are numbered in 32 bits
    return features.device.type == "cuda" and features.dtype == torch.float32 and few


def _check(features: Tensor, backend: Backend) -> None:
    if not isinstance(features, Tensor) or features.dtype not in (torch.float32, torch.float64):
        raise SettingError(
            "the lattice takes features as a float32 or float64 tensor, got "
            f"{getattr(features, 'dtype', type(features).__name__)}; convert them"
        )
    if features.dim() != 2 or features.numel() == 0:
        raise InputError(
            f"the lattice takes features of shape (N, d), at least one of each, got "
            f"{tuple(features.shape)}"
        )
    if not finite(features):
        raise InputError("features of the lattice must be finite; they hold NaN or infinity")
    if backend not in get_args(Backend):
        raise InputError(f"backend is 'auto', 'torch', 'numba' or 'triton', got {backend!r}")
    if backend == "numba" and not _fits_numba(features):
        raise InputError(
            f"numba filters float32 on a CPU, got {features.dtype} on {features.device}; "
            "use backend='torch'"
        )
    if backend == "numba" and not has_numba():
        raise InputError("numba is not installed; pip install 'semseg[crf]', or backend='torch'")
    if backend == "triton" and not _fits_triton(features):
        raise InputError(
            f"triton filters up to 2**31 corners of pixels in float32 on a GPU, got "
            f"{features.dtype} on {features.device}; use backend='torch'"
        )
    if backend == "triton" and not triton_runs(features.device):
        raise InputError("triton does not work here; use backend='torch'")

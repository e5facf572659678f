"""Mean field on a CPU: every round reads, normalises and adds up a pixel while it is in the cache.

The probabilities between two rounds are never stored: as soon as a pixel's are known, they are
added to its lattice points.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from semseg.kernels import permutohedral_loops as loops
from semseg.kernels.permutohedral import Permutohedral
from semseg.kernels.permutohedral_cpu import (
    Array,
    CpuLattice,
    blurred,
    lanes_for,
    over,
    spread,
    threads,
)


@dataclass(frozen=True, slots=True)
class Term:
    """One kernel of the model.

    Args:
        lattice: of its features.
        factor: of the lattice's filter.
        before: ``(N,)`` normalisation of what is filtered, or none.
        after: ``(N,)`` normalisation of what was filtered, or none.
        penalty: Potts weight, or what ``(K, K)`` labels pay when they meet.
    """

    lattice: CpuLattice
    factor: float
    before: Array | None
    after: Array | None
    penalty: float | Array

    @classmethod
    def of(
        cls,
        owner: Permutohedral,
        before: Tensor | None,
        after: Tensor | None,
        penalty: float | Tensor,
    ) -> Term:
        """Return the kernel of ``(N, 1)`` factors and a Potts, diagonal or full penalty."""
        first = None if before is None else before[:, 0].numpy()
        second = None if after is None else after[:, 0].numpy()
        second = first if after is before else second
        assert isinstance(owner.lattice, CpuLattice)
        if not isinstance(penalty, Tensor):
            return cls(owner.lattice, owner.factor, first, second, float(penalty))
        full = penalty.detach().to(torch.float32)
        full = full if full.dim() == 2 else full.diag()
        return cls(owner.lattice, owner.factor, first, second, full.numpy())


def mean_field(logits: Array, terms: Sequence[Term], iterations: int) -> Array:
    """Return probabilities ``(N, K)`` after some rounds, from ``(N, K)`` float32 logits."""
    classes = logits.shape[1]
    lanes = lanes_for(classes)
    sizes = np.cumsum([0, *(len(term.lattice.index) for term in terms)])
    parts = [slice(a, b) for a, b in pairwise(sizes)]
    local, sums = (np.zeros((sizes[-1], len(lanes)), np.float32) for _ in range(2))
    buffers = [t.lattice.buffers(len(lanes)) for t in terms]
    rows = np.empty((len(logits), len(lanes)), np.float32)
    # lattices of as many pixels have the same bands, and no band shares rows with another
    bands = terms[0].lattice.bands
    with threads() as pool:
        over(pool, loops.pad, bands, logits, np.finfo(np.float32).min / 4, rows)
        corners, adds = _corners(pool, terms, [t.before for t in terms], sizes)
        reads = adds
        if any(t.before is not t.after for t in terms):
            _, reads = _corners(pool, terms, [t.after for t in terms], sizes)
        nothing, unkept = adds[:, :0], rows[:0]
        for i in range(iterations):
            told = reads if i > 0 else nothing
            over(pool, loops.step, bands, rows, corners, told, adds, local, sums, unkept, lanes)
            for term, part, pair in zip(terms, parts, buffers, strict=True):
                _messages(pool, term, sums[part], local[part], pair)
        over(pool, loops.step, bands, rows, corners, reads, nothing, local, sums, rows, lanes)
    return rows[:, :classes]


def _corners(
    pool: Executor, terms: Sequence[Term], factors: Sequence[Array | None], sizes: Array
) -> tuple[Array, Array]:
    """Return ``(N, T)`` rows and normalised weights of the corners of all kernels."""
    lattices = [term.lattice for term in terms]
    count, ends = len(lattices[0].offsets), np.cumsum([0, *(x.offsets.shape[1] for x in lattices)])
    rows, weights = np.empty((count, ends[-1]), np.int32), np.empty((count, ends[-1]), np.float32)
    for x, column, shift, factor in zip(lattices, ends, sizes, factors, strict=False):
        factor = np.ones(count, np.float32) if factor is None else np.ascontiguousarray(factor)
        given = (int(column), int(shift), x.offsets, x.weights, factor)
        over(pool, loops.place, x.bands, *given, rows, weights)
    return rows, weights


def _messages(pool: Executor, term: Term, sums: Array, local: Array, buffers: list[Array]) -> None:
    """Blur what was added up; leave in ``local`` what pixels add to their logits."""
    x, penalty = blurred(pool, term.lattice, sums, buffers), term.penalty
    if isinstance(penalty, float):
        spread(pool, term.lattice, x, term.factor * penalty, local)
        return
    square = np.zeros((x.shape[1], x.shape[1]), np.float32)
    square[: len(penalty), : len(penalty)] = penalty.T
    spread(pool, term.lattice, x @ square, -term.factor, local)

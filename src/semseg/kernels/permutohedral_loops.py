"""Compiled loops of the permutohedral lattice; ``permutohedral_cpu.py`` says how they fit together.

All release the GIL and work on a range of rows, so that plain threads can share them. The first use
of a number of channels compiles for it, which numba keeps on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from semseg.kernels.rows import (
    add_row,
    add_rows,
    blur_row,
    read_rows,
    scale_row,
    softmax_row,
)

Array = np.ndarray[Any, Any]


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, without the GIL, and keep the result on disk."""
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


@jit
def embed(
    first: int, end: int, features: Array, scale: Array, stride: Array, low: Array, block: int,
    offsets: Array, weights: Array,
) -> Array:  # fmt: skip
    """Place a band's pixels; return the codes of its lattice points in order of appearance."""
    d = features.shape[1]
    up, down = np.float32(d + 1), np.float32(1) / np.float32(d + 1)
    y, rest = np.empty(d + 1, np.float32), np.empty(d + 1, np.float32)
    q, rank, order = np.empty(d + 1, np.int64), np.empty(d + 1, np.int64), np.empty(d + 1, np.int64)
    codes, table, held = np.empty(1024, np.int64), np.full(4096, -1, np.int32), 0
    for i in range(first, end):
        lift(features[i], scale, y)
        shift = 0
        for k in range(d + 1):
            near = np.rint(y[k] * down)
            q[k], rank[k], rest[k] = np.int64(near), 0, y[k] - near * up
            shift += q[k]
        for a in range(d):
            for b in range(a + 1, d + 1):
                less = rest[a] < rest[b]
                rank[a] += less
                rank[b] += not less
        for k in range(d + 1):
            rank[k] += shift
            move = np.int64(rank[k] < 0) - np.int64(rank[k] > d)
            rank[k] += move * (d + 1)
            q[k] += move
            rest[k] = (y[k] - np.float32(q[k]) * up) * down
            order[rank[k]] = k
        code = np.int64(0)
        for k in range(d):
            code += (q[k] - low[k]) * stride[k]
        for r in range(d + 1):
            if r > 0:
                code += block - stride[order[d - r + 1]]
                weights[i, r] = rest[order[d - r]] - rest[order[d - r + 1]]
            else:
                weights[i, r] = rest[order[d]] + (np.float32(1) - rest[order[0]])
            if i > first and codes[offsets[i - 1, r]] == code:  # mostly the simplex of before
                offsets[i, r] = offsets[i - 1, r]
                continue
            if held == len(codes):
                codes, table = grown(codes)
            slot = find(table, codes, code)
            if table[slot] < 0:
                table[slot], codes[held] = held, code
                held += 1
            offsets[i, r] = table[slot]
    return codes[:held]


@jit
def lift(feature: Array, scale: Array, y: Array) -> None:
    """Write the d + 1 coordinates in the plane of the lattice to ``y``."""
    total = np.float32(0)
    for k in range(len(feature), 0, -1):
        part = feature[k - 1] * scale[k - 1]
        y[k] = total - np.float32(k) * part
        total += part
    y[0] = total


@jit
def find(table: Array, codes: Array, code: np.int64) -> np.int64:
    """Return the slot that holds ``code``, or the free one where it belongs."""
    mask = len(table) - 1
    mixed = np.uint64(code) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(32)) & mask
    while table[slot] >= 0 and codes[table[slot]] != code:
        slot = (slot + 1) & mask
    return slot


@jit
def grown(codes: Array) -> tuple[Array, Array]:
    """Return room for twice as many codes, and their new table."""
    more = np.empty(2 * len(codes), np.int64)
    table = np.full(8 * len(codes), -1, np.int32)
    more[: len(codes)] = codes
    for i in range(len(codes)):
        table[find(table, more, codes[i])] = i
    return more, table


@jit
def move(first: int, end: int, offsets: Array, shift: int) -> None:
    """Number a band's rows after those of the bands before it."""
    for i in range(first, end):
        for r in range(offsets.shape[1]):
            offsets[i, r] += shift


@jit
def join(
    axis: int, codes: Array, edges: Array, stride: Array, block: int, before: Array, after: Array
) -> None:
    """Find every lattice point's neighbours along ``axis`` by walking two sorted runs of codes."""
    d = len(edges) - 2
    total = stride.sum()
    for r in range(d + 1):
        other = r - 1 if r > 0 else d
        step = stride[axis] - block if r > 0 else stride[axis] + d * block - total
        p = edges[other]
        for i in range(edges[r], edges[r + 1]):
            wanted = codes[i] + step
            while p < edges[other + 1] and codes[p] < wanted:
                p += 1
            if p < edges[other + 1] and codes[p] == wanted:
                before[axis, i] = p
                after[axis, p] = i


@jit
def splat(
    first: int, end: int, values: Array, offsets: Array, weights: Array, local: Array, lanes: Any
) -> None:
    """Add a band's pixels to its rows."""
    for i in range(first, end):
        add_rows(values, i, i, local, offsets, weights, lanes)


@jit
def merge(
    first: int, end: int, local: Array, order: Array, starts: Array, x: Array, lanes: Any
) -> None:
    """Add up the rows of each lattice point; leave zeros, to add to again."""
    for m in range(first, end):
        scale_row(x, m, local, order[starts[m]], np.float32(1), lanes)
        for s in range(starts[m] + 1, starts[m + 1]):
            add_row(x, m, local, order[s], np.float32(1), lanes)
        for s in range(starts[m], starts[m + 1]):
            scale_row(local, order[s], local, order[s], np.float32(0), lanes)


@jit
def blur(first: int, end: int, x: Array, before: Array, after: Array, y: Array, lanes: Any) -> None:
    """Blur along one axis."""
    for m in range(first, end):
        blur_row(y, m, x, m, x, before[m], x, after[m], lanes)


@jit
def spread(
    first: int, end: int, x: Array, index: Array, factor: float, local: Array, lanes: Any
) -> None:
    """Copy lattice points to the rows of the bands."""
    for s in range(first, end):
        scale_row(local, s, x, index[s], factor, lanes)


@jit
def slice_rows(
    first: int, end: int, local: Array, offsets: Array, weights: Array, out: Array, lanes: Any
) -> None:
    """Read pixels off the rows around them."""
    for i in range(first, end):
        scale_row(out, i, local, offsets[i, 0], weights[i, 0], lanes)
        for r in range(1, offsets.shape[1]):
            add_row(out, i, local, offsets[i, r], weights[i, r], lanes)


@jit
def place(
    first: int, end: int, column: int, shift: int, offsets: Array, weights: Array, factors: Array,
    rows: Array, out: Array,
) -> None:  # fmt: skip
    """Write a kernel's corners, rows ``shift`` further on and weights times factors, to columns."""
    for i in range(first, end):
        for r in range(offsets.shape[1]):
            rows[i, column + r] = offsets[i, r] + shift
            out[i, column + r] = weights[i, r] * factors[i]


@jit
def pad(first: int, end: int, values: Array, least: float, rows: Array) -> None:
    """Copy rows, and fill up with the least value."""
    for i in range(first, end):
        for k in range(values.shape[1]):
            rows[i, k] = values[i, k]
        rows[i, values.shape[1] :] = least


@jit
def step(
    first: int, end: int, logits: Array, offsets: Array, reads: Array, adds: Array, local: Array,
    sums: Array, out: Array, lanes: Any,
) -> None:  # fmt: skip
    """One round of mean field in a band: read messages, softmax, add up for the next round.

    Args:
        first: pixel of the band.
        end: pixel after its last.
        logits: ``(N, C)`` without messages.
        offsets: ``(N, T)`` rows of the simplexes of all kernels.
        reads: ``(N, T)`` weights of messages; no columns in the first round.
        adds: ``(N, T)`` weights of probabilities; no columns in the last round.
        local: ``(R, C)`` messages by row.
        sums: ``(R, C)`` what is added to.
        out: ``(N, C)`` probabilities of the last round, else one row to work in.
        lanes: C zeros.
    """
    keep = len(out) > 0
    rows = out if keep else np.empty((16, logits.shape[1]), np.float32)
    for i in range(first, end):
        k = i if keep else 0
        if reads.shape[1] > 0:
            read_rows(rows, k, logits, i, local, offsets, reads, lanes)
        else:
            scale_row(rows, k, logits, i, np.float32(1), lanes)
        softmax_row(rows, k, lanes)
        if adds.shape[1] > 0:
            add_rows(rows, k, i, sums, offsets, adds, lanes)

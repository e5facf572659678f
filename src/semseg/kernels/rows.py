"""Vector arithmetic of rows for loops that numba compiles.

A row holds the C values of one pixel or lattice point, one after the other. LLVM finds no vector
instructions in short loops over rows that may overlap, so these operations are written as such.
They take ``array, row`` pairs of C-contiguous float32 arrays ``(R, C)`` and, last, ``lanes``: a
tuple of C zeros, which makes C known when compiling. C is a multiple of 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WIDTH = 8
"""Floats of a vector; two rows of four make no difference to a machine without AVX."""

LEAST = -60.0
"""Powers of two below this are made this: products stay normal, sums do not feel it."""

INT = ir.IntType(32)


def operation(function: Callable[..., Any]) -> Callable[..., None]:
    """Make compiled functions see what ``function`` emits, without its first argument."""
    compiled: Callable[..., None] = intrinsic(function)
    return compiled


@operation
def scale_row(_: Any, to: Any, i: Any, x: Any, j: Any, weight: Any, lanes: Any) -> Any:
    """``to[i] = weight * x[j]``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = _pointers(context, builder, signature, args)
        for start, kind in _pieces(signature):
            value = builder.fmul(_full(builder, args[4], kind), _load(builder, source, start, kind))
            _store(builder, value, target, start)
        return context.get_dummy_value()

    return types.void(to, types.intp, x, types.intp, types.float32, lanes), emit


@operation
def add_row(_: Any, to: Any, i: Any, x: Any, j: Any, weight: Any, lanes: Any) -> Any:
    """``to[i] += weight * x[j]``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = _pointers(context, builder, signature, args)
        for start, kind in _pieces(signature):
            factor = _full(builder, args[4], kind)
            x, before = (_load(builder, p, start, kind) for p in (source, target))
            _store(builder, _multiply_add(builder, factor, x, before), target, start)
        return context.get_dummy_value()

    return types.void(to, types.intp, x, types.intp, types.float32, lanes), emit


@operation
def read_rows(
    _: Any, to: Any, i: Any, x: Any, j: Any, y: Any, rows: Any, weights: Any, lanes: Any
) -> Any:
    """``to[i] = x[j] + sum(weights[j, t] * y[rows[j, t]])``, added up in registers."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = _pointers(context, builder, signature, args)
        sums = []
        for start, kind in _pieces(signature):
            sums.append((start, kind, cgutils.alloca_once(builder, kind)))
            builder.store(_load(builder, source, start, kind), sums[-1][2])
        with _corners(context, builder, signature, args, slice(4, 7)) as (row, weight):
            for start, kind, total in sums:
                factor, value = _full(builder, weight, kind), _load(builder, row, start, kind)
                builder.store(_multiply_add(builder, factor, value, builder.load(total)), total)
        for start, _, total in sums:
            _store(builder, builder.load(total), target, start)
        return context.get_dummy_value()

    return types.void(to, types.intp, x, types.intp, y, rows, weights, lanes), emit


@operation
def add_rows(_: Any, x: Any, i: Any, j: Any, y: Any, rows: Any, weights: Any, lanes: Any) -> Any:
    """``y[rows[j, t]] += weights[j, t] * x[i]`` for every t."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (source,) = _pointers(context, builder, signature, args)
        values = [(s, _load(builder, source, s, kind)) for s, kind in _pieces(signature)]
        with _corners(context, builder, signature, args, slice(3, 6)) as (row, weight):
            for start, value in values:
                factor = _full(builder, weight, value.type)
                before = _load(builder, row, start, value.type)
                _store(builder, _multiply_add(builder, factor, value, before), row, start)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, y, rows, weights, lanes), emit


@operation
def blur_row(
    _: Any, to: Any, i: Any, x: Any, j: Any, y: Any, a: Any, z: Any, b: Any, lanes: Any
) -> Any:
    """``to[i] = x[j] + (y[a] + z[b]) / 2``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, *sources = _pointers(context, builder, signature, args)
        for start, kind in _pieces(signature):
            middle, low, high = (_load(builder, p, start, kind) for p in sources)
            half = ir.Constant(kind, [0.5] * kind.count)
            value = _multiply_add(builder, half, builder.fadd(low, high), middle)
            _store(builder, value, target, start)
        return context.get_dummy_value()

    row = types.intp
    return types.void(to, row, x, row, y, row, z, row, lanes), emit


@operation
def softmax_row(_: Any, to: Any, i: Any, lanes: Any) -> Any:
    """``to[i] = softmax(to[i])``, within 3e-7 of it."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (target,) = _pointers(context, builder, signature, args)
        pieces = [(s, _load(builder, target, s, kind)) for s, kind in _pieces(signature)]
        tops = [_reduce(builder, "fmax", x) for _, x in pieces]
        top = tops[0]
        for other in tops[1:]:
            top = builder.select(builder.fcmp_ordered(">", other, top), other, top)
        powers = [
            (s, _exp(builder, builder.fsub(x, _full(builder, top, x.type)))) for s, x in pieces
        ]
        total = ir.Constant(ir.FloatType(), 0.0)
        for _, x in powers:
            total = builder.fadd(total, _reduce(builder, "fadd", x))
        factor = builder.fdiv(ir.Constant(ir.FloatType(), 1.0), total)
        for s, x in powers:
            _store(builder, builder.fmul(x, _full(builder, factor, x.type)), target, s)
        return context.get_dummy_value()

    return types.void(to, types.intp, lanes), emit


def _exp(builder: Any, x: Any) -> Any:
    """Return e to the power of ``x <= 0``: 2^n times a polynomial of what is left of log2."""
    kind = x.type

    def constant(value: float) -> ir.Constant:
        return ir.Constant(kind, [value] * kind.count)

    def integer(value: int) -> ir.Constant:
        return ir.Constant(whole, [value] * kind.count)

    whole = ir.VectorType(INT, kind.count)
    x = builder.fmul(x, constant(math.log2(math.e)))
    x = builder.select(builder.fcmp_ordered(">", x, constant(LEAST)), x, constant(LEAST))
    n = builder.fptosi(builder.fsub(x, constant(0.5)), whole)
    rest = builder.fsub(x, builder.sitofp(n, kind))
    value = constant(math.log(2) ** 6 / math.factorial(6))
    for k in range(5, -1, -1):
        term = constant(math.log(2) ** k / math.factorial(k))
        value = _multiply_add(builder, value, rest, term)
    exponent = builder.shl(builder.add(n, integer(127)), integer(23))
    return builder.fmul(value, builder.bitcast(exponent, kind))


def _pieces(signature: Any) -> Iterator[tuple[int, ir.VectorType]]:
    """Yield where each vector of a row starts, and its type."""
    count = signature.args[-1].count
    for start in range(0, count, WIDTH):
        yield start, ir.VectorType(ir.FloatType(), min(WIDTH, count - start))


def _pointers(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """Return where the row of each ``array, row`` pair begins."""
    width = ir.Constant(ir.IntType(64), signature.args[-1].count)
    pointers = []
    for k, kind in enumerate(signature.args[:-1]):
        if isinstance(kind, types.Array) and isinstance(signature.args[k + 1], types.Integer):
            data = context.make_array(kind)(context, builder, args[k]).data
            pointers.append(builder.gep(data, [builder.mul(args[k + 1], width)]))
    return pointers


@contextmanager
def _corners(
    context: Any, builder: Any, signature: Any, args: Any, place: slice
) -> Iterator[tuple[Any, Any]]:
    """Loop over the rows and weights of a pixel, the argument before the arrays ``place``."""
    kinds, pixel = signature.args[place], args[place.start - 1]
    y, rows, weights = (
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(kinds, args[place], strict=True)
    )
    width = ir.Constant(ir.IntType(64), signature.args[-1].count)
    count = builder.extract_value(rows.shape, 1)
    first = builder.mul(pixel, count)
    with cgutils.for_range(builder, count) as loop:
        at = [builder.add(first, loop.index)]
        row = builder.sext(builder.load(builder.gep(rows.data, at)), ir.IntType(64))
        weight = builder.load(builder.gep(weights.data, at))
        yield builder.gep(y.data, [builder.mul(row, width)]), weight


def _place(builder: Any, pointer: Any, start: int, kind: Any) -> Any:
    place = builder.gep(pointer, [ir.Constant(ir.IntType(64), start)])
    return builder.bitcast(place, kind.as_pointer())


def _load(builder: Any, pointer: Any, start: int, kind: Any) -> Any:
    return builder.load(_place(builder, pointer, start, kind), align=4)


def _store(builder: Any, value: Any, pointer: Any, start: int) -> None:
    builder.store(value, _place(builder, pointer, start, value.type), align=4)


def _full(builder: Any, value: Any, kind: Any) -> Any:
    """Return a vector of one value."""
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(INT, 0))
    zeros = ir.Constant(ir.VectorType(INT, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, empty, zeros)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    product = builder.fmul(a, b, flags=("contract",))
    return builder.fadd(product, c, flags=("contract",))


def _reduce(builder: Any, name: str, x: Any) -> Any:
    """Return the sum (``"fadd"``) or the largest (``"fmax"``) of a vector's values."""
    single = ir.FloatType()
    begin = [ir.Constant(single, 0.0)] if name == "fadd" else []
    kind = ir.FunctionType(single, [*(value.type for value in begin), x.type])
    full = f"llvm.vector.reduce.{name}.v{x.type.count}f32"
    function = cgutils.get_or_insert_function(builder.module, kind, full)
    return builder.call(function, [*begin, x], fastmath=("reassoc", "nnan"))

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from semseg.kernels.upsample import axis, runs, spans, strips

CPU = torch.device("cpu")


def matrix(samples: int, size: int, align_corners: bool, dtype: torch.dtype) -> torch.Tensor:
    """Weights of each sample at each position, from the axis."""
    one = axis(samples, size, align_corners, dtype, CPU)
    weights = torch.zeros(size, samples, dtype=dtype)
    position = torch.arange(size)
    weights.index_put_((position, one.low), 1 - one.weight, accumulate=True)
    return weights.index_put_((position, one.high), one.weight, accumulate=True)


def torch_matrix(samples: int, size: int, align_corners: bool, dtype: torch.dtype) -> torch.Tensor:
    unit = torch.eye(samples, dtype=dtype).expand(1, 5, -1, -1).contiguous()
    wide = F.interpolate(unit, (samples, size), mode="bilinear", align_corners=align_corners)
    return wide[0, 0].T


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 90), st.integers(1, 300), st.booleans(), st.sampled_from(["float32", "float64"])
)
def test_weights_are_those_of_interpolate(
    samples: int, size: int, align_corners: bool, dtype: str
) -> None:
    kind: torch.dtype = getattr(torch, dtype)
    ours = matrix(samples, size, align_corners, kind)
    theirs = torch_matrix(samples, size, align_corners, kind)
    # its kernels round a place in two ways, with and without fused multiply-add
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2 * torch.finfo(kind).eps * samples)


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("samples", [1, 3, 16, 65])
def test_weights_are_exact_at_whole_powers_of_two(samples: int, factor: int) -> None:
    for dtype in (torch.float32, torch.float64):
        ours = matrix(samples, samples * factor, False, dtype)
        assert torch.equal(ours, torch_matrix(samples, samples * factor, False, dtype))


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 80), st.integers(1, 20), st.booleans())
def test_spans_and_runs_cover_each_row_once(
    samples: int, size: int, step: int, align_corners: bool
) -> None:
    rows = axis(samples, size, align_corners, torch.float32, CPU)
    seen = []
    for first, end in spans(rows, step):
        assert 1 <= end - first <= step
        for y, after, low, high in runs(rows, first, end):
            assert rows.low[y:after].eq(low).all()
            assert rows.high[y:after].eq(high).all()
            seen += range(y, after)
    assert seen == list(range(size))


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.booleans(),
    st.integers(1, 2000),
)
def test_strips_are_the_enlarged_logits(
    shape: tuple[int, int], size: tuple[int, int], align_corners: bool, limit: int
) -> None:
    logits = torch.randn(2, 3, *shape, dtype=torch.float64)
    rows = axis(shape[0], size[0], align_corners, torch.float64, CPU)
    columns = axis(shape[1], size[1], align_corners, torch.float64, CPU)
    parts = [values.clone() for _, _, values in strips(logits, rows, columns, limit)]
    wanted = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(torch.cat(parts, 2), wanted, rtol=0, atol=1e-12)


def test_a_cut_axis_is_the_beginning_of_the_whole() -> None:
    whole = axis(5, 23, False, torch.float32, CPU)
    for size in range(1, 24):
        cut = whole.cut(size)
        assert torch.equal(cut.weight, whole.weight[:size])
        rows = [y for a, b in spans(cut, 4) for y in range(a, b)]
        assert rows == list(range(size))
        lows = [(a, low) for a, _, low, _ in runs(cut, 0, size)]
        assert lows == [(a, low) for a, _, low, _ in runs(whole, 0, size)]

"""Where tiles lie, what they weigh, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semseg.core.checks import InputError, SettingError, UnknownNameError
from semseg.predict.tiling import BLENDS, Tiling

STEPS = st.sampled_from([1, 2, 8, 32])
SHARES = st.floats(0, 0.95)


class TestSpans:
    @given(size=st.integers(1, 900), tile=st.integers(1, 8), m=STEPS, overlap=SHARES)
    def test_every_pixel_is_covered_and_no_tile_leaves_the_image(
        self, size: int, tile: int, m: int, overlap: float
    ) -> None:
        tiling = Tiling(tile=tile * m, overlap=overlap, multiple_of=m)
        spans = tiling.spans(size)
        assert spans[0].start == 0
        assert spans[-1].stop == size
        for before, after in pairwise(spans):
            assert before.start < after.start <= before.stop
            assert after.start - before.start <= tiling.step
        assert all(span.start % m == 0 for span in spans)
        assert all(span.length == min(tile * m, size) for span in spans[:-1])
        assert spans[-1].length > tile * m - m or len(spans) == 1

    @given(tile=st.integers(1, 2000), overlap=SHARES)
    def test_tiles_overlap_by_what_is_asked_at_least(self, tile: int, overlap: float) -> None:
        step = Tiling(tile=tile, overlap=overlap).step
        assert step <= max(tile * (1 - overlap) + 1e-6, 1)
        assert step > tile * (1 - overlap) - 1 - 1e-6

    def test_shares_in_decimals_lose_no_pixel(self) -> None:
        assert Tiling(tile=10, overlap=0.9).step == 1
        assert Tiling(tile=1000, overlap=0.3).step == 700

    def test_the_last_one_starts_on_the_network_s_grid(self) -> None:
        spans = Tiling(tile=64, overlap=0, multiple_of=32).spans(150)
        assert [(s.start, s.stop) for s in spans] == [(0, 64), (64, 128), (96, 150)]

    def test_cost(self) -> None:
        tiling = Tiling(tile=64, overlap=0.5)
        assert tiling.count(128, 60) == 3
        assert tiling.cost(128, 60) == 1.5
        assert tiling.cost(20, 30) == 1
        assert tiling.live_rows(128) == 32
        assert tiling.live_rows(20) == 0


class TestWeights:
    @pytest.mark.parametrize("blend", BLENDS)
    @pytest.mark.parametrize(
        ("size", "overlap", "margin"), [(150, 0.5, 0), (64, 0.25, 0), (333, 0.8, 20), (65, 0.3, 9)]
    )
    def test_they_are_positive_and_sum_to_one(
        self, blend: str, size: int, overlap: float, margin: int
    ) -> None:
        tiling = Tiling(tile=64, overlap=overlap, blend=blend, margin=margin)
        total, alone = torch.zeros(size), torch.zeros(size)
        spans, weights = tiling.spans(size), tiling.weights(size)
        for span, weight in zip(spans, weights, strict=True):
            first = margin if span.start else 0
            last = span.length - (margin if span.stop < size else 0)
            assert (weight[first:last] > 0).all()
            assert not weight[:first].any()
            assert not weight[last:].any()
            total[span.start : span.stop] += weight
            alone[span.start : span.stop] += weight > 0
        torch.testing.assert_close(total, torch.ones(size))
        for span, weight in zip(spans, weights, strict=True):
            single = (alone[span.start : span.stop] == 1) & (weight > 0)
            assert (weight[single] == 1).all(), "exactly"

    def test_profiles_by_hand(self) -> None:
        first, second = Tiling(tile=4, overlap=0.5, blend="cosine").weights(6)
        # sin^2 of 22.5 and 67.5 degrees, which sum to 1
        near, far = 0.146447, 0.853553
        torch.testing.assert_close(first, torch.tensor([1, 1, far, near]), atol=1e-6, rtol=0)
        torch.testing.assert_close(second, torch.tensor([near, far, 1, 1]), atol=1e-6, rtol=0)
        gaussian = Tiling(tile=4, overlap=0.5).weights(6)[0]
        inner, outer = 2.718281828**-0.5, 2.718281828**-4.5  # 1 and 3 times half a pixel: sigma
        share = inner / (inner + outer)
        torch.testing.assert_close(gaussian, torch.tensor([1, 1, share, 1 - share]))
        plain = Tiling(tile=4, overlap=0.5, blend="none").weights(6)[0]
        assert plain.tolist() == [1, 1, 0.5, 0.5]


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"tile": 0}, "tile is at least 1, got 0"),
            ({"tile": -4}, "tile is at least 1, got -4"),
            ({"margin": -1}, "margin is at least 0, got -1"),
            ({"overlap": 1}, "overlap is a share in [0, 1), got 1; give 0.25"),
            ({"overlap": -0.1}, "overlap is a share in [0, 1), got -0.1; give 0.25"),
            ({"overlap": float("nan")}, "overlap is a share in [0, 1), got nan; give 0.25"),
            (
                {"tile": 100, "multiple_of": 32},
                "tile 100 is no multiple of 32, to which the network pads; take 96 or 128",
            ),
            (
                {"tile": 20, "multiple_of": 32},
                "tile 20 is no multiple of 32, to which the network pads; take 32",
            ),
            (
                {"tile": 16, "min_size": 33},
                "tile 16 is too small, the network takes at least 33 x 33 pixels; take 33 or more",
            ),
            (
                {"tile": 32, "min_size": 2, "multiple_of": 32},
                "tile 32 is too small, the network takes at least 2 x 2 pixels; take 64 or more",
            ),
            (
                {"tile": 64, "margin": 9},
                "tiles of 64 overlap by 16 pixels, a margin of 9 on both sides needs 18; take a "
                "larger overlap",
            ),
        ],
    )
    def test_numbers(self, settings: dict[str, float], message: str) -> None:
        with pytest.raises(InputError) as error:
            Tiling(**settings)  # type: ignore[arg-type]
        assert str(error.value) == message

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"tile": "1024"}, "tile is a whole number, got '1024'"),
            ({"tile": 512.0}, "tile is a whole number, got 512.0"),
            ({"tile": True}, "tile is a whole number, got True"),
            ({"overlap": "half"}, "overlap is a share of the tile, got 'half'; give 0.25"),
        ],
    )
    def test_kinds(self, settings: dict[str, object], message: str) -> None:
        with pytest.raises(SettingError) as error:
            Tiling(**settings)  # type: ignore[arg-type]
        assert str(error.value) == message

    def test_unknown_blend(self) -> None:
        with pytest.raises(UnknownNameError) as error:
            Tiling(blend="gauss")
        assert str(error.value) == "unknown blend 'gauss'; did you mean 'gaussian'?"

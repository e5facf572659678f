"""Tracing and filling invert each other; the convention, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from semseg.data.formats.fill import area, fill
from semseg.data.formats.outline import keyhole, trace


def components(mask: np.ndarray) -> int:
    """Count the parts of a mask that hang together by edges, by flooding."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    count = 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left:
                    left.remove(near)
                    front.append(near)
    return count


def test_whole_numbers_are_corners_of_pixels() -> None:
    inside = fill([np.array([[1, 1], [4, 1], [4, 3], [1, 3]])], (4, 6))
    expected = np.zeros((4, 6), bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(inside, expected)


def test_a_pixel_counts_by_its_centre() -> None:
    triangle = np.array([[0, 0], [4, 0], [0, 4]])
    np.testing.assert_array_equal(
        fill([triangle], (4, 4)),  # the centres on the diagonal are on its right edge: outside
        [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
    )
    assert not fill([np.array([[0.6, 0.6], [1.4, 0.6], [1.4, 1.4], [0.6, 1.4]])], (2, 2)).any()
    wide = np.array([[0.4, 0], [2.6, 0], [2.6, 1], [0.4, 1]])
    np.testing.assert_array_equal(fill([wide], (1, 4)), [[1, 1, 1, 0]])
    narrow = np.array([[0.6, 0], [2.4, 0], [2.4, 1], [0.6, 1]])
    np.testing.assert_array_equal(fill([narrow], (1, 4)), [[0, 1, 0, 0]])


def test_polygons_that_share_an_edge_through_centres_tile() -> None:
    left = np.array([[0, 0], [1.5, 0], [2.5, 3], [0, 3]])
    right = np.array([[1.5, 0], [4, 0], [4, 3], [2.5, 3]])
    covered = fill([left], (3, 4)).astype(int) + fill([right], (3, 4))
    np.testing.assert_array_equal(covered, np.ones((3, 4)))


def test_what_lies_outside_is_cut() -> None:
    square = np.array([[-3, -2], [2, -2], [2, 9], [-3, 9]])
    np.testing.assert_array_equal(fill([square], (2, 3)), [[1, 1, 0], [1, 1, 0]])
    assert not fill([square + np.array([10, 0])], (2, 3)).any()
    assert not fill([square - np.array([10, 0])], (2, 3)).any()


def test_self_crossing_and_repeated_rings_follow_the_even_odd_rule() -> None:
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]])
    assert not fill([square, square], (4, 4)).any()
    twice = np.concatenate([square, square])
    assert not fill([twice], (4, 4)).any()


def test_area_is_positive_clockwise() -> None:
    square = np.array([[0, 0], [3, 0], [3, 2], [0, 2]])
    assert area(square) == 6
    assert area(square[::-1]) == -6


def test_outline_of_a_ring() -> None:
    mask = np.ones((3, 4), bool)
    mask[1, 1:3] = False
    (part,) = trace(mask)
    assert part.outer.tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]
    assert [hole.tolist() for hole in part.holes] == [[[1, 1], [1, 2], [3, 2], [3, 1]]]


def test_pixels_that_touch_in_a_corner_are_two_parts_and_their_gap_is_one_hole() -> None:
    assert len(trace(np.eye(2, dtype=bool))) == 2
    mask = np.ones((4, 4), bool)
    mask[1, 1] = mask[2, 2] = False
    (part,) = trace(mask)
    assert len(part.holes) == 1
    assert trace(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize("seed", range(4))
def test_tracing_is_inverted_by_filling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(150):
        size = tuple(rng.integers(1, 13, 2).tolist())
        mask = rng.random(size) < rng.random()
        parts = trace(mask)
        assert len(parts) == components(mask)
        total = np.zeros(size, int)
        for part in parts:
            assert area(part.outer) > 0
            assert all(area(hole) < 0 for hole in part.holes)
            inside = fill(part.rings, size)
            assert sum(map(area, part.rings)) == inside.sum()
            np.testing.assert_array_equal(fill([keyhole(part.rings)], size), inside)
            total += inside
        np.testing.assert_array_equal(total, mask)
        outer = [part.outer for part in parts]
        assert [*map(area, outer)] == sorted(map(area, outer))[::-1]

"""Nearest points against a comparison of all pairs."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.neighbours import nearest


def room(count: int, seed: int = 0) -> Tensor:
    """Points inside a room and, more of them, on its walls."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator) * torch.tensor([8.0, 6.0, 3.0])
    side = torch.randint(0, 8, (count,), generator=generator)
    for axis, length in enumerate((8.0, 6.0, 3.0)):
        points[side == 2 * axis, axis] = 0
        points[side == 2 * axis + 1, axis] = length
    return points


def brute(k: int, points: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    x, y, z = (queries[:, None] - points).unbind(-1)
    squared, index = (x * x + y * y + z * z).sort(stable=True, dim=-1)
    return index[:, :k], squared[:, :k]


CLOUDS = {
    "room": room(3000),
    "few": room(40),
    "double": room(1500).double(),
    "line": torch.arange(900.0)[:, None] * torch.tensor([1.0, 0, 0]),
    # many equally near points: the order of positions decides
    "grid": torch.cartesian_prod(*[torch.arange(11.0)] * 3),
    "doubled": room(700).repeat(2, 1),
    "one place": torch.ones(600, 3),
    "far away": torch.cat([room(900), room(300) + 1e4, room(1) - 1e4]),
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("k", [1, 3, 16])
def test_neighbours_are_those_of_all_pairs(cloud: str, k: int) -> None:
    points = CLOUDS[cloud]
    index, squared = nearest(k, points, (len(points),))
    want = brute(k, points, points)
    assert torch.equal(squared, want[1])
    assert torch.equal(index, want[0])


@pytest.mark.parametrize("k", [1, 8])
def test_queries_may_be_other_points(k: int) -> None:
    points, queries = room(2000), room(700, seed=1) * 1.5
    index, squared = nearest(k, points, (2000,), queries, (700,))
    want = brute(k, points, queries)
    assert torch.equal(squared, want[1])
    assert torch.equal(index, want[0])


def test_clouds_of_a_batch_do_not_meet() -> None:
    points, queries = room(1400), room(900, seed=1)
    index, squared = nearest(5, points, (600, 1400), queries, (200, 900))
    want = [brute(5, points[:600], queries[:200]), brute(5, points[600:], queries[200:])]
    assert torch.equal(squared, torch.cat([want[0][1], want[1][1]]))
    assert torch.equal(index, torch.cat([want[0][0], 600 + want[1][0]]))


def test_a_cloud_with_fewer_points_gives_its_first() -> None:
    points = torch.tensor([[0.0, 0, 0], [5, 0, 0], [6, 0, 0]])
    index, squared = nearest(3, points, (1, 3))
    assert index.tolist() == [[0, 0, 0], [1, 2, 1], [2, 1, 1]]
    assert squared.tolist() == [[0, 1e10, 1e10], [0, 1, 1e10], [0, 1, 1e10]]


def test_it_says_what_it_takes() -> None:
    points = torch.zeros(4, 3)
    wanted = "nearest takes float coordinates of shape (N, 3), got torch.float32 of shape (4, 2)"
    with pytest.raises(InputError, match=re.escape(wanted)):
        nearest(1, points[:, :2], (4,))
    wanted = (
        "nearest takes the end of each cloud, rising up to 4, the number of points; got [2, 2, 4]"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        nearest(1, points, (2, 2, 4))
    for offsets in ((), (3,), (5,)):
        with pytest.raises(InputError, match="the end of each cloud"):
            nearest(1, points, offsets)
    wanted = "nearest needs k >= 1 and as many clouds of queries as of points, got k = 0, 1 and 1"
    with pytest.raises(InputError, match=re.escape(wanted)):
        nearest(0, points, (4,))
    with pytest.raises(InputError, match="as many clouds of queries as of points"):
        nearest(1, points, (4,), points, (2, 4))


def test_gradients_are_not_asked_for() -> None:
    points = room(50).requires_grad_()
    assert not nearest(3, points, (50,))[1].requires_grad

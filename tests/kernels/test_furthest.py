"""Furthest point sampling against its definition."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.furthest import furthest
from tests.kernels.test_neighbours import room


def brute(points: Tensor, count: int, start: int = 0) -> list[int]:
    chosen = [start]
    for _ in range(count - 1):
        x, y, z = (points[:, None] - points[chosen]).unbind(-1)
        chosen.append(int((x * x + y * y + z * z).amin(1).argmax()))
    return chosen


@pytest.mark.parametrize(
    "points",
    [room(300), room(200).double(), torch.cartesian_prod(*[torch.arange(5.0)] * 3)],
    ids=["room", "double", "grid"],
)
def test_points_are_those_of_the_definition(points: Tensor) -> None:
    count = len(points) // 4
    assert furthest(points, (len(points),), (count,)).tolist() == brute(points, count)


@pytest.mark.parametrize("start", [0, 5])
def test_large_clouds_are_searched_by_leaves(monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    monkeypatch.setattr("semseg.kernels.furthest._LARGE", 300)
    monkeypatch.setattr("semseg.kernels.furthest._LEAF", 20)
    grid = torch.cartesian_prod(*[torch.arange(7.0)] * 3)  # many equally far points
    for points in (room(501), room(400).double(), grid, torch.ones(310, 3)):
        count = len(points) // 2
        got = furthest(points, (len(points),), (count,), (start,))
        assert got.tolist() == brute(points, count, start)
    got = furthest(room(500), (350, 500), (9, 5), (start, 350)).tolist()
    want = brute(room(500)[:350], 9, start), brute(room(500)[350:], 5)
    assert got == [*want[0], *(350 + i for i in want[1])]


def test_each_cloud_for_itself_and_from_its_start() -> None:
    points = room(250)
    want = brute(points[:100], 30), brute(points[100:], 20)
    got = furthest(points, (100, 250), (30, 20)).tolist()
    assert got == [*want[0], *(100 + i for i in want[1])]
    want = brute(points[:100], 3, start=7), brute(points[100:], 20, start=149)
    got = furthest(points, (100, 250), (3, 20), (7, 249)).tolist()
    assert got == [*want[0], *(100 + i for i in want[1])]


def test_all_points_can_be_chosen_once_each() -> None:
    points = room(60)
    assert sorted(furthest(points, (60,), (60,)).tolist()) == list(range(60))


def test_a_graph_holds_a_loop_that_chooses_the_same() -> None:
    class Choose(torch.nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return furthest(points, (20, 50), (5, 9))

    points = room(50)
    exported = torch.export.export(Choose(), (points,))
    assert torch.equal(exported.module()(points), Choose()(points))
    assert len(exported.graph.nodes) < 100


def test_it_says_what_it_takes() -> None:
    wanted = (
        "furthest takes for each cloud a number from 1 to that of its points, [2, 2]; got [1, 3]"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        furthest(torch.zeros(4, 3), (2, 4), (1, 3))
    for counts in ((0, 1), (1,)):
        with pytest.raises(InputError, match="for each cloud a number from 1"):
            furthest(torch.zeros(4, 3), (2, 4), counts)
    with pytest.raises(InputError, match="furthest takes float coordinates"):
        furthest(torch.zeros(4, 3, dtype=torch.int64), (4,), (1,))

"""Scales of points, against loops."""

from __future__ import annotations

import torch
from torch import nn

from semseg.nn.points import PointNorm, Scale, cloud_means, interpolate, relative
from tests.kernels.test_neighbours import brute, room


def test_interpolation_weights_by_inverse_distance() -> None:
    coarse, fine = Scale(room(90), (40, 90)), Scale(room(300, seed=1), (100, 300))
    features = torch.randn(90, 4)
    got = interpolate(features, coarse, fine)
    clouds = ((slice(0, 40), range(100)), (slice(40, 90), (100, 299)))
    for own, rows in clouds:
        points, first = coarse.points[own], own.start
        for row in rows:
            index, squared = brute(3, points, fine.points[row : row + 1])
            weight = 1 / (squared[0].sqrt() + 1e-8)
            want = (features[first + index[0]] * weight[:, None]).sum(0) / weight.sum()
            torch.testing.assert_close(got[row], want)


def test_a_point_of_both_scales_keeps_its_features() -> None:
    coarse = Scale(room(50), (50,))
    features = torch.randn(50, 2)
    torch.testing.assert_close(interpolate(features, coarse, coarse), features)


def test_fewer_points_than_asked_for_weigh_alone() -> None:
    coarse, fine = Scale(torch.zeros(1, 3), (1,)), Scale(torch.ones(2, 3), (2,))
    got = interpolate(torch.tensor([[3.0]]), coarse, fine)
    torch.testing.assert_close(got, torch.full((2, 1), 3.0))


def test_a_coarser_scale_holds_every_fourth_point_of_each_cloud() -> None:
    scale = Scale(room(103), (30, 103))
    coarse = scale.coarser(4)
    assert coarse.offsets == (7, 25)
    assert coarse.sizes == [7, 18]
    assert torch.equal(coarse.points[[0, 7]], scale.points[[0, 30]])
    index = coarse.neighbours(2, scale)
    assert index[:30].max() < 7 <= index[30:].min()
    seen = relative(coarse.points, scale.points, index)
    assert torch.equal(seen[5, 1], coarse.points[index[5, 1]] - scale.points[5])


def test_norm_and_means() -> None:
    x = torch.randn(6, 5, 3)
    norm, plain = PointNorm(3), nn.BatchNorm1d(3)
    torch.testing.assert_close(norm(x), plain(x.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(norm.running_var, plain.running_var)
    x = torch.randn(5, 2)
    torch.testing.assert_close(cloud_means(x, [2, 3]), torch.stack([x[:2].mean(0), x[2:].mean(0)]))

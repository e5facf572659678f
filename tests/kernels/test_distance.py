"""Distances against all pairs of pixels."""

from __future__ import annotations

import math

import pytest
import torch

from semseg.kernels.distance import border_distance, signed_distance, squared_distance


def brute(mask: torch.Tensor) -> torch.Tensor:
    """Squared distance of each pixel of one image to the nearest true one, pair by pair."""
    y, x = torch.meshgrid(*(torch.arange(n) for n in mask.shape), indexing="ij")
    pixels = torch.stack([y.flatten(), x.flatten()], 1)
    inside = pixels[mask.flatten()]
    if not len(inside):
        return torch.full(mask.shape, math.inf)
    between = pixels[:, None] - inside[None]
    return (between**2).sum(-1).amin(1).view(mask.shape).float()


@pytest.mark.parametrize("share", [0.0, 0.003, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (23, 1), (19, 31)])
def test_squared_distance_is_exact(share: float, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(int(1000 * share))
    mask = torch.rand(3, 2, *size, generator=generator) < share
    mask[0, 0] = False  # an empty image beside full ones
    expected = torch.stack([brute(image) for image in mask.flatten(0, 1)]).view(mask.shape)
    assert torch.equal(squared_distance(mask), expected)


@pytest.mark.parametrize("reach", [1, 2.5, 7])
def test_a_reach_leaves_only_what_is_farther_out(reach: float) -> None:
    mask = torch.rand(2, 25, 30, generator=torch.Generator().manual_seed(1)) < 0.01
    whole = squared_distance(mask)
    expected = torch.where(whole <= reach**2, whole, math.inf)
    assert torch.equal(squared_distance(mask, reach), expected)


def test_signed_distance_by_hand() -> None:
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[1:4, 1:4] = True
    root = math.sqrt(2)
    rows = [
        [root, 1, 1, 1, root],
        [1, 0, 0, 0, 1],
        [1, 0, -1, 0, 1],
        [1, 0, 0, 0, 1],
        [root, 1, 1, 1, root],
    ]
    torch.testing.assert_close(signed_distance(mask), torch.tensor(rows))


def test_border_distance_is_that_to_the_other_kind() -> None:
    mask = torch.rand(12, 9, generator=torch.Generator().manual_seed(2)) < 0.4
    expected = torch.where(mask, brute(~mask), brute(mask)).sqrt()
    torch.testing.assert_close(border_distance(mask), expected)


@pytest.mark.parametrize("full", [False, True])
def test_no_border_means_no_distance(full: bool) -> None:
    mask = torch.full((2, 4, 5), full)
    assert not signed_distance(mask).any()
    assert not border_distance(mask).any()
    assert squared_distance(mask[:0]).shape == (0, 4, 5)

"""Packed clouds."""

from __future__ import annotations

import pytest
import torch

from semseg.core.checks import InputError
from semseg.core.clouds import Clouds, check_clouds


def clouds() -> Clouds:
    return Clouds(torch.rand(9, 3), torch.rand(9, 2), (4, 9))


def test_packing_and_taking_apart() -> None:
    batch = clouds()
    assert batch.sizes == [4, 5]
    first, second = batch.each()
    assert first.offsets == (4,)
    assert torch.equal(second.features, batch.features[4:])
    again = Clouds.pack([first, second, batch])
    assert again.offsets == (4, 9, 13, 18)
    assert torch.equal(again.coordinates[9:], batch.coordinates)


def test_copies() -> None:
    batch = clouds()
    assert batch.double().dtype == torch.float64 == batch.double().features.dtype
    assert batch.to("meta").features.is_meta
    copy = batch.clone()
    copy.coordinates.zero_()
    assert batch.coordinates.any()
    assert Clouds.of(torch.rand(3, 3)).features.tolist() == [[1], [1], [1]]


@pytest.mark.parametrize("offsets", [(), (8,), (4, 10), (4, 4, 9), (5, 4, 9)])
def test_offsets_that_do_not_fit(offsets: tuple[int, ...]) -> None:
    points, features, _ = clouds()
    with pytest.raises(InputError, match="Net takes "):
        check_clouds("Net", Clouds(points, features, offsets), channels=2, least=1)
    check_clouds("Net", clouds(), channels=2, least=4)

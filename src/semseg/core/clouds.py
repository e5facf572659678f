"""Point clouds as networks take them: all points of a batch, one cloud after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from semseg.core.checks import InputError, SettingError


class Clouds(NamedTuple):
    """A batch of point clouds, packed: clouds need not have the same number of points.

    Attributes:
        coordinates: ``(N, 3)`` in metres.
        features: ``(N, C)`` of the same dtype, e.g. normalised colours.
        offsets: end of each cloud, the last is N. Plain numbers: they decide the shapes of what
            follows, which no device should be asked for.

    Example:
        >>> batch = Clouds.pack([Clouds.of(torch.rand(5, 3)), Clouds.of(torch.rand(2, 3))])
        >>> batch.offsets, batch.sizes
        ((5, 7), [5, 2])
    """

    coordinates: Tensor
    features: Tensor
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, coordinates: Tensor, features: Tensor | None = None) -> Clouds:
        """Return one cloud; without features every point has a single 1."""
        if features is None:
            features = torch.ones_like(coordinates[:, :1])
        return cls(coordinates, features, (len(coordinates),))

    @classmethod
    def pack(cls, clouds: Sequence[Clouds]) -> Clouds:
        """Return the clouds of several batches as one batch."""
        ends: list[int] = []
        for cloud in clouds:
            before = ends[-1] if ends else 0
            ends += [before + end for end in cloud.offsets]
        coordinates = torch.cat([cloud.coordinates for cloud in clouds])
        return cls(coordinates, torch.cat([cloud.features for cloud in clouds]), tuple(ends))

    def each(self) -> Iterator[Clouds]:
        """Return every cloud as a batch of its own."""
        for start, end in pairwise((0, *self.offsets)):
            yield Clouds.of(self.coordinates[start:end], self.features[start:end])

    @property
    def sizes(self) -> list[int]:
        """Number of points of each cloud."""
        return [end - start for start, end in pairwise((0, *self.offsets))]

    @property
    def dtype(self) -> torch.dtype:
        """Type of coordinates and features."""
        return self.coordinates.dtype

    def to(self, where: torch.device | torch.dtype | str, non_blocking: bool = False) -> Clouds:
        """Return the batch on a device, or of another dtype."""
        coordinates, features = (
            # two calls for mypy: one parameter of to() is either a device or a dtype
            part.to(dtype=where, non_blocking=non_blocking)
            if isinstance(where, torch.dtype)
            else part.to(device=where, non_blocking=non_blocking)
            for part in (self.coordinates, self.features)
        )
        return Clouds(coordinates, features, self.offsets)

    def double(self) -> Clouds:
        """Return the batch in float64."""
        return self.to(torch.float64)

    def clone(self) -> Clouds:
        """Return a copy."""
        return Clouds(self.coordinates.clone(), self.features.clone(), self.offsets)

    def pin_memory(self) -> Clouds:
        """Return the batch in page-locked memory."""
        return Clouds(self.coordinates.pin_memory(), self.features.pin_memory(), self.offsets)


def check_clouds(owner: str, clouds: Clouds, channels: int, least: int) -> None:
    """Refuse what is not a batch of clouds with ``channels`` features and enough points.

    Raises:
        SettingError: another kind of thing, or integers.
        InputError: shapes or offsets that do not fit, or a cloud with too few points.
    """
    if not isinstance(clouds, Clouds):
        raise SettingError(
            f"{owner} takes point clouds, got {type(clouds).__name__}; "
            "give Clouds(coordinates, features, offsets)"
        )
    points, features, offsets = clouds
    if points.dim() != 2 or points.shape[1] != 3 or features.dim() != 2:
        raise InputError(
            f"{owner} takes coordinates (N, 3) and features (N, {channels}), got "
            f"{tuple(points.shape)} and {tuple(features.shape)}"
        )
    if not points.is_floating_point() or features.dtype != points.dtype:
        raise SettingError(
            f"{owner} takes normalised float points, got {points.dtype} coordinates and "
            f"{features.dtype} features; apply the network's preprocessing first"
        )
    if features.shape[1] != channels:
        raise InputError(
            f"{owner} takes {channels} channels, got {features.shape[1]}; "
            f"create it with in_channels={features.shape[1]}"
        )
    rising = all(start < end for start, end in pairwise((0, *offsets)))
    if len(features) != len(points) or not rising or (0, *offsets)[-1] != len(points):
        raise InputError(
            f"{owner} takes as many features as points and rising offsets up to their number, got "
            f"{len(features)}, {len(points)} and {list(offsets)}"
        )
    if (fewest := min(clouds.sizes)) < least:
        raise InputError(
            f"{owner} takes clouds of at least {least} points, got one of {fewest}; "
            "give larger ones, or sample them on a finer grid"
        )

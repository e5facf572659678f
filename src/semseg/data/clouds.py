"""Point clouds as samples of a dataset, and the grid on which they are thinned out.

A cloud is an image of one row: ``image`` is ``(3 + C, 1, N)`` float32, coordinates in metres and
then features, colours from 0 to 255; ``mask`` is ``(1, N)``. So folds, caches, class counts and
scores of images are those of clouds too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors

from semseg.core.checks import InputError
from semseg.core.clouds import Clouds
from semseg.core.preprocess import Preprocessing
from semseg.data.base import Sample, SegmentationDataset


class CloudDataset(SegmentationDataset):
    """Rooms and the like, each a cloud of labelled points.

    Attributes:
        voxel: edge in metres of the cells of which a network sees one point each; ``None`` for
            every point.
    """

    holds = "clouds"


def cloud_sample(
    points: NDArray[np.floating], colors: NDArray[np.generic], ids: NDArray[np.uint8], path: str
) -> Sample:
    """Return a cloud as a sample.

    Args:
        points: ``(N, 3)`` coordinates.
        colors: ``(N, C)``, 0 to 255.
        ids: ``(N,)`` train ids.
        path: its file, or a name that says how to make it again.
    """
    rows = np.concatenate([points.T, colors.T], dtype=np.float32, casting="unsafe")
    return Sample(
        image=tv_tensors.Image(torch.from_numpy(rows)[:, None]),
        mask=tv_tensors.Mask(torch.from_numpy(ids)[None]),
        path=path,
        size=(1, len(ids)),
    )


def pack(
    samples: Sequence[Sample], preprocessing: Preprocessing, *, thin: bool
) -> tuple[Clouds, Tensor]:
    """Return samples as a batch, and the train ids of all its points as ``(1, 1, N)``.

    Each cloud begins at 0 in all coordinates.

    Args:
        samples: clouds.
        preprocessing: normalisation of features; gives the grid.
        thin: whether to keep one point of each cell of the grid, the first in the cloud's order.
    """
    clouds, masks = [], []
    for sample in samples:
        rows = sample.image.as_subclass(Tensor)[:, 0]
        ids = sample.mask.as_subclass(Tensor)[0].long()
        if thin and preprocessing.voxel is not None:
            kept = one_of_each(cells_of(rows[:3].T, preprocessing.voxel))
            rows, ids = rows[:, kept], ids[kept]
        clouds.append(to_cloud(rows[:3].T, rows[3:].T, preprocessing))
        masks.append(ids)
    return Clouds.pack(clouds), torch.cat(masks)[None, None]


def to_cloud(points: Tensor, features: Tensor, preprocessing: Preprocessing) -> Clouds:
    """Return ``(N, 3)`` coordinates and ``(N, C)`` features, 0 to 255, as a network takes them."""
    features = preprocessing(features.T[:, None].float() / 255)[:, 0].T
    return Clouds.of((points - points.amin(0)).float().contiguous(), features.contiguous())


def cells_of(points: Tensor, voxel: float) -> Tensor:
    """Return the number of the grid cell of each of ``(N, 3)`` points; it begins at the least.

    Raises:
        InputError: more cells than can be numbered: the voxel is far too small for the cloud.

    Example:
        >>> points = torch.tensor([[5.0, 0, 0], [5.3, 0, 0], [5.1, 0, 0], [5.0, 0, 0.9]])
        >>> cells_of(points, 0.25).tolist()
        [0, 2, 0, 1]
    """
    place = ((points - points.amin(0)).double() / voxel).floor_()
    if place.max() >= 2**20:
        raise InputError(
            f"a cloud of {place.max() * voxel:.4g} m has too many cells of {voxel} m; "
            "give a larger voxel, or coordinates in metres"
        )
    key = place.long() @ torch.tensor([2**40, 2**20, 1])
    _, cells = key.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return cells  # type: ignore[no-any-return]


def one_of_each(cells: Tensor, order: Tensor | None = None) -> Tensor:
    """Return the position of one point of each cell, by number of the cell.

    Args:
        cells: ``(N,)`` from :func:`cells_of`.
        order: permutation of the points; of each cell the one that comes first in it is taken.
            Without it the first.

    Example:
        >>> one_of_each(torch.tensor([0, 2, 0, 1])).tolist()
        [0, 3, 1]
        >>> one_of_each(torch.tensor([0, 2, 0, 1]), torch.tensor([2, 1, 0, 3])).tolist()
        [2, 3, 1]
    """
    given = cells if order is None else cells[order]
    by_cell = given.argsort(stable=True)
    ordered = given[by_cell]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return by_cell[first] if order is None else order[by_cell[first]]

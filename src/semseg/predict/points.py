"""The class of each point of clouds, in validation and for clouds as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from semseg.core.checkpoint import read_info
from semseg.core.checks import InputError
from semseg.core.clouds import Clouds
from semseg.core.labels import LabelMap
from semseg.data.clouds import cells_of, to_cloud
from semseg.models import load
from semseg.models.clouds import CloudModel, as_image
from semseg.predict.decide import Decision


def decide_points(model: nn.Module, clouds: Clouds, confidence: bool = False) -> Decision:
    """Run a network and take the largest logit of each point, or for K = 1 whether it is above 0.

    Args:
        model: a :class:`CloudModel`.
        clouds: normalised.
        confidence: whether to compute it too.

    Returns:
        A decision about one image of one row, ``(1, 1, N)``.
    """
    logits = as_image(model(clouds))
    ids = _decided(logits)
    if not confidence:
        return Decision(ids, None, logits)
    shares = logits.float().softmax(1)
    if logits.shape[1] == 1:
        of_one = logits.float().sigmoid()
        shares = torch.cat([1 - of_one, of_one], 1)
    return Decision(ids, shares.gather(1, ids[:, None])[:, 0], logits)


def _decided(logits: Tensor) -> Tensor:
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


@dataclass(frozen=True, slots=True)
class PointPrediction:
    """What a network sees in one cloud.

    Args:
        ids: ``(N,)`` train ids.
        confidence: ``(N,)`` float32, the network's probability of the class in ``ids``.
        labels: what the train ids mean.
    """

    ids: NDArray[Any]
    confidence: NDArray[np.float32]
    labels: LabelMap


class PointPredictor:
    """A trained network that takes clouds of any density and size, and labels every point.

    The network sees one point of each cell of the grid it was trained on, as in validation. The
    others get the class of their cell, or are seen themselves in further rounds, in which it is
    their turn; the authors' test has as many rounds as the fullest cell has points. Of a cloud
    with more points than ``most`` it sees parts, each the nearest points to one that was in the
    fewest parts so far, until all were in one; scores of a point are added up.

    Args:
        model: a weights file or a run folder (its best weights) of a network for clouds.
        device: e.g. ``"cpu"``; ``None`` takes a GPU if there is one.
        rounds: how often the network runs over the cloud at most, each time on other points.
        most: points that the network sees at once, at most.

    Raises:
        FileError: the weights are missing or damaged.
        InputError: a network for images, weights without labels, or rounds and points below 1.
    """

    def __init__(
        self,
        model: str | Path,
        device: str | torch.device | None = None,
        *,
        rounds: int = 1,
        most: int = 200_000,
    ) -> None:
        path = Path(model)
        info = read_info(path / "best.safetensors" if path.is_dir() else path)
        network = load(path)
        if not isinstance(network, CloudModel) or info.labels is None:
            raise InputError(f"{path} holds {info.model}, which labels images and not points")
        if rounds < 1 or most < network.min_points:
            raise InputError(
                f"rounds must be at least 1 and most at least {network.min_points}, got {rounds} "
                f"and {most}"
            )
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = network.eval().to(self.device)
        self.labels = info.labels
        self.preprocessing = info.preprocessing
        self.rounds, self.most = rounds, most

    @torch.inference_mode()
    def __call__(self, points: NDArray[Any], features: NDArray[Any]) -> PointPrediction:
        """Label every point.

        Args:
            points: ``(N, 3)`` coordinates in metres.
            features: ``(N, C)``, colours from 0 to 255.

        Raises:
            InputError: shapes that do not fit, or too few points on the grid.
        """
        places = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
        wanted = self.model.config.in_channels
        if places.dim() != 2 or places.shape[1] != 3 or features.shape != (len(places), wanted):
            raise InputError(
                f"wanted coordinates (N, 3) and features (N, {wanted}), got {points.shape} and "
                f"{features.shape}"
            )
        seen = to_cloud(places, torch.from_numpy(np.float32(features)), self.preprocessing)
        cells = torch.arange(len(places))
        if self.preprocessing.voxel is not None:
            cells = cells_of(places.float(), self.preprocessing.voxel)
        classes = self.model.config.num_classes
        of_points = torch.zeros(len(places), classes)
        of_cells = torch.zeros(int(cells.max()) + 1, classes)
        for kept in _turns(cells, self.rounds):
            scores = self._scores(seen, kept)
            of_points[kept] += scores
            of_cells[cells[kept]] += scores
        was_seen = of_points.any(1, keepdim=True)
        return self._prediction(torch.where(was_seen, of_points, of_cells[cells]))

    def _scores(self, cloud: Clouds, kept: Tensor) -> Tensor:
        """Return the added-up logits of some of the points."""
        points, features = cloud.coordinates[kept], cloud.features[kept]
        scores = torch.zeros(len(kept), self.model.config.num_classes)
        for part in _parts(points, self.most):
            own = points[part]
            clouds = Clouds.of(own - own.amin(0), features[part]).to(self.device)
            scores[part] += self.model(clouds).float().cpu()
        return scores

    def _prediction(self, scores: Tensor) -> PointPrediction:
        ids = _decided(as_image(scores))[0, 0]
        both = torch.cat([-scores, scores], 1) / 2 if scores.shape[1] == 1 else scores
        sure = both.softmax(1).gather(1, ids[:, None])[:, 0]
        return PointPrediction(ids.numpy(), sure.numpy(), self.labels)


def _turns(cells: Tensor, rounds: int) -> Iterator[Tensor]:
    """Yield positions of one point of each cell: the first, then the second, and round again."""
    order = cells.argsort(stable=True)
    counts = cells.bincount()
    begins = counts.cumsum(0) - counts
    for turn in range(min(rounds, int(counts.max()))):
        yield order[begins + turn % counts]


def _parts(points: Tensor, most: int) -> Iterator[Tensor]:
    """Yield positions of parts of a cloud, until every point was in one.

    As in the authors' test: the middle of a part is the point that parts covered least, where the
    covering falls from the middle of a part to its border.
    """
    if len(points) <= most:
        yield torch.arange(len(points))
        return
    covered, missing = torch.zeros(len(points)), torch.ones(len(points), dtype=torch.bool)
    while missing.any():
        away = (points - points[covered.argmin()]).square().sum(1)
        near, part = away.topk(most, largest=False)
        covered[part] += (1 - near / near[-1].clamp(min=1e-12)).square() + 1e-6
        missing[part] = False
        yield part

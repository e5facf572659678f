"""A dense CRF tuned on one part of a split and judged on the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checkpoint import read_info
from semseg.core.checks import InputError
from semseg.data import SegmentationDataset
from semseg.metrics import ConfusionMatrix
from semseg.models import load
from semseg.postprocess import DenseCRF
from semseg.predict.refine import refined, two_classes
from semseg.train.config import load_recipe
from semseg.train.splits import open_split

Settings = dict[str, float]

START: Settings = {
    "sxy": 40.0,
    "srgb": 8.0,
    "compat": 4.0,
    "smooth_sxy": 3.0,
    "smooth_compat": 3.0,
}
"""Where the search begins, all settings of :class:`DenseCRF` that it tunes."""

VALUES = {
    "compat": (1.0, 2.0, 4.0, 7.0, 10.0),
    "srgb": (3.0, 5.0, 8.0, 13.0, 20.0),
    "sxy": (10.0, 20.0, 40.0, 80.0),
    "smooth_compat": (0.0, 1.0, 3.0),
    "smooth_sxy": (1.0, 3.0),
}
"""What is tried for each in turn, the others as they are."""

ROUNDS, DRAWINGS = 2, 1000


@dataclass(frozen=True, slots=True)
class CRFSearch:
    """What a search found; mIoU counts classes in truth or prediction.

    Args:
        settings: of the CRF that is best on the first part.
        tuned_on: number of images of that part.
        tuned_before: its mIoU without CRF.
        tuned_after: its mIoU with it.
        judged_on: number of the other images.
        before: their mIoU without CRF.
        after: their mIoU with it.
        low: bound of the gain in 95 % of the drawings of these images.
        high: the other bound.
        drawings: how often they were drawn anew.
        seed: of the parts and the drawings.
    """

    settings: Settings
    tuned_on: int
    tuned_before: float
    tuned_after: float
    judged_on: int
    before: float
    after: float
    low: float
    high: float
    drawings: int
    seed: int

    @property
    def gain(self) -> float:
        """What the CRF adds to the mIoU of images that it was not tuned on."""
        return self.after - self.before

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "gain": self.gain}


def search_crf(
    run: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    split: str = "val",
    images: int = 30,
    iterations: int = 10,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> CRFSearch:
    """Tune widths and weights of a CRF for a run's best weights.

    The logits of the first part are kept: 4 bytes per class and pixel of its images.

    Args:
        run: the run folder.
        overrides: recipe values by dotted path.
        split: which images.
        images: tune on so many, drawn at random, but on no more than half.
        iterations: rounds of mean field.
        device: ``"auto"`` takes a GPU if there is one.
        seed: of the choice, and of the drawings for the interval.
        progress: called with the number of settings tried.

    Raises:
        FileError: the folder lacks its config or its weights.
        InputError: fewer than two images, or none to tune on.
    """
    run = Path(run)
    dataset = open_split(load_recipe(run, overrides), split)
    if len(dataset) < 2 or images < 1:
        raise InputError(
            f"crf-search needs an image to tune on and another to judge by, got {len(dataset)} "
            f"and images={images}"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    random = np.random.default_rng(seed)
    order = random.permutation(len(dataset)).tolist()
    first = min(images, len(dataset) // 2)
    network = _Network(run, dataset, torch.device(device))
    kept = [network(i) for i in order[:first]]
    best, before, after = _tune(kept, iterations, network.counts, progress)
    crf = _crf(best, iterations)
    rest = [network.counts(network(i), (None, crf)) for i in order[first:]]
    counts = np.stack(rest, 1)  # (2, images, 3, K)
    drawn = random.integers(len(rest), size=(DRAWINGS, len(rest)))
    gains = [float(np.diff(_mean_iou(counts[:, rows].sum(1)))[0]) for rows in drawn]
    plain, refined_score = _mean_iou(counts.sum(1)).tolist()
    low, high = np.quantile(gains, [0.025, 0.975]).tolist()
    return CRFSearch(
        settings={**best, "iterations": iterations},
        tuned_on=first, tuned_before=before, tuned_after=after,
        judged_on=len(rest), before=plain, after=refined_score,
        low=low, high=high, drawings=DRAWINGS, seed=seed,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Seen:
    """An image as the CRF takes it."""

    pixels: Tensor
    mask: Tensor
    logits: Tensor


class _Network:
    """The run's network over the images of a split."""

    def __init__(self, run: Path, dataset: SegmentationDataset, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self.preprocessing = read_info(run / "best.safetensors").preprocessing
        self.model = load(run).eval().to(device, torch.float32)

    @torch.inference_mode()
    def __call__(self, index: int) -> _Seen:
        """Return an image with its full-size logits."""
        sample = self.dataset[index]
        images = self.preprocessing(sample.image[None]).to(self.device)
        logits = two_classes(self.model(images))
        return _Seen(sample.image, sample.mask.to(self.device), logits)

    @torch.inference_mode()
    def counts(self, seen: _Seen, crfs: tuple[DenseCRF | None, ...]) -> NDArray[np.int64]:
        """Return right, true and predicted pixels ``(3, K)`` for each CRF, or without any."""
        found = []
        for crf in crfs:
            ids = (
                seen.logits.argmax(1) if crf is None else refined(seen.logits, seen.pixels, crf).ids
            )
            labels = self.dataset.labels
            matrix = ConfusionMatrix(labels.num_classes, labels.ignore_id)
            matrix.update(ids, seen.mask[None])
            pairs = matrix.counts.cpu().numpy()
            found.append(np.stack([np.diag(pairs), pairs.sum(1), pairs.sum(0)]))
        return np.stack(found)


def _tune(
    kept: list[_Seen],
    iterations: int,
    counts: Callable[[_Seen, tuple[DenseCRF | None, ...]], NDArray[np.int64]],
    progress: Callable[[int], None] | None,
) -> tuple[Settings, float, float]:
    """Return the best settings, and the mIoU without and with them: one setting after another."""
    tried: dict[tuple[float, ...], float] = {}

    def score(settings: Settings) -> float:
        key = tuple(settings.values())
        if key not in tried:
            crf = _crf(settings, iterations)
            tried[key] = float(_mean_iou(sum(counts(seen, (crf,))[0] for seen in kept)))
            if progress is not None:
                progress(len(tried))
        return tried[key]

    best = dict(START)
    for _ in range(ROUNDS):
        before = dict(best)
        for name, values in VALUES.items():
            best = max([best, *({**best, name: value} for value in values)], key=score)
        if best == before:
            break
    plain = float(_mean_iou(sum(counts(seen, (None,))[0] for seen in kept)))
    return best, plain, score(best)


def _crf(settings: Mapping[str, Any], iterations: int) -> DenseCRF:
    return DenseCRF(**settings, iterations=iterations)


def _mean_iou(counts: Any) -> NDArray[np.float64]:
    """Return the mIoU of right, true and predicted pixels ``(..., 3, K)``."""
    right, truth, guess = (counts[..., k, :] for k in range(3))
    union = truth + guess - right
    iou = np.divide(right, union, out=np.zeros(union.shape), where=union > 0)
    mean: NDArray[np.float64] = iou.sum(-1) / np.maximum((union > 0).sum(-1), 1)
    return mean

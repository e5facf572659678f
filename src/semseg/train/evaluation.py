"""Scores of a network over a dataset, the same way during training and ever after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semseg.core.checkpoint import read_info
from semseg.core.checks import InputError
from semseg.core.clouds import Clouds
from semseg.core.flush import FlushingThread
from semseg.core.labels import LabelMap
from semseg.core.preprocess import Preprocessing
from semseg.data import SegmentationDataset
from semseg.data.loader import make_loader
from semseg.data.subset import Subset
from semseg.metrics import (
    Absent,
    ConfusionMatrix,
    Interval,
    Metric,
    PerImage,
    Scores,
    bootstrap,
    build_metrics,
)
from semseg.models import load
from semseg.predict.decide import decide
from semseg.predict.points import decide_points
from semseg.train.config import load_recipe
from semseg.train.splits import open_split

OF_IMAGES = ("boundary_iou", "bf_score", "trimap", "pq")
"""Metrics that look at where a pixel lies in its image."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    preprocessing: Preprocessing,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] | None = None,
    metrics: Sequence[Metric] = (),
) -> ConfusionMatrix:
    """Count truth against prediction over a dataset.

    Always float32, one image at a time at its own size, so that the counts depend on neither the
    training precision nor the batch size, and memory does not grow.

    Args:
        model: ``(1, C, H, W) -> (1, K, H, W)`` logits; it is moved to ``device``, and left in the
            mode it came in.
        dataset: images with masks.
        preprocessing: normalisation of the network.
        device: where to compute.
        workers: processes that read images.
        share: ``(i, n)`` evaluates every n-th sample from the i-th on; one per process.
        progress: called with the number of samples done.
        metrics: what else counts each image; see :func:`semseg.metrics.build_metrics`.

    Raises:
        InputError: the network has another number of classes than the dataset.
    """
    first, every = share
    training = model.training
    model = model.to(device).eval()
    matrix = ConfusionMatrix(dataset.labels.num_classes, dataset.labels.ignore_id)
    loader = make_loader(
        Subset(dataset, range(first, len(dataset), every)),
        transform=None,
        preprocessing=preprocessing,
        batch_size=1,
        seed=0,
        shuffle=False,
        workers=workers,
        drop_last=False,
    )
    try:
        for done, batch in enumerate(loader, start=1):
            batch = batch.to(device, non_blocking=True)
            sure = any(m.needs_confidence for m in metrics)
            if isinstance(batch.images, Clouds):
                decision = decide_points(model, batch.images, sure)
            else:
                decision = decide(model, batch.images, sure)
            check_classes(type(model).__name__, decision.logits.shape[1], dataset.labels)
            matrix.update(decision.ids, batch.masks)
            for metric in metrics:
                metric.update(decision.ids, batch.masks, decision.confidence)
            if progress is not None:
                progress(done)
    finally:
        model.train(training)
    return matrix


def check_classes(owner: str, num_classes: int, labels: LabelMap) -> None:
    """Refuse a network whose K does not fit the labels; K = 1 fits two classes.

    Raises:
        InputError: it does not fit.
    """
    if num_classes == labels.num_classes != 1 or (num_classes == 1 and labels.num_classes == 2):
        return
    if labels.num_classes == 1:
        raise InputError(
            "the data have one class, so there is nothing to tell apart; list the background as a "
            "class too"
        )
    raise InputError(
        f"{owner} has num_classes {num_classes}, the data have {labels.num_classes} classes; "
        "leave num_classes out of the settings, it follows the data"
    )


def check_metrics(names: Sequence[str], dataset: SegmentationDataset) -> None:
    """Refuse metrics of shapes in images where the data are point clouds.

    Raises:
        InputError: one is asked for.
    """
    wrong = [name for name in names if name in OF_IMAGES]
    if wrong and dataset.holds != "images":
        raise InputError(f"{wrong[0]} is about shapes in images; leave it out for {dataset.holds}")


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found on one split.

    Args:
        matrix: counts of all images.
        labels: the classes.
        scores: the scores of the counts.
        metrics: results of the metrics that were asked for, by name.
        interval: how far the scores vary with the choice of images, if it was asked for.
    """

    matrix: ConfusionMatrix
    labels: LabelMap
    scores: Scores
    metrics: dict[str, dict[str, Any]]
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        found = {**self.scores.to_dict(self.labels.names), "metrics": self.metrics}
        interval = None if self.interval is None else self.interval.to_dict()
        return {**found, "interval": interval, "confusion": self.matrix.counts.tolist()}


def validate_run(
    run: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    split: str = "val",
    absent: Absent = "present",
    device: str = "auto",
) -> Scores:
    """Evaluate the best weights of a run folder again; arguments as for :func:`measure_run`.

    On the machine that trained, this gives the run's best score again.
    """
    return measure_run(run, overrides=overrides, split=split, absent=absent, device=device).scores


def measure_run(
    run: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    split: str = "val",
    absent: Absent = "present",
    device: str = "auto",
    metrics: Sequence[str] = (),
    interval: bool = False,
    seed: int = 0,
) -> Measured:
    """Evaluate the best weights of a run folder again, with more scores and their interval.

    Memory does not grow with the number of images, but for the interval and the metric
    ``per_image``: 12 bytes per image and class.

    Args:
        run: the run folder.
        overrides: recipe values by dotted path.
        split: which images.
        absent: rule for absent classes.
        device: ``"auto"`` takes a GPU if there is one.
        metrics: names from :func:`semseg.metrics.list_metrics`.
        interval: whether to draw images anew for an interval of 95 %.
        seed: of these draws.

    Raises:
        FileError: the folder lacks its config or its weights.
        InputError: the data have other classes than the weights.
        UnknownNameError: no such metric.
    """
    run = Path(run)
    config = load_recipe(run, overrides)
    data = config.data
    weights = run / "best.safetensors"
    info = read_info(weights)
    dataset = open_split(config, split)
    labels = dataset.labels
    if info.labels is not None and (difference := info.labels.difference(labels)):
        raise InputError(f"{weights} was trained for other classes than {data.name}: {difference}")
    check_metrics(metrics, dataset)
    wanted = build_metrics(metrics, labels.num_classes, labels.ignore_id)
    images = PerImage(labels.num_classes, labels.ignore_id)
    counting = [*wanted.values(), *([images] if interval else [])]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load(run)
    matrix = FlushingThread().run(
        lambda: evaluate(
            model,
            dataset,
            info.preprocessing,
            device=device,
            workers=data.workers,
            metrics=counting,
        )
    )
    return Measured(
        matrix=matrix,
        labels=labels,
        scores=matrix.scores(absent),
        metrics={name: metric.result(absent) for name, metric in wanted.items()},
        interval=bootstrap(images, absent, seed=seed) if interval else None,
    )

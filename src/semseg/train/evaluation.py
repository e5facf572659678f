"""Scores of a network over a dataset, the same way during training and ever after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semseg.core.checkpoint import read_info
from semseg.core.checks import InputError
from semseg.core.flush import FlushingThread
from semseg.core.labels import LabelMap
from semseg.core.preprocess import Preprocessing
from semseg.data import Sample, SegmentationDataset
from semseg.data.loader import make_loader
from semseg.metrics import Absent, ConfusionMatrix, Scores
from semseg.models import load
from semseg.train.config import load_recipe
from semseg.train.splits import open_split


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

    Raises:
        InputError: the network has another number of classes than the dataset.
    """
    training = model.training
    model = model.to(device).eval()
    matrix = ConfusionMatrix(dataset.labels.num_classes, dataset.labels.ignore_id)
    loader = make_loader(
        _Share(dataset, *share),
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
            logits = model(batch.images)
            check_classes(type(model).__name__, logits.shape[1], dataset.labels)
            matrix.update(class_ids(logits), batch.masks)
            if progress is not None:
                progress(done)
    finally:
        model.train(training)
    return matrix


def class_ids(logits: Tensor) -> Tensor:
    """Return train ids ``(N, H, W)`` of logits ``(N, K, H, W)``; K = 1 is class 1 above 0.

    Example:
        >>> class_ids(torch.tensor([[[[-1.0, 2.0]]]])).tolist()
        [[[0, 1]]]
    """
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


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


def validate_run(
    run: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    split: str = "val",
    absent: Absent = "present",
    device: str = "auto",
) -> Scores:
    """Evaluate the best weights of a run folder again.

    On the machine that trained, this gives the run's best score again.

    Args:
        run: the run folder.
        overrides: recipe values by dotted path, e.g. ``{"data.root": "elsewhere"}``.
        split: which images.
        absent: rule for absent classes, see :class:`semseg.metrics.Scores`.
        device: ``"auto"`` takes a GPU if there is one.

    Raises:
        FileError: the folder lacks its config or its weights.
        InputError: the data have other classes than the weights.
    """
    run = Path(run)
    config = load_recipe(run, overrides)
    data = config.data
    weights = run / "best.safetensors"
    info = read_info(weights)
    dataset = open_split(config, split)
    if info.labels is not None and (difference := info.labels.difference(dataset.labels)):
        raise InputError(f"{weights} was trained for other classes than {data.name}: {difference}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load(run)
    matrix = FlushingThread().run(
        lambda: evaluate(model, dataset, info.preprocessing, device=device, workers=data.workers)
    )
    return matrix.scores(absent)


class _Share(SegmentationDataset):
    """Every n-th sample of a dataset."""

    def __init__(self, source: SegmentationDataset, first: int, every: int) -> None:
        self.source = source
        self.labels = source.labels
        self.channels = source.channels
        self.split = source.split
        self.indices = range(first, len(source), every)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.indices[index]]

    def path(self, index: int) -> str:
        return self.source.path(self.indices[index])

    def fingerprint(self) -> str:
        return self.source.fingerprint()

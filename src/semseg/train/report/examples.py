"""Validation images for the report: where the network does worst and best, and how sure it is."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from semseg.core.checks import InputError
from semseg.data import Sample, dataset_entry
from semseg.metrics import CalibrationError, ConfusionMatrix
from semseg.predict.predictor import Prediction, Predictor
from semseg.predict.render import panels
from semseg.train.config import load_recipe
from semseg.train.splits import open_split

CANDIDATES = 128
"""At most so many validation images, evenly spaced, are looked at to choose from."""

_WIDTH = 480  # of a panel; larger ones only make the page slow


@dataclass(frozen=True, slots=True)
class Example:
    """One image with what the network made of it.

    Args:
        title: its file name.
        miou: of this image alone, over the classes in its truth or prediction.
        panels: image, truth, prediction and error as data URIs, by name.
    """

    title: str
    miou: float
    panels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Examples:
    """The chosen images.

    Args:
        worst: lowest score first.
        best: highest score first; none of ``worst``.
        candidates: how many images they were chosen from.
        total: how many images the validation split has.
        calibration: result of :class:`semseg.metrics.CalibrationError` over the candidates.
        images_per_second: of prediction, one image at a time, reading not counted.
    """

    worst: list[Example]
    best: list[Example]
    candidates: int
    total: int
    calibration: dict[str, Any]
    images_per_second: float


def choose_examples(run: Path, count: int) -> Examples:
    """Predict validation images of a run and return those with the lowest and highest mIoU.

    Args:
        run: the run folder.
        count: how many images, half of them the worst; fewer if there are not so many.

    Raises:
        SemsegError: the data are not where the run found them, or the weights are damaged.
    """
    config = load_recipe(run)
    if (held := dataset_entry(config.data.name).holds) != "images":
        raise InputError(f"{config.data.name} holds {held}, of which there are no pictures")
    device = None if config.train.device == "auto" else config.train.device
    predictor = Predictor(run, device)
    dataset = open_split(config, "val", cache=False)
    total = len(dataset)
    candidates = min(total, CANDIDATES)
    indices = [i * total // candidates for i in range(candidates)]
    labels = predictor.labels
    calibration = CalibrationError(labels.num_classes, labels.ignore_id)
    scored: list[tuple[float, int]] = []
    seconds = 0.0
    for index in indices:
        sample = dataset[index]
        began = time.perf_counter()
        found = predictor(sample.image.as_subclass(torch.Tensor), confidence=True)
        seconds += time.perf_counter() - began
        score = _miou(found, sample, calibration)
        if score == score:  # nan: nothing in this image is labelled
            scored.append((score, index))
    scored.sort()
    low = scored[: (count + 1) // 2]
    high = scored[len(low) :][::-1][: count // 2]
    examples = [_example(predictor, dataset[index], score) for score, index in (*low, *high)]
    return Examples(
        worst=examples[: len(low)],
        best=examples[len(low) :],
        candidates=candidates,
        total=total,
        calibration=calibration.result(),
        images_per_second=candidates / seconds,
    )


def _miou(found: Prediction, sample: Sample, calibration: CalibrationError) -> float:
    """Return the score of one image, and count how sure the network was."""
    labels = found.labels
    ids, truth = torch.from_numpy(found.mask), sample.mask.as_subclass(torch.Tensor)
    assert found.confidence is not None
    sure = torch.from_numpy(found.confidence)
    calibration.update(ids[None], truth[None], sure[None])
    matrix = ConfusionMatrix(labels.num_classes, labels.ignore_id)
    matrix.update(ids, truth)
    return matrix.scores().miou


def _example(predictor: Predictor, sample: Sample, score: float) -> Example:
    image = sample.image.as_subclass(torch.Tensor)
    prediction = predictor(image).mask
    shown = panels(
        image.permute(1, 2, 0).numpy(),
        sample.mask.as_subclass(torch.Tensor).numpy(),
        prediction,
        predictor.labels,
    )
    return Example(Path(sample.path).name, score, dict(_encoded(shown)))


def _encoded(shown: dict[str, Image.Image]) -> Iterator[tuple[str, str]]:
    for name, picture in shown.items():
        if picture.width > _WIDTH:
            height = max(1, round(picture.height * _WIDTH / picture.width))
            flat = name in ("truth", "prediction")
            picture = picture.resize(
                (_WIDTH, height), Image.Resampling.NEAREST if flat else Image.Resampling.LANCZOS
            )
        yield name, _data_uri(picture, "PNG" if name in ("truth", "prediction") else "JPEG")


def _data_uri(picture: Image.Image, kind: str) -> str:
    data = io.BytesIO()
    picture.save(data, format=kind, quality=85, optimize=True)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"

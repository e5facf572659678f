"""Validation images for the report: where the network does worst, and where it does best."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from semseg.core.checks import InputError
from semseg.data import Sample, dataset_entry
from semseg.metrics import ConfusionMatrix
from semseg.predict.predictor import Predictor
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
    """

    worst: list[Example]
    best: list[Example]
    candidates: int
    total: int


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
    scored: list[tuple[float, int]] = []
    for index in indices:
        sample = dataset[index]
        score = _miou(predictor, sample)
        if score == score:  # nan: nothing in this image is labelled
            scored.append((score, index))
    scored.sort()
    low = scored[: (count + 1) // 2]
    high = scored[len(low) :][::-1][: count // 2]
    examples = [_example(predictor, dataset[index], score) for score, index in (*low, *high)]
    return Examples(examples[: len(low)], examples[len(low) :], candidates, total)


def _miou(predictor: Predictor, sample: Sample) -> float:
    labels = predictor.labels
    matrix = ConfusionMatrix(labels.num_classes, labels.ignore_id)
    mask = predictor(sample.image.as_subclass(torch.Tensor)).mask
    matrix.update(torch.from_numpy(mask), sample.mask.as_subclass(torch.Tensor))
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

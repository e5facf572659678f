"""What a run measures of its weights while it trains, and shows of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checks import InputError
from semseg.metrics import ConfusionMatrix, PerImage, Scores, bootstrap
from semseg.predict.decide import decide
from semseg.predict.render import strip
from semseg.train.evaluation import evaluate
from semseg.train.session import Session

PICTURES = 4
"""Validation images that are sent to experiment pages, the same ones each time."""

_LONGEST = 512  # of a side of them, in pixels: a page is no archive


@dataclass(frozen=True, slots=True)
class Validation:
    """What one validation found, over all processes.

    Args:
        matrix: counts over all images.
        images: counts of each image.
        scores: of the counts.
    """

    matrix: ConfusionMatrix
    images: PerImage
    scores: Scores

    def to_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return scores, counts and the interval of the scores as JSON values."""
        return {
            **self.scores.to_dict(names),
            "confusion": self.matrix.counts.tolist(),
            "interval": bootstrap(self.images, self.scores.absent).to_dict(),
        }


def validate(session: Session, progress: Callable[[int], None]) -> Validation:
    """Measure the average weights of a run on its validation images.

    Args:
        session: the run; in each process, which does its share.
        progress: called with the number of images done.

    Raises:
        InputError: no pixel of them is labelled.
    """
    accelerator, labels = session.accelerator, session.parts.labels
    if accelerator.num_processes > 1:  # batch-norm statistics differ between processes
        for tensor in chain(session.average.parameters(), session.average.buffers()):
            torch.distributed.broadcast(tensor.data, 0)
    images = PerImage(labels.num_classes, labels.ignore_id)
    matrix = evaluate(
        session.average.module,
        session.parts.val,
        session.parts.preprocessing,
        device=accelerator.device,
        workers=session.config.data.workers,
        share=(accelerator.process_index, accelerator.num_processes),
        progress=progress,
        metrics=(images,),
    )
    if accelerator.num_processes > 1:
        matrix.counts = accelerator.reduce(matrix.counts.to(accelerator.device), "sum")
        shares = gather_object([images])
        images = shares[0]
        for share in shares[1:]:
            images.merge(share)
    scores = matrix.scores()
    if math.isnan(scores.miou):
        raise InputError(f"no pixel of {session.config.data.name} val is labelled; check it")
    return Validation(matrix, images, scores)


@torch.inference_mode()
def pictures(session: Session) -> dict[str, NDArray[np.uint8]]:
    """Return image, truth, prediction and errors of some validation images, side by side.

    Args:
        session: the run; its average weights predict. Nothing is drawn at random.

    Returns:
        ``(H, W, 3)`` by name; empty for data that are no images.
    """
    dataset, rule = session.parts.val, session.parts.preprocessing
    if dataset.holds != "images":
        return {}
    model, device = session.average.module, session.accelerator.device
    training = model.training
    model.eval()
    shown = {}
    count = min(PICTURES, len(dataset))
    for number in range(count):
        sample = dataset[number * len(dataset) // count]
        pixels = sample.image.as_subclass(Tensor)
        ids = decide(model, rule(pixels[None]).to(device)).ids[0].cpu().numpy()
        image, truth = pixels.permute(1, 2, 0).numpy(), sample.mask.as_subclass(Tensor).numpy()
        step = -(-max(truth.shape) // _LONGEST)
        image, truth, ids = (values[::step, ::step] for values in (image, truth, ids))
        shown[f"val/{number}"] = np.asarray(strip(image, truth, ids, session.parts.labels))
    model.train(training)
    return shown

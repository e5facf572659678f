"""Rows of metrics and weights files, made of what the loop knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from semseg import __version__
from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.data import dataset_entry
from semseg.metrics import Scores
from semseg.models.base import settings_of
from semseg.train.checkpoint import Position
from semseg.train.config import TrainConfig
from semseg.train.parts import Parts


def epoch_row(position: Position, lr: float, images_per_second: float) -> dict[str, Any]:
    """Return one row of ``metrics.jsonl``, without scores.

    Args:
        position: at the end of the epoch, before it is counted.
        lr: highest learning rate of the last step.
        images_per_second: of the training steps so far.
    """
    steps = position.step_in_epoch
    terms = {f"loss_{name}": total / steps for name, total in position.loss_sums.items()}
    return {
        "epoch": position.epoch + 1,
        "step": position.step,
        "seconds": round(position.seconds, 3),
        "images_per_second": round(images_per_second, 3),
        "lr": lr,
        "loss": sum(terms.values()),
        **terms,
    }


def score_columns(scores: Scores) -> dict[str, float]:
    """Return the scores of a row; per-class values stand in ``result.json``."""
    return {
        "val_miou": scores.miou,
        "val_accuracy": scores.accuracy,
        "val_mean_accuracy": scores.mean_accuracy,
        "val_fw_iou": scores.fw_iou,
        "val_dice": scores.dice,
    }


def epoch_line(row: Mapping[str, Any], epochs: int, best: bool) -> str:
    """Return the line that is printed after an epoch.

    Example:
        >>> row = {"epoch": 1, "loss": 0.5, "lr": 0.01, "images_per_second": 9.0, "val_miou": 0.25}
        >>> epoch_line(row, 10, best=True)
        'epoch 1/10  loss 0.5000  lr 1.00e-02  9.0 images/s  miou 0.2500 (best)'
    """
    text = (
        f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
        f"{row['images_per_second']:.1f} images/s"
    )
    if "val_miou" in row:
        text += f"  miou {row['val_miou']:.4f}{' (best)' if best else ''}"
    return text


def write_weights(
    path: Path, model: nn.Module, parts: Parts, config: TrainConfig, metrics: Mapping[str, Any]
) -> None:
    """Write a weights file that needs nothing else.

    Args:
        path: the ``.safetensors`` file.
        model: the weights; of the same network as ``parts.model``.
        parts: the network's settings, labels and preprocessing.
        config: the recipe.
        metrics: scores, epoch and step.
    """
    data = {
        "name": config.data.name,
        "train": parts.train.fingerprint(),
        "val": parts.val.fingerprint(),
        "licence": dataset_entry(config.data.name).licence,
    }
    info = WeightsInfo(
        model=config.model.name,
        settings=settings_of(parts.model),
        labels=parts.labels,
        preprocessing=parts.preprocessing,
        metrics=metrics,
        provenance={"semseg": __version__, "run": config.name, "data": data},
    )
    save_weights(path, model.state_dict(), info)

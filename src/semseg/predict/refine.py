"""The class of each pixel after a dense CRF."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from semseg.core.checks import FileError
from semseg.postprocess import DenseCRF
from semseg.predict.decide import Decision

CRF_FILE = "crf.json"
"""Settings in a run folder, which ``semseg crf-search`` writes."""


def decide_with_crf(
    scores: Callable[[Tensor], Tensor], images: Tensor, pixels: Tensor, crf: DenseCRF
) -> Decision:
    """Run a network and a CRF, and take the largest probability of each pixel.

    Args:
        scores: the network, or what computes its logits at the size of the images.
        images: ``(1, C, H, W)``, normalised.
        pixels: ``(C, H, W)`` the same image before that.
        crf: its ``srgb`` counts in 255 levels, whatever the image's type.
    """
    return refined(two_classes(scores(images)), pixels, crf)


def two_classes(logits: Tensor) -> Tensor:
    """Return the logits; those of one sigmoid channel as two classes."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def refined(logits: Tensor, pixels: Tensor, crf: DenseCRF) -> Decision:
    """Return what the CRF makes of ``(1, K, H, W)`` logits."""
    top = 1.0 if pixels.is_floating_point() else float(torch.iinfo(pixels.dtype).max)
    colours = pixels[None].to(logits.device, torch.float32) * (255 / top)
    best = crf(colours, logits).max(1)
    return Decision(best.indices, best.values, logits)


def read_crf(run: str | Path) -> DenseCRF:
    """Return the CRF that was tuned for a run.

    Args:
        run: a run folder, or its weights file.

    Raises:
        FileError: it has none, or the file is damaged.
    """
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    path = folder / CRF_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        return DenseCRF(**settings)
    except FileNotFoundError:
        raise FileError(f"{path} does not exist; semseg crf-search {folder} writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is damaged ({error}); semseg crf-search {folder} anew") from error

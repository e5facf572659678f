"""Every registered network learns: on a few generated scenes its own loss falls by half."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semseg.core.preprocess import IMAGENET
from semseg.data import build_dataset
from semseg.models import create_model
from semseg.models.base import Entry, SegmentationModel
from tests.models import support

RATES = (2e-3, 1e-2, 5e-4, 3e-2)
"""Of Adam; networks differ in the one they like, and one that suits is enough."""

STEPS = 40
CLASSES = 8


def scenes(model: SegmentationModel, count: int = 2) -> tuple[Tensor, Tensor]:
    """Return normalised images and their masks, of a size that the network takes."""
    height, width = (max(side, model.min_size) for side in (64, 96))
    made = build_dataset(
        "synthetic", "train", length=count, size=(height, width), difficulty="easy"
    )
    images = torch.stack([made[i].image.float() / 255 for i in range(count)])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    grey_or_more = ((images - mean) / std)[:, [i % 3 for i in range(model.config.in_channels)]]
    return grey_or_more, torch.stack([made[i].mask.long() for i in range(count)])


def losses(model: SegmentationModel, rate: float) -> list[float]:
    """Train on the same scenes and return the loss of every step."""
    images, target = scenes(model)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=rate)
    model.train()
    seen = []
    for _ in range(STEPS):
        heads = model.forward_heads(model.pad(images))
        loss = sum(model.loss(heads, target, support.criterion).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        seen.append(loss.item())
    return seen


@pytest.mark.slow
def test_forty_steps_halve_the_loss(name: str, entry: Entry) -> None:
    reached = {}
    for rate in RATES:
        torch.manual_seed(0)  # the network's own initial weights
        model = create_model(name, **({"num_classes": CLASSES} | dict(entry.small)))
        support.without_dropout(model)  # of a tiny network it leaves nothing to learn with
        first, *_, a, b, c = losses(model, rate)
        reached[rate] = sorted((a, b, c))[1] / first
        if reached[rate] <= 0.5:
            return
    pytest.fail(f"loss after {STEPS} steps, as a share of the first, by learning rate: {reached}")

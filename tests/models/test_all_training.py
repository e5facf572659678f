"""Every registered network learns: on a few generated scenes its own loss falls by half."""

from __future__ import annotations

import pytest
import torch

from semseg.models import create_model
from semseg.models.base import Entry, SegmentationModel
from tests.models import support
from tests.models.kinds import CLASSES, kind_of

RATES = (2e-3, 1e-2, 5e-4, 3e-2)
"""Of Adam; networks differ in the one they like, and one that suits is enough."""

STEPS = 40


def losses(model: SegmentationModel, rate: float) -> list[float]:
    """Train on the same scenes and return the loss of every step."""
    images, target = kind_of(model).scenes(model)
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

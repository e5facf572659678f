"""Monte Carlo dropout: a network sampled with its dropout on, and how far the samples differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from semseg.core.checks import InputError
from semseg.models.base import SegmentationModel


@dataclass(frozen=True, slots=True)
class McPrediction:
    """What the samples say together.

    Args:
        mean: ``(N, K, H, W)`` mean probabilities; the prediction is their largest (for K = 1,
            whether it is above one half).
        variance: ``(N, K, H, W)`` of the probabilities over the samples; the map that the paper
            shows is its mean over classes.
        entropy: ``(N, H, W)`` of the mean, in nats: all uncertainty.
        mutual_information: ``(N, H, W)`` between class and sampled network, in nats: the part of
            the entropy that more training data would take away.
    """

    mean: Tensor
    variance: Tensor
    entropy: Tensor
    mutual_information: Tensor


@torch.no_grad()
def mc_predict(model: SegmentationModel, images: Tensor, samples: int = 40) -> McPrediction:
    """Predict with dropout on and everything else, batch normalisation too, as in evaluation.

    Kendall, Badrinarayanan, Cipolla (arXiv:1511.02680, section 3): the mean of softmax outputs,
    and their variance as the network's uncertainty. Samples are drawn from torch's generator, so
    ``torch.manual_seed`` makes a result repeatable. Memory does not grow with ``samples``.

    Args:
        model: a network with dropout layers; the modes of its layers are left as they were.
        images: ``(N, C, H, W)``, normalised.
        samples: forward passes. The paper's gain levels off at about 40.

    Raises:
        InputError: fewer than two samples, or a network without dropout.
        InputError, SettingError: images that the network does not take.

    Example:
        >>> from semseg import create_model
        >>> model = create_model("bayesian_segnet_basic", width=4, num_classes=3)
        >>> result = mc_predict(model, torch.rand(1, 3, 16, 16), samples=2)
        >>> result.mean.shape, result.entropy.shape
        (torch.Size([1, 3, 16, 16]), torch.Size([1, 16, 16]))
    """
    if samples < 2:
        raise InputError(f"a variance needs at least 2 samples, got {samples}")
    with dropout_alone(model):
        mean = probabilities(model(images))
        spread, entropies = torch.zeros_like(mean), entropy(mean)
        for count in range(2, samples + 1):
            p = probabilities(model(images))
            # Welford's update: sums of squares would cancel where samples agree
            away = p - mean
            mean = mean + away / count
            spread = spread + away * (p - mean)
            entropies = entropies + entropy(p)
    whole = entropy(mean)
    # rounding can leave the difference a little below zero
    shared = (whole - entropies / samples).clamp_min(0)
    return McPrediction(mean, spread / samples, whole, shared)


@contextmanager
def dropout_alone(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode but for its dropout layers, and put it back afterwards.

    Raises:
        InputError: there is no dropout to leave on.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    places = [m for m in model.modules() if isinstance(m, _DropoutNd) and m.p > 0]
    try:
        if not places:
            raise InputError(
                f"{type(model).__name__} has no dropout, so all its samples would be the same; "
                "use a network that has, e.g. bayesian_segnet"
            )
        for place in places:
            place.train()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def probabilities(logits: Tensor) -> Tensor:
    """Return class probabilities of logits ``(N, K, H, W)``; of one sigmoid channel for K = 1."""
    logits = logits.float()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def entropy(p: Tensor) -> Tensor:
    """Return the entropy in nats, ``(N, H, W)``, of probabilities ``(N, K, H, W)``.

    Example:
        >>> round(entropy(torch.full((1, 4, 1, 1), 0.25)).item(), 4)
        1.3863
    """
    if p.shape[1] == 1:
        p = torch.cat([p, 1 - p], 1)
    return -torch.xlogy(p, p).sum(1)

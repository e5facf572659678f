"""Weights and images that no random generator decides, and outputs recorded with them.

The contract tests use it, and so do scripts outside the repository that record the outputs of a
reference implementation; ``tests/README.md`` shows one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPECTED = Path(__file__).parents[1] / "expected"
SAMPLES = 48
"""Values recorded of each output."""

OURS = "this library"
"""Origin of numbers that ``--accept`` recorded; every other origin is a reference."""

IMAGE_STREAM, SAMPLE_STREAM = 2**22, 2**22 + 1


def noise(count: int, stream: int = 0) -> Tensor:
    """Return float64 numbers in [-1, 1) that mix position and stream (SplitMix64).

    Integers alone decide them, so they are the same on every platform and in every release.

    Example:
        >>> [round(value, 4) for value in noise(3).tolist()]
        [0.7666, -0.1369, -0.9471]
    """
    z = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 40)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1)


def image(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Return float32 noise ``(N, C, H, W)``: neighbours differ, so every pooling choice shows."""
    values = noise(batch * channels * height * width, IMAGE_STREAM)
    return values.reshape(batch, channels, height, width).float()


def images_for(model: nn.Module, batch: int = 1, height: int = 64, width: int = 96) -> Any:
    """Noise that the network takes; see :mod:`tests.models.kinds`."""
    return _kind(model).enough(model, batch, height, width)


def target_for(images: Any, classes: int, model: nn.Module | None = None) -> Tensor:
    """Random train ids for a batch, some of them ignored."""
    return _kind(model).target(images, classes)


def _kind(model: nn.Module | None) -> Any:
    from tests.models.kinds import Images, kind_of  # which needs the noise of this module

    return Images if model is None else kind_of(model)


def fill(model: nn.Module) -> nn.Module:
    """Fill parameters and running statistics with noise, in place, and switch to eval mode.

    A tensor's values follow from its position and shape and from its kind of layer: no name
    enters, so a layer may be renamed. Scales keep signals alive through many layers, and signs
    are mixed, so that a wrong activation, order or stride changes the output.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors |= {k: b for k, b in model.named_buffers() if k.endswith(("_mean", "_var"))}
    with torch.no_grad():
        for position, (key, tensor) in enumerate(tensors.items()):
            prefix, _, leaf = key.rpartition(".")
            centre, spread = _range(model.get_submodule(prefix), leaf, tensor)
            values = centre + spread * noise(tensor.numel(), position)
            tensor.copy_(values.reshape(tensor.shape))
    return model.eval()


def _range(owner: nn.Module, leaf: str, tensor: Tensor) -> tuple[float, float]:
    """Return centre and half-width of a tensor's values."""
    if isinstance(owner, nn.PReLU):
        return 0.25, 0.2
    if tensor.dim() <= 1:  # the weights of norms are one-dimensional, those of all else are not
        return (1.0, 0.2) if leaf in ("weight", "running_var") else (0.0, 0.1)
    if isinstance(owner, nn.ConvTranspose2d) and leaf == "weight":
        incoming = tensor[:, 0].numel() / math.prod(owner.stride)
    elif tensor.shape[0] == 1 and not isinstance(owner, nn.Conv2d | nn.Linear):
        return 0.0, 0.5  # tokens and position embeddings
    else:
        incoming = tensor[0].numel()
    return 0.0, math.sqrt(6 / incoming)  # He's variance 2 / n: a ReLU halves the signal


def criterion(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with 255 ignored, of the sigmoid where there is one channel."""
    assert logits.shape[-2:] == target.shape[-2:], "loss() must hand over logits at target's size"
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], (target == 0).float())
    return F.cross_entropy(logits, target, ignore_index=255)


def without_dropout(model: nn.Module) -> nn.Module:
    """Set every dropout rate to 0, in place, so that train mode has one output."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if hasattr(module, "drop_prob"):  # stochastic depth
            module.drop_prob = 0.0
    return model


def outputs(model: nn.Module, images: Any) -> dict[str, dict[str, Tensor]]:
    """Return the heads in both modes, in float64, and the full-size ``output`` of eval mode.

    float64 leaves no pooling or attention to chance; train mode shows batch statistics.
    """
    model, images = without_dropout(model).double(), images.double()
    with torch.no_grad():
        evaluated = model.eval().forward_heads(model.pad(images))
        # what forward() does with them; computing the heads once is enough
        evaluated["output"] = model.full_size(evaluated["logits"], _kind(model).size(images))
        trained = model.train().forward_heads(model.pad(images))
    return {"eval": evaluated, "train": trained}


def describe(output: Tensor) -> dict[str, Any]:
    """Return what is recorded of one output: shape, mean, deviation and some of its values."""
    flat = output.detach().double().flatten()
    positions = ((noise(SAMPLES, SAMPLE_STREAM) + 1) / 2 * flat.numel()).long()
    return {
        "shape": list(output.shape),
        "mean": _round(flat.mean().item()),
        "std": _round(flat.std().item()),
        "sample": [_round(value) for value in flat[positions].tolist()],
    }


def _round(value: float) -> float:
    return float(f"{value:.8g}")


def assert_described(output: Tensor, recorded: Mapping[str, Any], what: str) -> None:
    """Compare an output with what was recorded: 1e-4 of its deviation, and of each value."""
    got = describe(output)
    assert got["shape"] == recorded["shape"], f"{what} has shape {got['shape']}"
    for key in ("mean", "std", "sample"):
        torch.testing.assert_close(
            torch.tensor(got[key], dtype=torch.float64),
            torch.tensor(recorded[key], dtype=torch.float64),
            rtol=1e-4,
            atol=1e-4 * recorded["std"],
            msg=lambda text, key=key: f"{key} of {what} differs from the record: {text}",
        )


def write_expected(
    name: str,
    *,
    origin: str,
    settings: Mapping[str, Any],
    size: tuple[int, int, int, int],
    outputs: Mapping[str, Mapping[str, Tensor]],
) -> Path:
    """Write ``tests/expected/NAME.json``.

    Args:
        name: registry name of the network.
        origin: where the numbers come from: a reference implementation and its version.
        settings: config fields of the network that they belong to.
        size: ``(N, C, H, W)`` of the image made by :func:`image`, or what makes the clouds.
        outputs: by mode (``"eval"``, ``"train"``), the heads of that mode.
    """
    record = {
        "origin": origin,
        "settings": dict(settings),
        "size": list(size),
        "outputs": {
            mode: {head: describe(tensor) for head, tensor in heads.items()}
            for mode, heads in outputs.items()
        },
    }
    path = EXPECTED / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path

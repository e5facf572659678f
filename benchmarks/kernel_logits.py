"""Logits of a trained network for ``benchmarks/kernels.py``, made on the spot in a minute.

No weights are at hand that were trained on 19 or 150 classes, so a small feature pyramid is trained
on the built-in scenes, from scratch, with as many classes: each of the 8 classes is split by how
bright it is in that image (2 shades give 16 of 19 classes, 18 shades 144 of 150). Neighbouring
shades look alike, so the network is sure in some regions and torn in others, as real ones are. The
logits are those of a validation scene, at the network's own stride of 4. Weights and logits stay in
the temporary folder, so that a second run compares on the same.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.data import Sample, build_dataset

CACHE = Path(tempfile.gettempdir()) / "semseg-kernel-logits"
SIZE, BATCH, SCENES, STRIDE = (128, 256), 4, 200, 4
BASE = 8
"""Classes of the scenes."""


class Pyramid(nn.Module):
    """Strides 4 to 64 down, and up again by sums; logits at stride 4."""

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (32, 48, 64, 96, 128)) -> None:
        super().__init__()
        self.stem = _block(3, 24, 2)
        before = (24, *widths[:-1])
        self.down = nn.ModuleList(_block(b, w, 2) for b, w in zip(before, widths, strict=True))
        self.side = nn.ModuleList(nn.Conv2d(w, 64, 1) for w in widths)
        self.head = nn.Sequential(_block(64, 64, 1), nn.Conv2d(64, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, K, H/4, W/4)`` logits."""
        x, features = self.stem(images), []
        for stage, side in zip(self.down, self.side, strict=True):
            x = stage(x)
            features.append(side(x))
        top = features.pop()
        while features:
            top = features.pop() + F.interpolate(top, scale_factor=2, mode="bilinear")
        return self.head(top)


def _block(before: int, width: int, stride: int) -> nn.Sequential:
    first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
    second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    norms = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
    return nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU())


def trained_logits(num_classes: int, height: int, width: int, seconds: float = 90.0) -> Tensor:
    """Return ``(1, K, height, width)`` logits of a trained network.

    Args:
        num_classes: K.
        height: of the logits; the scene is four times as high.
        width: of the logits.
        seconds: how long the network trains when it is not there yet.
    """
    CACHE.mkdir(exist_ok=True)
    file = CACHE / f"{num_classes}x{height}x{width}.pt"
    if not file.exists():
        model = _trained(num_classes, seconds)
        sample = _scenes("val", (height * STRIDE, width * STRIDE), 1)[0]
        with torch.inference_mode():
            logits = model.eval()(_input([sample]))
        right = logits.argmax(1)[0] == _shades(sample, num_classes)[::STRIDE, ::STRIDE]
        print(f"{num_classes} x {height} x {width}: accuracy {right.float().mean():.3f}")
        torch.save(logits.clone(), file)
    logits = torch.load(file)
    assert isinstance(logits, Tensor)
    return logits


def _trained(num_classes: int, seconds: float) -> Pyramid:
    torch.manual_seed(0)
    model = Pyramid(num_classes)
    file = CACHE / f"{num_classes}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file))
        return model
    scenes = _scenes("train", SIZE, SCENES)
    samples = [scenes[i] for i in range(SCENES)]
    images = _input(samples)
    target = torch.stack([_shades(s, num_classes)[::STRIDE, ::STRIDE] for s in samples])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    start, step, loss = time.perf_counter(), 0, torch.zeros(())
    while (spent := time.perf_counter() - start) < seconds:
        chosen = torch.randint(SCENES, (BATCH,))
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - spent / seconds) ** 0.9
        loss = F.cross_entropy(model.train()(images[chosen]), target[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    print(f"trained {step} steps with {num_classes} classes, loss {loss.item():.3f}")
    torch.save(model.state_dict(), file)
    return model


def _scenes(split: str, size: tuple[int, int], length: int) -> list[Sample]:
    return build_dataset("synthetic", split, None, size=size, length=length, difficulty="hard")


def _input(samples: list[Sample]) -> Tensor:
    return torch.stack([sample.image for sample in samples]).float() / 128 - 1


def _shades(sample: Sample, num_classes: int) -> Tensor:
    """Split each class by its mean brightness in this image."""
    shades = num_classes // BASE
    mask, grey = sample.mask.long(), sample.image.float().mean(0)
    brightness = torch.zeros(BASE).scatter_reduce(
        0, mask.flatten(), grey.flatten(), "mean", include_self=False
    )
    shade = ((brightness - 30) / 200 * shades).long().clamp(0, shades - 1)
    return mask * shades + shade[mask]

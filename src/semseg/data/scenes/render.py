"""One scene from one generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semseg.data.scenes import objects
from semseg.data.scenes.background import Setting, paint_background
from semseg.data.scenes.canvas import Array, Canvas


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard a scene is to read; ranges are of values drawn per scene.

    Args:
        objects: how many things stand in it.
        camouflage: probability that a colour is drawn from those of all classes.
        contrast: 1 keeps the colours, less moves them towards grey.
        blur: standard deviation in pixels at a height of 96.
        noise: standard deviation in grey levels.
        shadow: darkness of shadows.
    """

    objects: tuple[int, int]
    camouflage: float
    contrast: tuple[float, float]
    blur: tuple[float, float]
    noise: tuple[float, float]
    shadow: tuple[float, float]


DIFFICULTIES = {
    "easy": Difficulty((3, 6), 0.0, (0.95, 1.1), (0.2, 0.5), (1, 4), (0.2, 0.4)),
    "medium": Difficulty((5, 9), 0.1, (0.75, 1.1), (0.2, 0.8), (2, 10), (0.25, 0.55)),
    "hard": Difficulty((7, 13), 0.4, (0.4, 0.9), (0.4, 1.4), (8, 24), (0.3, 0.7)),
}

_KINDS = (
    # painter, least and greatest size by distance, how far from the road's middle (half widths)
    (objects.house, 0.3, 0.75, 1.2),
    (objects.tree, 0.25, 0.85, 1.1),
    (objects.ball, 0.3, 1.0, 0.0),
    (objects.pole, 0.35, 0.9, 0.5),
)


def render(
    height: int, width: int, difficulty: Difficulty, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render one scene.

    Returns:
        ``(H, W, 3)`` image and ``(H, W)`` class of every pixel centre.
    """
    canvas = Canvas(height, width, rng)
    setting = paint_background(canvas, rng)
    count = rng.integers(*difficulty.objects, endpoint=True)
    kinds = [_KINDS[i] for i in rng.permutation(np.arange(count) % len(_KINDS))]
    sizes = np.array([rng.uniform(least, greatest) for _, least, greatest, _ in kinds])
    for i in np.argsort(sizes):  # far things first
        painter, *_, aside = kinds[i]
        size = float(sizes[i])
        y = setting.horizon + (1 - setting.horizon) * size
        spot = objects.Spot(
            x=_place(rng, setting, canvas.aspect, y, aside),
            y=y,
            size=size,
            camouflage=difficulty.camouflage,
            shadow=float(rng.uniform(*difficulty.shadow)),
        )
        painter(canvas, rng, setting, spot)
    return _photograph(canvas.image, difficulty, rng), canvas.labels


def _place(
    rng: np.random.Generator, setting: Setting, aspect: float, y: float, aside: float
) -> float:
    """Draw where along the picture an object stands, beside the road if it must."""
    center, half = (float(value) for value in setting.road_at(y))
    x = float(rng.uniform(0.02, 0.98)) * aspect
    gap = aside * half
    if abs(x - center) < gap:
        x = center + gap if x > center else center - gap
    return x


def _photograph(
    image: Array, difficulty: Difficulty, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the picture as a camera would: contrast, lens blur, vignette, noise, 8 bits."""
    height, width = image.shape[:2]
    contrast = np.float32(rng.uniform(*difficulty.contrast))
    image = _blur(image, float(rng.uniform(*difficulty.blur)) * height / 96)
    image = 128 + contrast * (image - 128)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    image *= 1 - np.float32(rng.uniform(0, 0.12)) * (x * x + y * y)
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    image += np.float32(rng.uniform(*difficulty.noise)) * grain
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _blur(image: Array, sigma: float) -> Array:
    """Return the image under a separable Gaussian, edges repeated."""
    radius = max(1, round(2.5 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-3)) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    height, width = image.shape[:2]
    padded = np.pad(image, ((radius, radius), (0, 0), (0, 0)), mode="edge")
    rows = _weighted([padded[i : i + height] for i in range(len(taps))], taps)
    padded = np.pad(rows, ((0, 0), (radius, radius), (0, 0)), mode="edge")
    return _weighted([padded[:, i : i + width] for i in range(len(taps))], taps)


def _weighted(parts: list[Array], taps: Array) -> Array:
    total: Array = taps[0] * parts[0]
    for tap, part in zip(taps[1:], parts[1:], strict=True):
        total += tap * part
    return total

"""What stands in a scene: houses, trees, balls and poles, each with its shadow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semseg.data.scenes.background import (
    BALL,
    GROUND,
    GROUNDS,
    HOUSE,
    POLE,
    ROAD,
    ROADS,
    TREE,
    Setting,
    pick,
)
from semseg.data.scenes.canvas import Array, Canvas, Window, box, ellipse

_WALLS = ((224, 218, 208), (164, 90, 70), (206, 168, 106), (142, 142, 142), (136, 164, 190))
_ROOFS = ((146, 70, 54), (84, 88, 98), (112, 84, 66), (176, 104, 70))
_LEAVES = ((62, 108, 52), (96, 136, 62), (46, 84, 58), (186, 126, 52), (150, 142, 66))
_BALLS = ((214, 58, 52), (240, 190, 50), (52, 104, 196), (240, 236, 230), (236, 128, 44))
_POLES = ((168, 170, 172), (226, 224, 218), (74, 76, 82), (128, 100, 74))
_ANY = _WALLS + _ROOFS + _LEAVES + _BALLS + _POLES + GROUNDS + ROADS


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an object stands.

    Args:
        x: of its foot.
        y: of its foot.
        size: factor by its distance, 1 at the bottom edge of the picture.
        camouflage: probability that a colour is one of any class.
        shadow: darkness of its shadow.
    """

    x: float
    y: float
    size: float
    camouflage: float
    shadow: float


def choose(
    rng: np.random.Generator, spot: Spot, setting: Setting, colors: tuple[tuple[int, int, int], ...]
) -> Array:
    """Return a colour as it looks at that distance."""
    hidden = rng.random() < spot.camouflage
    color: Array = pick(rng, _ANY if hidden else colors) * setting.light
    color += (setting.haze - color) * np.float32(0.4 * max(0.0, 1 - spot.size) ** 2)
    return color


def house(canvas: Canvas, rng: np.random.Generator, setting: Setting, spot: Spot) -> None:
    """A box with two faces, windows, a door and a roof."""
    height = rng.uniform(0.45, 0.8) * spot.size
    half = rng.uniform(0.35, 0.8) * height
    rise = rng.uniform(0.25, 0.6) * half
    left, right, top = spot.x - half, spot.x + half, spot.y - height
    _shadow(canvas, setting, spot, half * 1.15, height)
    window = canvas.window(left - 0.1 * half, top - rise, right + 0.1 * half, spot.y)
    wall = choose(rng, spot, setting, _WALLS)
    corner = spot.x + setting.sun * rng.uniform(-0.6, 0.6) * half
    lit = np.where((window.x - corner) * setting.sun > 0, np.float32(1), np.float32(0.72))
    grain = 1 + 0.14 * canvas.fine[window.part]
    canvas.paint(
        window, box(window, left, top, right, spot.y), wall * (grain * lit)[..., None], HOUSE
    )
    cell = height / rng.integers(2, 4)
    across = np.abs(np.mod((window.x - left) / cell, 1) - 0.5)
    along = np.abs(np.mod((window.y - top) / cell, 1) - 0.45)
    panes = (np.maximum(across / 0.2, along / 0.27) < 1) & (
        box(window, left, top, right, spot.y) < -0.06 * height
    )
    glass = np.float32(rng.uniform(0.25, 0.9)) * setting.haze * np.float32(0.6)
    canvas.tint(window, 0.85 * panes.astype(np.float32), glass)
    eaves = half * 1.1
    flat = rng.uniform(0, 0.6) * half  # the ridge: 0 makes a gable
    slope = np.abs(window.x - spot.x) - flat - (eaves - flat) * (window.y - top + rise) / rise
    roof = np.maximum(slope * 0.7, np.maximum(window.y - top, top - rise - window.y))
    tiles = 1 + 0.22 * canvas.fine[window.part][..., None]
    canvas.paint(window, roof, choose(rng, spot, setting, _ROOFS) * tiles, HOUSE)


def tree(canvas: Canvas, rng: np.random.Generator, setting: Setting, spot: Spot) -> None:
    """A trunk under a crown: a lobed blob or a conifer."""
    height = rng.uniform(0.5, 0.9) * spot.size
    radius = rng.uniform(0.26, 0.4) * height
    _shadow(canvas, setting, spot, radius, height)
    trunk = radius * rng.uniform(0.1, 0.18)
    window = canvas.window(spot.x - trunk, spot.y - height, spot.x + trunk, spot.y)
    bark = np.array((98, 76, 58), np.float32) * setting.light
    stem = box(window, spot.x - trunk, spot.y - 0.6 * height, spot.x + trunk, spot.y)
    canvas.paint(window, stem, bark, TREE)
    window = canvas.window(
        spot.x - 1.5 * radius, spot.y - height - 0.3 * radius, spot.x + 1.5 * radius, spot.y
    )
    leaves = choose(rng, spot, setting, _LEAVES)
    ragged = 0.3 * canvas.fine[window.part] * radius
    if rng.random() < 0.3:
        down = (window.y - (spot.y - height)) / (0.85 * height)
        saw = 0.75 + 0.25 * np.mod(down * rng.integers(3, 6), 1)
        side = np.abs(window.x - spot.x) - radius * 0.95 * down * saw
        crown = np.maximum(side * 0.8, (down - 1) * 0.85 * height) + 0.4 * ragged
    else:
        dx, dy = window.x - spot.x, window.y - (spot.y - height + radius)
        angle = np.arctan2(dy, dx)
        lobes = rng.integers(4, 8)
        edge = radius * (1 + 0.1 * np.cos(lobes * angle + 6.3 * rng.random()))
        crown = np.sqrt(dx * dx + (dy * 0.92) ** 2) - edge + ragged
    shade = _side_light(window, spot.x, radius, setting) + 0.75 * canvas.fine[window.part]
    canvas.paint(window, crown.astype(np.float32), leaves * (1 + 0.5 * shade)[..., None], TREE)


def ball(canvas: Canvas, rng: np.random.Generator, setting: Setting, spot: Spot) -> None:
    """A lit sphere with stripes."""
    radius = rng.uniform(0.1, 0.17) * spot.size
    y = spot.y - radius
    _shadow(canvas, setting, spot, radius, 1.5 * radius)
    window = canvas.window(spot.x - radius, y - radius, spot.x + radius, spot.y)
    dx, dy = (window.x - spot.x) / radius, (window.y - y) / radius
    front = np.sqrt(np.maximum(0, 1 - dx * dx - dy * dy))
    turn = rng.uniform(0, np.pi)
    band = np.sin(rng.uniform(3, 7) * (dx * np.cos(turn) + dy * np.sin(turn)) + 6.3 * rng.random())
    first, second = (choose(rng, spot, setting, _BALLS) for _ in range(2))
    color = first + (second - first) * np.clip(0.5 + 4 * band, 0, 1)[..., None]
    lit = 0.5 + 0.6 * np.clip(0.5 * setting.sun * dx - 0.6 * dy + 0.6 * front, 0, 1)
    gloss = 120 * np.clip(0.5 * setting.sun * dx - 0.6 * dy + 0.62 * front, 0, 1) ** 16
    color = color * lit[..., None] + gloss[..., None]
    canvas.paint(window, ellipse(window, spot.x, y, radius, radius), color, BALL)


def pole(canvas: Canvas, rng: np.random.Generator, setting: Setting, spot: Spot) -> None:
    """A post, plain or banded, with a sign or a lamp on it."""
    height = rng.uniform(0.6, 1.0) * spot.size
    half = max(0.017, 0.032 * spot.size)
    top = spot.y - height
    _shadow(canvas, setting, spot, half, height)
    window = canvas.window(spot.x - half, top, spot.x + half, spot.y)
    color = choose(rng, spot, setting, _POLES)
    round_ = 0.8 + 0.3 * np.clip(setting.sun * (window.x - spot.x) / half, -1, 1)
    bands = 1 - 0.4 * (np.mod((window.y - top) / (5 * half), 1) < 0.5) * (rng.random() < 0.4)
    canvas.paint(
        window,
        box(window, spot.x - half, top, spot.x + half, spot.y),
        color * (round_ * bands)[..., None].astype(np.float32),
        POLE,
    )
    wide, tall = rng.uniform(2.2, 3.6) * half, rng.uniform(2, 3) * half
    window = canvas.window(spot.x - wide, top - tall, spot.x + wide, top + tall)
    shape = ellipse if rng.random() < 0.5 else _plate
    distance = shape(window, spot.x, top, wide, tall)
    face = choose(rng, spot, setting, _BALLS)
    canvas.paint(window, distance, face, POLE)
    inner = np.clip(0.5 - (distance + 0.35 * tall) * canvas.height, 0, 1)
    canvas.tint(window, inner, color)


def _plate(window: Window, x: float, y: float, across: float, along: float) -> Array:
    return box(window, x - across, y - along, x + across, y + along)


def _side_light(window: Window, x: float, radius: float, setting: Setting) -> Array:
    return np.clip(0.5 * setting.sun * (window.x - x) / radius, -0.5, 0.5)


def _shadow(canvas: Canvas, setting: Setting, spot: Spot, half: float, height: float) -> None:
    """Darken the ground on the side away from the sun."""
    reach = 0.45 * height * abs(setting.sun)
    x = spot.x - np.sign(setting.sun) * reach * 0.8
    across, along = half + reach, 0.22 * half + 0.03 * spot.size
    window = canvas.window(x - across, spot.y - along, x + across, spot.y + along)
    soft = np.clip(1 - 1.6 * ellipse(window, x, spot.y, across, along) / along - 1.2, 0, 1)
    labels = canvas.labels[window.part]
    soft *= (labels == GROUND) | (labels == ROAD)
    image = canvas.image[window.part]
    image *= 1 - (spot.shadow * soft)[..., None]

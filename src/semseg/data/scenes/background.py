"""What lies behind the objects of a scene: sky, hills, ground and a road."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semseg.data.scenes.canvas import Array, Canvas, weights

SKY, HILL, GROUND, ROAD, HOUSE, TREE, BALL, POLE = range(8)

_SKIES = (  # zenith, horizon, light on everything below
    ((84, 142, 214), (196, 219, 236), (1.00, 1.00, 0.97)),
    ((140, 147, 160), (206, 207, 210), (0.88, 0.90, 0.93)),
    ((98, 98, 156), (250, 184, 134), (1.05, 0.90, 0.80)),
    ((126, 158, 196), (250, 220, 196), (1.03, 0.96, 0.90)),
    ((56, 66, 112), (168, 128, 146), (0.74, 0.72, 0.84)),
)
_HILLS = ((92, 118, 132), (104, 124, 92), (132, 116, 100), (88, 96, 104), (120, 134, 110))
GROUNDS = ((98, 138, 64), (72, 112, 60), (168, 152, 92), (196, 178, 138), (132, 110, 84))
ROADS = ((112, 112, 114), (152, 148, 142), (134, 114, 92), (84, 86, 92))


@dataclass(frozen=True, slots=True)
class Setting:
    """What the objects must know of the place they stand in.

    Args:
        horizon: its height on the picture.
        haze: colour of far things.
        light: factor on colours, ``(3,)``.
        sun: side the light comes from, -1 left … 1 right.
        road: where the road meets the bottom edge and the horizon, its curve and its half width
            at the bottom edge.
    """

    horizon: float
    haze: Array
    light: Array
    sun: float
    road: tuple[float, float, float, float]

    def road_at(self, y: Array | float) -> tuple[Array, Array]:
        """Return centre and half width of the road at heights ``y`` of the picture."""
        near, far, curve, half = self.road
        t = np.clip((np.asarray(y, np.float32) - self.horizon) / (1 - self.horizon), 0, 1.2)
        return far + (near - far) * t + curve * t * (1 - t), half * t + 0.006


def paint_background(canvas: Canvas, rng: np.random.Generator) -> Setting:
    """Paint everything behind the objects."""
    zenith, low, light = (np.array(c, np.float32) for c in _SKIES[rng.integers(len(_SKIES))])
    aspect = canvas.aspect
    setting = Setting(
        horizon=float(rng.uniform(0.3, 0.52)),
        haze=low,
        light=light * np.float32(rng.uniform(0.85, 1.1)),
        sun=float(rng.choice([-1, 1]) * rng.uniform(0.35, 1)),
        road=(
            float(rng.uniform(-0.1, 1.1) * aspect),
            float(rng.uniform(0.1, 0.9) * aspect),
            float(rng.normal(0, 0.35)),
            float(rng.uniform(0.14, 0.4)),
        ),
    )
    _sky(canvas, rng, setting, zenith)
    for layer in range(rng.integers(1, 4)):
        _hill(canvas, rng, setting, layer)
    _ground(canvas, rng, setting)
    if rng.random() < 0.85:
        _road(canvas, rng, setting)
    return setting


def pick(rng: np.random.Generator, colors: tuple[tuple[int, int, int], ...]) -> Array:
    """Return one of the colours, a little changed."""
    chosen = np.array(colors[rng.integers(len(colors))], np.float32)
    return chosen + rng.normal(0, 7, 3).astype(np.float32) + np.float32(rng.normal(0, 8))


def _sky(canvas: Canvas, rng: np.random.Generator, setting: Setting, zenith: Array) -> None:
    window = canvas.window()
    depth = np.minimum(window.y / setting.horizon, 1)[..., None] ** np.float32(1.3)
    canvas.image[:] = zenith + (setting.haze - zenith) * depth
    canvas.labels[:] = SKY
    amount = rng.uniform(-0.3, 0.9)
    clouds = canvas.coarse + 0.5 * canvas.noise(rng, 16) + 0.15 * canvas.fine
    white = np.float32(0.75) * setting.haze + np.float32(66)
    canvas.tint(window, np.clip(amount * (0.25 + 3 * clouds), 0, 0.85), white)


def _hill(canvas: Canvas, rng: np.random.Generator, setting: Setting, layer: int) -> None:
    window = canvas.window(bottom=setting.horizon + 0.03)
    x = window.x[0]
    rough = weights(x * (2 + 2 * layer) + 50 * rng.random(), 50) @ rng.random(51, dtype=np.float32)
    detail = weights(x * 24 + 50 * rng.random(), 50) @ rng.random(51, dtype=np.float32)
    height = rng.uniform(0.06, 0.24) / (1 + layer)
    ridge = setting.horizon + 0.01 - height * rough - 0.012 * detail
    color = pick(rng, _HILLS) * setting.light
    color = color + (setting.haze - color) * np.float32(0.55 - 0.2 * layer)
    texture = (26 * canvas.coarse + 14 * canvas.fine)[window.part][..., None]
    canvas.paint(window, ridge - window.y, color + texture, HILL)


def _ground(canvas: Canvas, rng: np.random.Generator, setting: Setting) -> None:
    window = canvas.window(top=setting.horizon)
    t = np.maximum((window.y - setting.horizon) / (1 - setting.horizon), 0)
    depth = 1 / (t[:, 0] + 0.12)
    rows, columns = weights(depth * 9, 64), weights(window.x[0] * 26, 48)
    tufts = rows @ (rng.random((65, 49), dtype=np.float32) - 0.5) @ columns.T
    patches = canvas.coarse[window.part]
    color, other = pick(rng, GROUNDS), pick(rng, GROUNDS)
    mixed = color + (other - color) * np.clip(0.3 + 1.2 * patches, 0, 1)[..., None]
    mixed = mixed * setting.light + (34 * tufts + 18 * canvas.fine[window.part])[..., None]
    mixed += (setting.haze - mixed) * (0.35 * (1 - np.minimum(t, 1)) ** 3)[..., None]
    canvas.paint(window, np.broadcast_to(setting.horizon - window.y, tufts.shape), mixed, GROUND)


def _road(canvas: Canvas, rng: np.random.Generator, setting: Setting) -> None:
    window = canvas.window(top=setting.horizon + 0.01)
    center, half = setting.road_at(window.y)
    aside = np.abs(window.x - center)
    color = pick(rng, ROADS) * setting.light
    grain = (20 * canvas.fine + 14 * canvas.coarse)[window.part][..., None]
    canvas.paint(window, aside - half, color + grain, ROAD)
    if rng.random() < 0.7:  # dashes, even in depth
        t = (window.y - setting.horizon) / (1 - setting.horizon)
        dash = np.mod(rng.random() + 1.6 / (t + 0.1), 1) < 0.5
        line = np.clip(0.5 + (0.05 * half - aside) * canvas.height, 0, 0.9) * dash
        canvas.tint(window, line.astype(np.float32), np.float32(226) * setting.light)

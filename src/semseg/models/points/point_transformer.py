r"""Point Transformer: every point attends to its nearest points, with weights for each channel.

Paper:
    Zhao, Jiang, Jia, Torr, Koltun. "Point Transformer." ICCV 2021. arXiv:2012.09164, sections 3.2
    to 3.5. Layers follow the first author's code, POSTECH-CVLab/point-transformer,
    ``model/pointtransformer/pointtransformer_seg.py``.

Shapes (packed clouds of N points; N/4 is rounded down for each cloud; C features, w = 32):
    coordinates, features   (N, 3), (N, C)      the network begins with both, (N, 3 + C)
    down 1                  (N, w)              1 attention block, 8 neighbours
    down 2 … 5              (N/4, 2w), (N/16, 4w), (N/64, 8w), (N/256, 16w)
                                                2, 3, 5 and 2 attention blocks, 16 neighbours
    up 5 … 1                the same shapes in reverse, one attention block each
    logits                  (N, K)

Parameters:
    7,767,729 at K = 13 with 3 features (colours) besides the coordinates; 7,767,960 at K = 20.
    Counted from the authors' code. The paper states 7.8 M.

Deviations:
    - Furthest point sampling begins with a cloud's first point, as the authors' operator does. So
      permuting the points permutes the output only if each cloud's first point stays its first;
      with ``start="lowest"`` it begins with the point of least x (then y, then z), and any
      permutation will do. Both hold up to points that lie equally far.
    - Of equally near points, those that come first are neighbours; in the authors' operator the
      state of a heap decides.
    - Neighbours are searched once for each scale and not in each layer; they are the same.
    - The paper's equation 3 has a weight for every channel. In the code, and here, the channels
      are in 8 groups, and channels at one place of every group share theirs. Equation 3 subtracts
      keys from queries; the code does the reverse, as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.clouds import Clouds
from semseg.core.preprocess import Preprocessing
from semseg.models.base import ModelConfig, Published, register
from semseg.models.clouds import CloudModel
from semseg.nn.points import PointNorm, Scale, cloud_means, interpolate, relative

GROUPS = 8
"""Channels at one place of each group share a weight."""

STRIDE = 4
"""Points of a scale for each point of the next."""

NEIGHBOURS = (8, 16, 16, 16, 16)
"""Points that each one attends to, by scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PointTransformerConfig(ModelConfig):
    """Settings of :class:`PointTransformer`; ``in_channels`` counts features, not coordinates."""

    num_classes: int = 13

    width: int = 32
    """Channels of the finest scale; each of the others has twice those before."""

    blocks: tuple[int, ...] = (1, 2, 3, 5, 2)
    """Attention blocks of the five scales on the way down."""

    start: Literal["first", "lowest"] = "first"
    """The point that furthest point sampling begins with: each cloud's first, or that of the
    lowest coordinates, which does not depend on the order of the points."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.width < GROUPS or self.width % GROUPS:
            raise InputError(f"PointTransformer takes a width divisible by 8, got {self.width}")
        if len(self.blocks) != len(NEIGHBOURS) or min(self.blocks) < 0:
            raise InputError(
                f"PointTransformer takes blocks for 5 scales, 0 or more each, got {self.blocks}"
            )
        if self.start not in ("first", "lowest"):
            raise InputError(
                f"PointTransformer starts at the 'first' or the 'lowest' point, got {self.start!r}"
            )


class Attention(nn.Module):
    """Vector attention (equation 3) over the neighbours of each point."""

    def __init__(self, width: int) -> None:
        super().__init__()
        shared = width // GROUPS
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.position = nn.Sequential(
            nn.Linear(3, 3), PointNorm(3), nn.ReLU(inplace=True), nn.Linear(3, width)
        )
        self.weight = nn.Sequential(
            *(PointNorm(width), nn.ReLU(inplace=True), nn.Linear(width, shared)),
            *(PointNorm(shared), nn.ReLU(inplace=True), nn.Linear(shared, shared)),
        )

    def forward(self, x: Tensor, seen: Tensor, index: Tensor) -> Tensor:
        """Return ``(N, C)`` from features, neighbours ``(N, k)`` and where they are seen."""
        position = self.position(seen)
        weight = self.weight(self.key(x)[index] - self.query(x)[:, None] + position)
        weight = weight.softmax(1)
        values = (self.value(x)[index] + position).unflatten(-1, (GROUPS, -1))
        attended: Tensor = (values * weight[:, :, None]).sum(1)
        return attended.flatten(1)


class Block(nn.Module):
    """Attention between two linear layers, around which a residual goes (figure 4 a)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = linear_norm(width, width)
        self.attention = Attention(width)
        self.norm = PointNorm(width)
        self.after = linear_norm(width, width)

    def forward(self, x: Tensor, seen: Tensor, index: Tensor) -> Tensor:
        """Return ``(N, C)``."""
        inner = self.attention(F.relu(self.before(x)), seen, index)
        return F.relu(x + self.after(F.relu(self.norm(inner))))


class Down(nn.Module):
    """Features of the sampled points: the greatest among their neighbours (figure 4 b)."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.linear = linear_norm(3 + cin, cout)

    def forward(self, x: Tensor, fine: Scale, coarse: Scale, k: int) -> Tensor:
        """Return ``(M, C)`` of the coarse scale."""
        index = fine.neighbours(k, coarse)
        seen = relative(fine.points, coarse.points, index)
        return F.relu(self.linear(torch.cat([seen, x[index]], -1))).amax(1)


class Up(nn.Module):
    """Features of the coarser scale added to those of the finer one (figure 4 c)."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.side = linear_norm(fine, fine, bias=True)
        self.below = linear_norm(coarse, fine, bias=True)

    def forward(self, x: Tensor, skip: Tensor, coarse: Scale, fine: Scale) -> Tensor:
        """Return ``(N, C)`` of the fine scale."""
        return F.relu(self.side(skip)) + interpolate(F.relu(self.below(x)), coarse, fine)


class Deepest(nn.Module):
    """Features beside the mean of their cloud."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both = linear_norm(2 * width, width, bias=True)
        self.mean = nn.Linear(width, width)

    def forward(self, x: Tensor, scale: Scale) -> Tensor:
        """Return ``(N, C)``."""
        means = F.relu(self.mean(cloud_means(x, scale.sizes)))
        spread = [m.expand(size, -1) for m, size in zip(means, scale.sizes, strict=True)]
        return F.relu(self.both(torch.cat([x, torch.cat(spread)], 1)))


@register(
    "point_transformer",
    PointTransformerConfig(),
    title="Point Transformer",
    paper="arXiv:2012.09164",
    year=2021,
    idea="Every point attends to its nearest points, with weights for each channel.",
    repository="https://github.com/POSTECH-CVLab/point-transformer",
    num_params=7_767_729,
    paper_size=(1, 80_000),
    published=(
        Published("S3DIS Area 5", 70.4, "paper, Table 1"),
        Published("S3DIS 6-fold", 73.5, "paper, Table 2"),
        Published("S3DIS Area 5, released code", 70.0, "authors' README"),
    ),
    preprocessing=Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    verified="reference output",
    small={"width": 8, "blocks": (1, 1, 1, 1, 1)},
)
class PointTransformer(CloudModel):
    """A U-Net over points whose every layer is attention to neighbours.

    Args:
        config: classes, features, width.
    """

    min_points = STRIDE ** (len(NEIGHBOURS) - 1)

    def __init__(self, config: PointTransformerConfig) -> None:
        super().__init__(config)
        self.start = config.start
        widths = [config.width * 2**i for i in range(len(NEIGHBOURS))]
        finest, deepest = widths[0], widths[-1]
        self.first = linear_norm(3 + config.in_channels, finest)
        self.down = nn.ModuleList(map(Down, widths, widths[1:]))
        self.attend_down = nn.ModuleList(
            nn.ModuleList(Block(width) for _ in range(count))
            for width, count in zip(widths, config.blocks, strict=True)
        )
        self.deepest = Deepest(deepest)
        self.up = nn.ModuleList(map(Up, widths[1:], widths))
        self.attend_up = nn.ModuleList(map(Block, widths))
        self.head = nn.Sequential(
            *(nn.Linear(finest, finest), PointNorm(finest), nn.ReLU(inplace=True)),
            nn.Linear(finest, config.num_classes),
        )

    def forward_heads(self, clouds: Clouds) -> dict[str, Tensor]:  # type: ignore[override]
        """Return ``"logits"`` ``(N, K)``."""
        scales = self.scales(clouds)
        around = []
        for scale, k in zip(scales, NEIGHBOURS, strict=True):
            index = scale.neighbours(k)
            around.append((relative(scale.points, scale.points, index), index))
        x = F.relu(self.first(torch.cat([clouds.coordinates, clouds.features], 1)))
        skips = []
        for i, blocks in enumerate(self.attend_down):
            if i:
                x = self.down[i - 1](x, scales[i - 1], scales[i], NEIGHBOURS[i])
            for block in blocks.children():
                x = block(x, *around[i])
            skips.append(x)
        x = self.attend_up[-1](self.deepest(x, scales[-1]), *around[-1])
        for i in reversed(range(len(self.up))):
            x = self.up[i](x, skips[i], scales[i + 1], scales[i])
            x = self.attend_up[i](x, *around[i])
        return {"logits": self.head(x)}

    def scales(self, clouds: Clouds) -> list[Scale]:
        """Return the points of the five scales."""
        self._check_norms(clouds.sizes)
        scales = [Scale(clouds.coordinates, clouds.offsets)]
        while len(scales) < len(NEIGHBOURS):
            scale = scales[-1]
            starts = lowest(scale) if self.start == "lowest" else None
            scales.append(scale.coarser(STRIDE, starts))
        return scales

    def _check_norms(self, sizes: list[int]) -> None:
        least = 2 * self.min_points
        if self.training and len(sizes) == 1 and sizes[0] < least:
            raise InputError(
                f"PointTransformer cannot train on a single cloud of {sizes[0]} points: a single "
                "one is left on the coarsest scale, which batch normalisation turns into zeros; "
                f"take two clouds or {least} points"
            )


def lowest(scale: Scale) -> Tensor:
    """Return the position of each cloud's point of least x, of these of least y, then z."""
    starts = []
    for points, end in zip(torch.split(scale.points, scale.sizes), scale.offsets, strict=True):
        order = torch.arange(len(points), device=points.device)
        for axis in (2, 1, 0):
            order = order[points[order, axis].argsort(stable=True)]
        starts.append(order[0] + (end - len(points)))
    return torch.stack(starts)


def linear_norm(cin: int, cout: int, bias: bool = False) -> nn.Sequential:
    """Linear layer and normalisation; the activation is the caller's."""
    return nn.Sequential(nn.Linear(cin, cout, bias=bias), PointNorm(cout))

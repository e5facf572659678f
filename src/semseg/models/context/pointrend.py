r"""PointRend: coarse scores become fine by asking again at the points where they are uncertain.

Paper:
    Kirillov, Wu, He, Girshick. "PointRend: Image Segmentation as Rendering." CVPR 2020.
    arXiv:1912.08193, sections 3 and 5. What the text leaves open follows the authors' code,
    ``projects/PointRend`` of detectron2, with its SemanticFPN as coarse network.

Shapes (H, W divisible by 32; P points, at most 8,192):
    images       (N, C, H, W)
    pyramid      (N, 256, H/32, W/32), ... (N, 256, H/4, W/4)   1x1 of the trunk + doubled coarser,
                                  then 3x3
    coarse       (N, K, H/4, W/4)   each level by 3x3 to 128 and doublings to stride 4; 1x1 on
                                  their sum
    points       (N, K, P)   three layers of 256 on finest level and coarse scores at each place
    logits       (N, K, H, W)   coarse scores doubled twice, each time the most uncertain points
                                  replaced; while training the coarse scores

Parameters:
    47,677,926 at K = 19 over ResNet-101: 42,500,160 of the trunk, 4,970,643 of the coarse network
    and 207,123 of the points.

Deviations:
    - The trunk is torchvision's ResNet; the authors' is MSRA's of Caffe, which strides in the first
      1x1 and whose norms are frozen.
    - With one channel a point is uncertain where its score is near zero, as the authors have it
      for masks of objects.
    - In prediction ``"points"`` and ``"places"`` are those of the last doubling, so that a loss can
      be had there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.nn.norm import check_batch_norm

STRIDES = (32, 16, 8, 4)
"""Strides of the pyramid's levels, coarsest first."""

DEPTH, BRANCH = 256, 128
"""Channels of the pyramid and of the points' layers, and of the branches."""

DOUBLINGS = 2
"""From stride 4 to the image."""

DRAWN, KEPT = 3, 0.75
"""In training: points drawn for each that is wanted, and share that is taken for uncertainty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PointRendConfig(ModelConfig):
    """Settings of :class:`PointRend`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    encoder: str = "resnet101.tv_in1k"
    """Trunk with features at strides 4 to 32."""

    points: int = 8192
    """Points that are asked again at each doubling."""

    train_points: int = 2048
    """Points of each image that are trained on."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if min(self.points, self.train_points) < 1:
            raise InputError(
                "PointRend takes at least one point in prediction and in training, "
                f"got {self.points} and {self.train_points}"
            )


# ---- points ------------------------------------------------------------------------------------


def uncertainty(scores: Tensor) -> Tensor:
    """Return how near the best two classes are, at most 0: ``(N, K, ...) -> (N, ...)``.

    Example:
        >>> uncertainty(torch.tensor([[3.0, 1.0, 2.0]])).item()
        -1.0
    """
    if scores.shape[1] == 1:
        return -scores[:, 0].abs()
    best = scores.topk(2, dim=1).values
    return best[:, 1] - best[:, 0]


def sample(features: Tensor, places: Tensor) -> Tensor:
    """Return features at places, bilinear: ``(N, C, h, w), (N, P, 2) -> (N, C, P)``.

    Places are (x, y) from 0 to 1, from one edge of the image to the other.
    """
    grid = 2 * places[:, :, None] - 1
    return F.grid_sample(features.to(grid), grid, align_corners=False)[..., 0]


def uncertain_places(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return where scores ``(N, K, h, w)`` are least certain: places ``(N, P, 2)``, indices."""
    height, width = scores.shape[-2:]
    index = uncertainty(scores).flatten(1).topk(min(count, height * width), dim=1).indices
    kind = torch.promote_types(scores.dtype, torch.float32)
    x, y = (index % width).to(kind), (index // width).to(kind)
    return torch.stack([(x + 0.5) / width, (y + 0.5) / height], dim=2), index


def drawn_places(scores: Tensor, count: int) -> Tensor:
    """Return random places ``(N, count, 2)``, three quarters of them where scores are uncertain."""
    kind = torch.promote_types(scores.dtype, torch.float32)
    options = {"dtype": kind, "device": scores.device}
    drawn = torch.rand(len(scores), DRAWN * count, 2, **options)  # type: ignore[call-overload]
    kept = int(KEPT * count)
    best = uncertainty(sample(scores, drawn)).topk(kept, dim=1).indices
    chosen = drawn.gather(1, best[:, :, None].expand(-1, -1, 2))
    rest = torch.rand(len(scores), count - kept, 2, **options)  # type: ignore[call-overload]
    return torch.cat([chosen, rest], dim=1)


def labels_at(target: Tensor, places: Tensor) -> Tensor:
    """Return the labels under places: ``(N, H, W), (N, P, 2) -> (N, P)``."""
    height, width = target.shape[-2:]
    x = (places[..., 0] * width).long().clamp(0, width - 1)
    y = (places[..., 1] * height).long().clamp(0, height - 1)
    return target.flatten(1).gather(1, y * width + x)


# ---- the network -------------------------------------------------------------------------------


class Pyramid(nn.Module):
    """Features of a trunk to ``(N, 256, H/s, W/s)`` for s in :data:`STRIDES`."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.places = [encoder.index_of(stride) for stride in STRIDES]
        self.lateral = nn.ModuleList(
            nn.Conv2d(encoder.channels[place], DEPTH, 1) for place in self.places
        )
        self.smooth = nn.ModuleList(nn.Conv2d(DEPTH, DEPTH, 3, padding=1) for _ in STRIDES)
        for conv in (*self.lateral, *self.smooth):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the levels, coarsest first."""
        levels: list[Tensor] = []
        x: Tensor | None = None
        for place, lateral, smooth in zip(self.places, self.lateral, self.smooth, strict=True):
            side = lateral(features[place])
            x = side if x is None else side + F.interpolate(x, scale_factor=2.0, mode="nearest")
            levels.append(smooth(x))
        return levels


def branch(doublings: int) -> nn.Sequential:
    """One level on its way to stride 4: ``(N, 256, h, w) -> (N, 128, H/4, W/4)``."""
    layers: list[nn.Module] = []
    for i in range(max(1, doublings)):
        conv = nn.Conv2d(DEPTH if i == 0 else BRANCH, BRANCH, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers += [conv, nn.GroupNorm(32, BRANCH), nn.ReLU(inplace=True)]
        if doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
    return nn.Sequential(*layers)


class PointHead(nn.Module):
    """Scores of points: ``(N, 256, P)`` features and ``(N, K, P)`` scores to ``(N, K, P)``."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        widths = (DEPTH + num_classes, DEPTH, DEPTH, DEPTH)
        layers = [nn.Conv1d(cin, cout, 1) for cin, cout in pairwise(widths)]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Conv1d(DEPTH, num_classes, 1)
        for conv in layers:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return new scores."""
        x = torch.cat([fine, coarse], dim=1)
        for layer in self.layers:
            x = F.relu(layer(x))
        out: Tensor = self.head(x)
        return out


@register(
    "pointrend",
    PointRendConfig(),
    title="PointRend (SemanticFPN, ResNet-101)",
    paper="arXiv:1912.08193",
    year=2020,
    idea="Segmentation as rendering: coarse scores are doubled step by step, and only the points "
    "at which they are uncertain are computed anew, from fine features.",
    repository="https://github.com/facebookresearch/detectron2",
    num_params=47_677_926,
    paper_size=(1024, 2048),
    published=(
        Published("Cityscapes val", 78.9, "README of projects/PointRend: SemanticFPN, ResNet-101"),
    ),
    verified="reference output",
    small={"encoder": "test_resnet", "points": 256, "train_points": 128},
)
class PointRend(SegmentationModel):
    """SemanticFPN with scores by point; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    aux_weights: ClassVar[dict[str, float]] = {"points": 1.0}

    def __init__(self, config: PointRendConfig) -> None:
        super().__init__(config)
        self.points, self.train_points = config.points, config.train_points
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.multiple_of = max(self.encoder.strides)
        self.pyramid = Pyramid(self.encoder)
        self.branches = nn.ModuleList(branch(doublings) for doublings in (3, 2, 1, 0))
        self.head = nn.Conv2d(BRANCH, config.num_classes, 1)
        nn.init.kaiming_normal_(self.head.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.point_head = PointHead(config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``, and scores of ``"points"`` with their ``"places"``.

        The logits are of stride 1, and of stride 4 while training.

        Raises:
            InputError: one image in training mode whose features are a single pixel.
        """
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), self.training)
        levels = self.pyramid(self.encoder(images))
        brought = [branch(level) for branch, level in zip(self.branches, levels, strict=True)]
        coarse, fine = self.head(sum(brought[1:], start=brought[0])), levels[-1]
        if self.training:
            places = drawn_places(coarse.detach(), self.train_points)
            return {
                "logits": coarse,
                "points": self.scores_at(places, fine, coarse),
                "places": places,
            }
        logits, points, places = self.refine(fine, coarse)
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "points": points, "places": places}

    def scores_at(self, places: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return scores ``(N, K, P)`` from the finest level and the coarse scores at places."""
        scores: Tensor = self.point_head(sample(fine, places), sample(coarse, places))
        return scores

    def refine(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores at stride 1, and scores and places of the last points asked."""
        logits, points, places = coarse, coarse.flatten(2), coarse
        for _ in range(DOUBLINGS):
            logits = F.interpolate(logits, scale_factor=2.0, mode="bilinear")
            places, index = uncertain_places(logits, self.points)
            points = self.scores_at(places, fine, coarse)
            where = index[:, None].expand(-1, logits.shape[1], -1)
            logits = logits.flatten(2).scatter(2, where, points.to(logits)).view(logits.shape)
        return logits, points, places

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the criterion of the map and that of the points."""
        height, width = target.shape[-2:]
        rows, columns = self.padded_size((height, width))
        ignore = 255 if self.config.num_classes <= 255 else 65535
        padded = F.pad(target, (0, columns - width, 0, rows - height), value=ignore)
        labels = labels_at(padded, heads["places"])
        points = criterion(heads["points"][..., None], labels[..., None])
        return {
            "logits": self.head_loss(heads["logits"], target, criterion),
            "points": self.aux_weights["points"] * points,
        }

r"""Mask2Former: queries look inside the masks they have drawn so far, on three scales in turn.

Paper:
    Cheng, Misra, Schwing, Kirillov, Girdhar. "Masked-attention Mask Transformer for Universal
    Image Segmentation." CVPR 2022. arXiv:2112.01527, section 3. Details follow the authors' code
    and its settings for semantic segmentation of ADE20K.

Shapes (H, W divisible by 32; w = width, the paper's 256; Q queries):
    images       (N, C, H, W)
    features     (N, 256, H/4, W/4), (N, 512, H/8, W/8), (N, 1024, H/16, W/16),
                 (N, 2048, H/32, W/32)
    scales       (N, w, H/32, W/32), (N, w, H/16, W/16), (N, w, H/8, W/8)   of deformable attention
    pixels       (N, w, H/4, W/4)
    masks        (N, Q, H/4, W/4)   last; masks1 … masks9 before each layer of the decoder
    classes      (N, Q, K + 1)      likewise; the last class means nothing
    logits       (N, K, H/4, W/4)   from masks and classes

Parameters:
    44,041,367 with ResNet-50 at K = 150 and Q = 100.

Deviations:
    - Logits are the logarithms of the authors' scores, which have the same order, and are put
      together at the masks' size; the authors enlarge the masks first.
    - Deformable attention reads its points by ``grid_sample``, scale by scale, for the authors'
      CUDA kernel; the numbers are the same.
    - Norms of the trunk learn; the authors keep those of ResNets frozen.
    - Losses of several devices are normalised on each; the authors count masks on all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.attention import to_map, to_tokens
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.transformer.matching import Weights, semantic_scores
from semseg.models.transformer.queries import (
    GROUPS,
    HEADS,
    STRIDES,
    QueryAttention,
    Size,
    check_width,
    ffn,
    layers_loss,
    mask_mlp,
    masks_of,
    sine_positions,
    tables_of,
)

SCALES, POINTS = 3, 4
"""Scales of attention, and points that each head of it reads per scale."""

FFN_PIXELS, FFN_QUERIES = 1024, 2048
"""Hidden widths of the two kinds of layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mask2FormerConfig(ModelConfig):
    """Settings of :class:`Mask2Former`."""

    encoder: str = "resnet50.tv_in1k"
    """Trunk with features at strides 4 to 32."""

    width: int = 256
    """Channels of all that follows, a multiple of 32. With 32 itself a norm has one channel, and
    images need more than 32 pixels along a side."""

    queries: int = 100
    """Q, at least as many as there are classes in one image."""

    pixel_layers: int = 6
    """Layers of deformable attention."""

    query_layers: int = 9
    """Layers of the decoder; they take the three scales in turn."""

    points: int = 12544
    """At which masks are compared in the loss."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        check_width("Mask2Former", self.width)
        least = min(self.queries, self.pixel_layers, self.query_layers)
        if least < 1 or self.points < 4:
            raise InputError(
                "Mask2Former needs at least 1 query and layer of each kind and 4 points, got "
                f"{self.queries}, {self.pixel_layers}, {self.query_layers} and {self.points}"
            )


class DeformableAttention(nn.Module):
    """Every pixel of every scale reads a few points of each: ``(N, S, w) -> (N, S, w)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offsets = nn.Linear(width, HEADS * SCALES * POINTS * 2)
        self.shares = nn.Linear(width, HEADS * SCALES * POINTS)
        self.values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        for layer in (self.offsets, self.shares):
            nn.init.zeros_(layer.weight)
        for layer in (self.shares, self.values, self.out):
            nn.init.zeros_(layer.bias)
        for layer in (self.values, self.out):
            nn.init.xavier_uniform_(layer.weight)
        turn = torch.arange(HEADS) * (2 * math.pi / HEADS)
        way = torch.stack([turn.cos(), turn.sin()], dim=1)
        way = way / way.abs().amax(dim=1, keepdim=True)  # each head looks to another side
        far = torch.arange(1, POINTS + 1)[:, None]
        start = (way[:, None, None] * far).expand(-1, SCALES, -1, -1)
        self.offsets.bias = nn.Parameter(start.flatten().clone())

    def forward(self, x: Tensor, positions: Tensor, places: Tensor, sizes: list[Size]) -> Tensor:
        """Return what the pixels read.

        Args:
            x: pixels of all scales, one scale after the other.
            positions: added to those that ask.
            places: ``(S, 2)`` x and y of the pixels in [0, 1].
            sizes: of the scales.
        """
        n, count, width = x.shape
        asking = x + positions
        offsets = self.offsets(asking).unflatten(-1, (HEADS, SCALES, POINTS, 2))
        shares = self.shares(asking).unflatten(-1, (HEADS, SCALES * POINTS)).softmax(-1)
        shares = shares.unflatten(-1, (SCALES, POINTS)).transpose(1, 2).flatten(0, 1)
        values = torch.split(self.values(x), [h * w for h, w in sizes], dim=1)
        total = x.new_zeros(n * HEADS, width // HEADS, count)
        for i, (height, side) in enumerate(sizes):
            scale = offsets.new_tensor([side, height])
            grid = 2 * (places[None, :, None, None] + offsets[:, :, :, i] / scale) - 1
            grid = grid.transpose(1, 2).flatten(0, 1)  # (N * heads, S, points, 2)
            maps = to_map(values[i], (height, side)).reshape(n * HEADS, -1, height, side)
            read = F.grid_sample(maps, grid, align_corners=False)
            total = total + (read * shares[:, None, :, i]).sum(-1)
        out: Tensor = self.out(total.reshape(n, width, count).transpose(1, 2))
        return out


class PixelLayer(nn.Module):
    """Deformable attention and an MLP, each normalised with its input: ``(N, S, w)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn = ffn(width, FFN_PIXELS)

    def forward(self, x: Tensor, positions: Tensor, places: Tensor, sizes: list[Size]) -> Tensor:
        """Return the new pixels; arguments as :class:`DeformableAttention` takes them."""
        x = self.norm1(x + self.attention(x, positions, places, sizes))
        out: Tensor = self.norm2(x + self.ffn(x))
        return out


class PixelDecoder(nn.Module):
    """Features to three scales and to the pixels of the masks.

    Args:
        channels: of the features, finest first.
        width: w.
        layers: of deformable attention.
    """

    def __init__(self, channels: list[int], width: int, layers: int) -> None:
        super().__init__()
        finest, *deeper = channels
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(GROUPS, width)) for c in deeper[::-1]
        )
        self.scale = nn.Parameter(torch.randn(SCALES, width))
        self.layers = nn.ModuleList(PixelLayer(width) for _ in range(layers))
        self.lateral = nn.Sequential(
            nn.Conv2d(finest, width, 1, bias=False), nn.GroupNorm(GROUPS, width)
        )
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, width),
            nn.ReLU(inplace=True),
        )
        self.out = nn.Conv2d(width, width, 1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight, a=1)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        for conv in self.project.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the pixels and the scales, coarsest first; features are finest first."""
        finest, *deeper = features
        maps = [project(x) for project, x in zip(self.project, deeper[::-1], strict=True)]
        sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
        width = self.scale.shape[1]
        x = torch.cat([to_tokens(m) for m in maps], dim=1)
        positions = torch.cat(
            [sine_positions(s, width, x) + self.scale[i] for i, s in enumerate(sizes)], dim=1
        )
        places = torch.cat([centres(size, x) for size in sizes])
        for layer in self.layers:
            x = layer(x, positions, places, sizes)
        parts = torch.split(x, [h * w for h, w in sizes], dim=1)
        scales = [to_map(part, size) for part, size in zip(parts, sizes, strict=True)]
        side = self.lateral(finest)
        above = F.interpolate(scales[-1], side.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(self.smooth(side + above)), scales


def centres(size: Size, like: Tensor) -> Tensor:
    """Return ``(h * w, 2)`` x and y of a map's pixels in [0, 1], row by row."""
    height, width = size
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], 2).flatten(0, 1)


class QueryLayer(nn.Module):
    """Attention to a scale, then to each other, then an MLP, each normalised with its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross, self.own = QueryAttention(width), QueryAttention(width)
        self.ffn = ffn(width, FFN_QUERIES)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, x: Tensor, places: Tensor, tokens: Tensor, positions: Tensor, allowed: Tensor
    ) -> Tensor:
        """Return the new queries ``(N, Q, w)``; ``places`` and ``positions`` are added to look."""
        x = self.norm1(x + self.cross(x + places, tokens + positions, tokens, allowed))
        x = self.norm2(x + self.own(x + places, x + places, x))
        out: Tensor = self.norm3(x + self.ffn(x))
        return out


@register(
    "mask2former",
    Mask2FormerConfig(num_classes=150),
    title="Mask2Former (ResNet-50)",
    paper="arXiv:2112.01527",
    year=2022,
    idea="A query needs to look only where its mask is, so attention is masked by what each layer "
    "has predicted before.",
    repository="https://github.com/facebookresearch/Mask2Former",
    num_params=44_041_367,
    paper_size=(512, 512),
    published=(Published("ADE20K val", 47.2, "paper, Table 5: R50, single scale"),),
    verified="reference output",
    small={
        "encoder": "test_resnet",
        "width": 64,
        "queries": 12,
        "pixel_layers": 2,
        "query_layers": 4,
        "points": 256,
    },
)
class Mask2Former(SegmentationModel):
    """Mask2Former for semantic segmentation over any trunk; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config)
        width = config.width
        self.weights = Weights(points=config.points)
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.multiple_of = max(self.encoder.strides)
        self.places = [self.encoder.index_of(stride) for stride in STRIDES]
        channels = [self.encoder.channels[i] for i in self.places]
        self.pixel_decoder = PixelDecoder(channels, width, config.pixel_layers)
        self.queries = nn.Parameter(torch.randn(1, config.queries, width))
        self.query_places = nn.Parameter(torch.randn(1, config.queries, width))
        self.scale = nn.Parameter(torch.randn(SCALES, width))
        self.layers = nn.ModuleList(QueryLayer(width) for _ in range(config.query_layers))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, config.num_classes + 1)
        self.mask_head = mask_mlp(width)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``, ``"masks"``, ``"classes"`` and those before each layer."""
        features = self.encoder(images)
        pixels, scales = self.pixel_decoder([features[i] for i in self.places])
        x = self.queries.expand(len(images), -1, -1)
        heads: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            level = i % SCALES
            size = (scales[level].shape[-2], scales[level].shape[-1])
            masks, classes = self.predict(x, pixels)
            heads |= {f"masks{i + 1}": masks, f"classes{i + 1}": classes}
            tokens = to_tokens(scales[level]) + self.scale[level]
            positions = sine_positions(size, tokens.shape[-1], tokens)
            x = layer(x, self.query_places, tokens, positions, inside(masks, size))
        masks, classes = self.predict(x, pixels)
        logits = semantic_scores(classes, masks)
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "masks": masks, "classes": classes, **heads}

    def predict(self, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks ``(N, Q, H/4, W/4)`` and classes ``(N, Q, K + 1)`` of the queries so far."""
        x = self.norm(x)
        return masks_of(self.mask_head(x), pixels), self.classify(x)

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the paper's terms over all predictions; ``criterion`` has no part in them."""
        return layers_loss(heads, target, len(self.layers), self.weights)

    def no_weight_decay(self) -> set[str]:
        """Return what the authors' code holds as embeddings, and the tables of Swin."""
        return {"queries", "query_places", "scale"} | tables_of(self)


def inside(masks: Tensor, size: Size) -> Tensor:
    """Return ``(N, Q, h * w)``, where a query may look; with an empty mask it looks everywhere."""
    small = F.interpolate(masks.detach(), size, mode="bilinear", align_corners=False).flatten(2)
    allowed = small >= 0
    return allowed | ~allowed.any(dim=-1, keepdim=True)

r"""MaskFormer: masks that each have one class, in place of a class at every pixel.

Paper:
    Cheng, Schwing, Kirillov. "Per-Pixel Classification is Not All You Need for Semantic
    Segmentation." NeurIPS 2021. arXiv:2107.06278, section 3. Details follow the authors' code and
    its settings for semantic segmentation of ADE20K.

Shapes (H, W divisible by 32; channels of ResNet-50; w = width, the paper's 256; Q queries):
    images       (N, C, H, W)
    features     (N, 256, H/4, W/4), (N, 512, H/8, W/8), (N, 1024, H/16, W/16),
                 (N, 2048, H/32, W/32)
    pixels       (N, w, H/4, W/4)   of a feature pyramid
    tokens       (N, H/32 * W/32, w)
    masks        (N, Q, H/4, W/4)   after the last layer; masks1 … masks5 after those before it
    classes      (N, Q, K + 1)      likewise; the last class means nothing
    logits       (N, K, H/4, W/4)   from masks and classes

Parameters:
    41,307,863 with ResNet-50, 41,757,009 with Swin-T, 63,074,913 with Swin-S, 101,829,391 with
    Swin-B and 211,575,627 with Swin-L, at K = 150 and Q = 100.

Deviations:
    - Logits are the logarithms of the authors' scores, which have the same order, and are put
      together at the masks' size; the authors enlarge the masks first.
    - The transformer encoder before the decoder, which the authors have for panoptic segmentation
      alone, is left out.
    - Norms of the trunk learn; the authors keep those of ResNets frozen.
    - Losses of several devices are normalised on each; the authors count masks on all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.attention import to_tokens
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.transformer.matching import (
    Comparison,
    Weights,
    dice_costs,
    dice_term,
    semantic_scores,
)
from semseg.models.transformer.queries import (
    GROUPS,
    STRIDES,
    QueryAttention,
    check_width,
    ffn,
    layers_loss,
    mask_mlp,
    masks_of,
    sine_positions,
    tables_of,
)

FFN, DROPOUT = 2048, 0.1
"""Hidden width and dropout of the decoder's layers."""

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss: weight of pixels inside a segment, and how fast right ones lose weight."""

WEIGHTS = Weights(classes=1.0, masks=20.0, dice=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskFormerConfig(ModelConfig):
    """Settings of :class:`MaskFormer`."""

    encoder: str = "resnet50.tv_in1k"
    """Trunk with features at strides 4 to 32."""

    width: int = 256
    """Channels of all that follows, a multiple of 32. With 32 itself a norm has one channel, and
    images need more than 32 pixels along a side."""

    queries: int = 100
    """Q, at least as many as there are classes in one image."""

    layers: int = 6
    """Layers of the decoder."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        check_width("MaskFormer", self.width)
        if min(self.queries, self.layers) < 1:
            raise InputError(
                "MaskFormer needs at least 1 query and 1 layer, got "
                f"{self.queries} and {self.layers}"
            )


def smoothed(cin: int, width: int) -> nn.Sequential:
    """Return 3x3, norm of groups and ReLU."""
    return nn.Sequential(
        nn.Conv2d(cin, width, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, width),
        nn.ReLU(inplace=True),
    )


class PixelDecoder(nn.Module):
    """Feature pyramid from the coarsest feature to the finest, and the pixels of the masks.

    Args:
        channels: of the features, finest first.
        width: w.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        *finer, deepest = channels
        self.top = smoothed(deepest, width)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(cin, width, 1, bias=False), nn.GroupNorm(GROUPS, width))
            for cin in finer[::-1]
        )
        self.smooth = nn.ModuleList(smoothed(width, width) for _ in finer)
        self.out = nn.Conv2d(width, width, 3, padding=1)
        start(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the pixels ``(N, w, H/4, W/4)``; features are finest first."""
        *finer, deepest = features
        x = self.top(deepest)
        for lateral, smooth, feature in zip(self.lateral, self.smooth, finer[::-1], strict=True):
            side = lateral(feature)
            x = smooth(side + F.interpolate(x, side.shape[-2:], mode="nearest"))
        out: Tensor = self.out(x)
        return out


def start(part: nn.Module) -> None:
    """Draw the convolutions of a part as Detectron2's Xavier filling does, in place."""
    for conv in part.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


class DecoderLayer(nn.Module):
    """Attention to each other, then to the image, then an MLP, each normalised with its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.cross = (QueryAttention(width, DROPOUT) for _ in range(2))
        self.ffn = ffn(width, FFN, DROPOUT)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, places: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the new queries ``(N, Q, w)``; ``places`` and ``positions`` are added to look."""
        x = self.norm1(x + self.drop(self.own(x + places, x + places, x)))
        x = self.norm2(x + self.drop(self.cross(x + places, tokens + positions, tokens)))
        out: Tensor = self.norm3(x + self.drop(self.ffn(x)))
        return out


# ---- the loss ----------------------------------------------------------------------------------


def focal(masks: Tensor, truth: Tensor) -> Tensor:
    """Return the focal loss of each pixel of logits; ``truth`` is 0 or 1."""
    share = masks.sigmoid()
    wrong = torch.where(truth > 0, 1 - share, share)
    factor = torch.where(truth > 0, ALPHA, 1 - ALPHA)
    plain = F.binary_cross_entropy_with_logits(masks, truth, reduction="none")
    return factor * wrong**GAMMA * plain


def whole_costs(masks: Tensor, truth: Tensor, _: Weights) -> tuple[Tensor, Tensor]:
    """Return focal and Dice losses ``(Q, S)`` over all pixels of the masks' own size."""
    want = F.interpolate(truth[:, None], masks.shape[-2:], mode="nearest").flatten(1)
    got = masks.flatten(1)
    inside = focal(got, torch.ones_like(got)) @ want.T
    outside = focal(got, torch.zeros_like(got)) @ (1 - want).T
    return (inside + outside) / got.shape[1], dice_costs(got.sigmoid(), want)


def whole_terms(masks: Tensor, truth: Tensor, _: Weights) -> tuple[Tensor, Tensor]:
    """Return the means of focal and Dice losses over all pixels of the segments' size."""
    size = truth.shape[-2:]
    got = F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False).flatten(1)
    want = truth.flatten(1)
    return focal(got, want).mean(), dice_term(got.sigmoid(), want)


WHOLE = Comparison(whole_costs, whole_terms)


# ---- the network -------------------------------------------------------------------------------


FACTS = {
    "paper": "arXiv:2107.06278",
    "year": 2021,
    "idea": "A set of masks, each with one class, serves semantic as well as instance "
    "segmentation, and is easier to learn than a class for every pixel.",
    "repository": "https://github.com/facebookresearch/MaskFormer",
    "paper_size": (512, 512),
    "verified": "reference output",
    "small": {"encoder": "test_resnet", "width": 64, "queries": 12, "layers": 3},
}
SWIN = FACTS | {"small": {"encoder": "swin_smallest", "width": 64, "queries": 12, "layers": 2}}
LARGE = SWIN | {"paper_size": (640, 640)}


def result(miou: float, trunk: str) -> tuple[Published]:
    """Return a line of the paper's table."""
    return (Published("ADE20K val", miou, f"paper, Table 1: {trunk}, single scale"),)


@register(
    "maskformer",
    MaskFormerConfig(num_classes=150),
    title="MaskFormer (ResNet-50)",
    num_params=41_307_863,
    published=result(44.5, "R50"),
    **FACTS,
)
@register(
    "maskformer_swin_tiny",
    MaskFormerConfig(num_classes=150, encoder="swin_tiny"),
    title="MaskFormer (Swin-T)",
    num_params=41_757_009,
    published=result(46.7, "Swin-T"),
    **SWIN,
)
@register(
    "maskformer_swin_small",
    MaskFormerConfig(num_classes=150, encoder="swin_small"),
    title="MaskFormer (Swin-S)",
    num_params=63_074_913,
    published=result(49.8, "Swin-S"),
    **SWIN,
)
@register(
    "maskformer_swin_base",
    MaskFormerConfig(num_classes=150, encoder="swin_base"),
    title="MaskFormer (Swin-B)",
    num_params=101_829_391,
    published=result(52.7, "Swin-B of ImageNet-22K"),
    **LARGE,
)
@register(
    "maskformer_swin_large",
    MaskFormerConfig(num_classes=150, encoder="swin_large"),
    title="MaskFormer (Swin-L)",
    num_params=211_575_627,
    published=result(54.1, "Swin-L of ImageNet-22K"),
    **LARGE,
)
class MaskFormer(SegmentationModel):
    """MaskFormer for semantic segmentation over any trunk; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, config: MaskFormerConfig) -> None:
        super().__init__(config)
        width = config.width
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.multiple_of = max(self.encoder.strides)
        self.levels = [self.encoder.index_of(stride) for stride in STRIDES]
        channels = [self.encoder.channels[i] for i in self.levels]
        self.pixel_decoder = PixelDecoder(channels, width)
        self.project: nn.Module = nn.Identity()
        if channels[-1] != width:
            self.project = nn.Conv2d(channels[-1], width, 1)
            start(self.project)
        self.places = nn.Parameter(torch.randn(1, config.queries, width))
        self.layers = nn.ModuleList(DecoderLayer(width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, config.num_classes + 1)
        self.mask_head = mask_mlp(width)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``, ``"masks"``, ``"classes"`` and those of the earlier layers."""
        features = self.encoder(images)
        maps = [features[i] for i in self.levels]
        pixels = self.pixel_decoder(maps)
        deepest = self.project(maps[-1])
        tokens = to_tokens(deepest)
        size = (deepest.shape[-2], deepest.shape[-1])
        positions = sine_positions(size, tokens.shape[-1], tokens)
        x = torch.zeros_like(self.places).expand(len(images), -1, -1)
        heads: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            x = layer(x, self.places, tokens, positions)
            if not self.logits_only and i + 1 < len(self.layers):
                masks, classes = self.predict(x, pixels)
                heads |= {f"masks{i + 1}": masks, f"classes{i + 1}": classes}
        masks, classes = self.predict(x, pixels)
        logits = semantic_scores(classes, masks)
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "masks": masks, "classes": classes, **heads}

    def predict(self, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks ``(N, Q, H/4, W/4)`` and classes ``(N, Q, K + 1)`` of a layer's queries."""
        x = self.norm(x)
        return masks_of(self.mask_head(x), pixels), self.classify(x)

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the paper's terms over all predictions; ``criterion`` has no part in them."""
        return layers_loss(heads, target, len(self.layers) - 1, WEIGHTS, WHOLE)

    def no_weight_decay(self) -> set[str]:
        """Return what the authors' code holds as an embedding, and the tables of Swin."""
        return {"places"} | tables_of(self)

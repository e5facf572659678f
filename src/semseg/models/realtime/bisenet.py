r"""BiSeNet: a wide path of four convolutions keeps the details, a fast deep one finds the context.

Paper:
    Yu, Wang, Peng, Gao, Yu, Sang. "BiSeNet: Bilateral Segmentation Network for Real-time Semantic
    Segmentation." ECCV 2018. arXiv:1808.00897. Layers follow the authors' code,
    ``model/bisenet/`` of https://github.com/ycszen/TorchSeg.

Shapes (H, W divisible by 8; c = the trunk's channels):
    images       (N, C,   H,    W)
    spatial      (N, 128, H/8,  W/8)
    16, 32       (N, c16, H/16, W/16), (N, c32, H/32, W/32)   of the trunk, rounded up
    pooled       (N, 128, 1,    1)      mean of 32, then 1x1
    context      (N, 128, H/16, W/16)   attention on 32, plus pooled, enlarged, 3x3
    then         (N, 128, H/8,  W/8)    attention on 16, plus context, enlarged, 3x3
    fused        (N, 256, H/8,  W/8)    attention on both paths together
    logits       (N, K,   H/8,  W/8)
    aux16, aux8  (N, K,   H/16, W/16), (N, K, H/8, W/8)       from context and then

Parameters:
    At K = 19, with both auxiliary heads and without: 13,494,777 and 12,894,163 over ResNet-18,
    48,239,417 and 47,638,803 over ResNet-101, 1,842,289 and 1,541,963 over Xception39. Counted
    from the authors' code; the paper's 49.0M and 5.8M are sizes of weight files in megabytes.

Deviations:
    - Where paper and code differ, this is the code: a 7x7 and a 1x1 frame two 3x3 convolutions in
      the spatial path (paper: three 3x3), and a 3x3 convolution stands before each of the
      context path's attentions (paper: none).
    - ResNet-18 starts from torchvision's ImageNet weights, the authors' from Gluon's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu

CONTEXT = 128
"""Channels of either path."""

SPATIAL = 64
"""Channels inside the spatial path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BiSeNetConfig(ModelConfig):
    """Settings of :class:`BiSeNet`."""

    encoder: str = "resnet18.tv_in1k"
    """Trunk of the context path, with features at strides 16 and 32."""

    head_width: int = 64
    """Channels before the classifier."""

    aux_width: int = 256
    """Channels before each auxiliary classifier."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if min(self.head_width, self.aux_width) < 1:
            raise InputError(
                "BiSeNet needs head_width and aux_width >= 1, got "
                f"{self.head_width} and {self.aux_width}"
            )


class SpatialPath(nn.Sequential):
    """Three halving convolutions and a 1x1: ``(N, C, H, W) -> (N, 128, H/8, W/8)``, rounded up."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            halving(in_channels, SPATIAL, 7),
            halving(SPATIAL, SPATIAL, 3),
            halving(SPATIAL, SPATIAL, 3),
            conv_bn_relu(SPATIAL, CONTEXT, 1),
        )


class AttentionRefinement(nn.Module):
    """3x3, then a factor per channel from their means: ``(N, cin, h, w) -> (N, cout, h, w)``."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = conv_bn_relu(cin, cout, 3)
        self.attention = nn.Sequential(
            nn.Conv2d(cout, cout, 1, bias=False), nn.BatchNorm2d(cout), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted features."""
        x = self.conv(x)
        out: Tensor = x * self.attention(pooled(x))
        return out


class ContextPath(nn.Module):
    """Attention on the trunk's two deepest features, from the deepest down.

    Args:
        channels: of the features at strides 16 and 32.
        mode: how sums are enlarged, ``"bilinear"`` or ``"nearest"``.
    """

    def __init__(self, channels: tuple[int, int], mode: str = "bilinear") -> None:
        super().__init__()
        c16, c32 = channels
        self.pooled = conv_bn_relu(c32, CONTEXT, 1)
        self.arm32, self.arm16 = (AttentionRefinement(c, CONTEXT) for c in (c32, c16))
        self.refine32, self.refine16 = (conv_bn_relu(CONTEXT, CONTEXT, 3) for _ in range(2))
        self.mode = mode

    def forward(self, x16: Tensor, x32: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return context at the size of ``x16``, and at ``size``, that of stride 8."""
        x = self.arm32(x32) + self.pooled(pooled(x32))
        context = self.refine32(self._enlarge(x, x16.shape[-2:]))
        return context, self.refine16(self._enlarge(self.arm16(x16) + context, size))

    def _enlarge(self, x: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(
            x, size, mode=self.mode, align_corners=True if self.mode == "bilinear" else None
        )


class FeatureFusion(nn.Module):
    """Concatenation, 1x1, and a residual attention: ``(N, a | b, h, w) -> (N, cout, h, w)``.

    Args:
        cin: channels of both inputs together.
        cout: channels of the output.
        reduction: by which the attention is narrower inside.
    """

    def __init__(self, cin: int, cout: int, reduction: int = 1) -> None:
        super().__init__()
        self.conv = conv_bn_relu(cin, cout, 1)
        self.attention = nn.Sequential(
            nn.Conv2d(cout, cout // reduction, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(cout // reduction, cout, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, details: Tensor, context: Tensor) -> Tensor:
        """Return the fused features, each channel raised by up to its double."""
        x = self.conv(torch.cat([details, context], dim=1))
        out: Tensor = x + x * self.attention(pooled(x))
        return out


FACTS = {
    "paper": "arXiv:1808.00897",
    "year": 2018,
    "idea": "Detail and context come from two networks: a shallow wide one at an eighth of the "
    "resolution, and a deep one that shrinks fast.",
    "repository": "https://github.com/ycszen/TorchSeg",
    "verified": "reference output",
}


@register(
    "bisenet_resnet18",
    BiSeNetConfig(num_classes=19),
    title="BiSeNet (ResNet-18)",
    num_params=13_494_777,
    paper_size=(768, 1536),
    published=(
        Published("Cityscapes test", 74.7, "paper, Cityscapes table; 65.5 fps"),
        Published("Cityscapes val", 76.21, "authors' README, row of the paper: single scale"),
        Published("Cityscapes val", 74.8, "authors' README, real-time row of the paper"),
        Published("CamVid test", 68.7, "paper, CamVid table; 720 x 960 images"),
    ),
    small={"encoder": "test_resnet"},
    **FACTS,
)
@register(
    "bisenet_resnet101",
    BiSeNetConfig(num_classes=19, encoder="resnet101_deep", head_width=256),
    title="BiSeNet (ResNet-101)",
    num_params=48_239_417,
    paper_size=(1024, 1024),
    published=(
        Published("Cityscapes test", 78.9, "paper, Cityscapes table"),
        Published("Cityscapes val", 80.3, "authors' README, row of the paper: scales and flip"),
    ),
    small={"encoder": "test_resnet"},
    **FACTS,
)
@register(
    "bisenet_xception39",
    BiSeNetConfig(num_classes=19, encoder="xception39", aux_width=128),
    title="BiSeNet (Xception39)",
    num_params=1_842_289,
    paper_size=(768, 1536),
    published=(
        Published("Cityscapes test", 68.4, "paper, abstract; 105.8 fps on a Titan Xp"),
        Published("Cityscapes val", 69.0, "authors' README, real-time row of the paper"),
        Published("CamVid test", 65.6, "paper, CamVid table; 720 x 960 images"),
    ),
    **FACTS,
)
class BiSeNet(SegmentationModel):
    """BiSeNet over any trunk; see the module docstring.

    Training mode needs at least two images per step: pooling leaves one value per channel and
    image, and BatchNorm cannot normalise a single value.

    Raises:
        InputError: the trunk lacks a feature at stride 16 or 32.
    """

    multiple_of = 8
    align_corners = True  # of every resize in the authors' code
    aux_weights = {"aux16": 1.0, "aux8": 1.0}  # noqa: RUF012

    def __init__(self, config: BiSeNetConfig) -> None:
        super().__init__(config)
        classes = config.num_classes
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.places = [self.encoder.index_of(stride) for stride in (16, 32)]
        c16, c32 = (self.encoder.channels[place] for place in self.places)
        self.spatial = SpatialPath(config.in_channels)
        self.context = ContextPath((c16, c32))
        self.fusion = FeatureFusion(2 * CONTEXT, 2 * CONTEXT)
        self.head = head(2 * CONTEXT, config.head_width, classes)
        self.aux16 = head(CONTEXT, config.aux_width, classes)
        self.aux8 = head(CONTEXT, config.aux_width, classes)
        for part in (self.spatial, self.context, self.fusion, self.head, self.aux16, self.aux8):
            for conv in part.modules():
                if isinstance(conv, nn.Conv2d):  # biases keep PyTorch's default, as the authors'
                    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux8"`` at stride 8, ``"aux16"`` at stride 16.

        Raises:
            InputError: one image in training mode.
        """
        check_pooled_norm(type(self).__name__, self.context.pooled[1], images)
        details = self.spatial(images)
        features = self.encoder(images)
        x16, x32 = (features[place] for place in self.places)
        context16, context8 = self.context(x16, x32, details.shape[-2:])
        logits = self.head(self.fusion(details, context8))
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "aux16": self.aux16(context16), "aux8": self.aux8(context8)}


def halving(cin: int, cout: int, kernel: int) -> nn.Sequential:
    """Strided convolution, norm, ReLU: ``(N, cin, H, W) -> (N, cout, H/2, W/2)``, rounded up."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


def head(cin: int, width: int, num_classes: int, *, bias: bool = True) -> nn.Sequential:
    """3x3 and a classifier: ``(N, cin, h, w) -> (N, K, h, w)``."""
    return nn.Sequential(conv_bn_relu(cin, width, 3), nn.Conv2d(width, num_classes, 1, bias=bias))


def pooled(x: Tensor) -> Tensor:
    """Return the mean of each channel, ``(N, C, 1, 1)``."""
    return x.mean((2, 3), keepdim=True)


def check_pooled_norm(owner: str, norm: nn.Module, images: Tensor) -> None:
    """Refuse one image while ``norm``, which follows a global pooling, is in training mode.

    Raises:
        InputError: one image in training mode.
    """
    # a synchronised norm, another class, sees the images of all devices
    if isinstance(norm, nn.BatchNorm2d) and norm.training and len(images) < 2:
        raise InputError(
            f"{owner} needs at least 2 images per step in training mode: the norm after its "
            "global pooling has one value per channel and image; use a batch size of 2 or more "
            "and drop an incomplete last batch"
        )

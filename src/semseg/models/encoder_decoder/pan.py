r"""PAN: a small pyramid weights the deepest feature, and coarse context weights each finer one.

Paper:
    Li, Xiong, An, Wang. "Pyramid Attention Network for Semantic Segmentation." BMVC 2018.
    arXiv:1805.10180, figures 2 to 4. No code of the authors is public; over a trunk it follows
    ``PAN`` of segmentation_models_pytorch, whose outputs this network reproduces.

Shapes (H, W divisible by 16, at least 128):
    images       (N, C,  H,    W)
    deepest      (N, c,  H/16, W/16)   the trunk's last stage, dilated
    FPA          (N, 32, H/16, W/16)   1x1, weighted by a pyramid of one channel, plus image mean
      pyramid    (N, 1, H/32, W/32), (N, 1, H/64, W/64), (N, 1, H/128, W/128)   7x7, 5x5, 3x3
    GAU          (N, 32, H/16, W/16), (N, 32, H/8, W/8), (N, 32, H/4, W/4)
    logits       (N, K,  H/4,  W/4)    3x3

Parameters:
    24,265,596 over resnet50 at K = 21, as in segmentation_models_pytorch.

Deviations:
    - The decoder is 32 channels wide; the paper does not say how wide.
    - The pyramid's maps have one channel (the paper's channels are not stated), and the smallest
      of them two 3x3 convolutions before it is enlarged.
    - Where a ResNet's last stage is dilated, its first block is dilated too (``dilate_first``);
      timm's rule, with False, keeps the first convolution as it was.
    - New layers start as the library's do: He-uniform, the classifier Xavier-uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.dilation import dilate_whole_stages, resnet_stages
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.encoder_decoder.fpn import enlarge
from semseg.nn.init import toolbox_init_

OUTPUT_STRIDE = 16
"""Stride of the deepest feature (paper, section 4)."""

DEPTH = 32
"""Channels of the decoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PANConfig(ModelConfig):
    """Settings of :class:`PAN`."""

    encoder: str = "resnet50.tv_in1k"
    """Trunk with features at strides 4 and 8 whose last stage can be dilated."""

    dilate_first: bool = True
    """Dilate the first block of a ResNet's dilated stage too; False is timm's rule. Other trunks
    keep timm's rule."""


@register(
    "pan",
    PANConfig(),
    title="PAN",
    paper="arXiv:1805.10180",
    year=2018,
    idea="Attention per pixel from a pyramid of shrinking kernels, and attention per channel from "
    "the coarser feature while enlarging, instead of heavy decoders.",
    num_params=24_265_596,
    paper_size=(512, 512),
    published=(
        Published("PASCAL VOC 2012 test", 84.0, "paper, abstract: ResNet-101, no COCO"),
        Published("Cityscapes test", 78.6, "paper: ResNet-101, fine labels only"),
    ),
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class PAN(SegmentationModel):
    """Pyramid attention network over any trunk that can be dilated; see the module docstring.

    Training mode needs at least two images per step: the image means leave one value per channel
    and image, and BatchNorm cannot normalise a single value.

    Raises:
        InputError: the trunk lacks a feature at stride 4 or 8, or cannot have output stride 16.
    """

    min_size = 8 * OUTPUT_STRIDE  # the pyramid halves three times
    align_corners = True

    def __init__(self, config: PANConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, OUTPUT_STRIDE)
        if config.dilate_first and resnet_stages(self.encoder) is not None:
            dilate_whole_stages(self.encoder, OUTPUT_STRIDE)
        self.multiple_of = OUTPUT_STRIDE
        channels = self.encoder.channels
        self.deepest = self.encoder.index_of(OUTPUT_STRIDE)
        self.places = [self.deepest - 1, self.encoder.index_of(8), self.encoder.index_of(4)]
        self.attention = PyramidAttention(channels[self.deepest])
        self.upsamples = nn.ModuleList(GlobalAttention(channels[place]) for place in self.places)
        self.head = nn.Conv2d(DEPTH, config.num_classes, 3, padding=1)
        toolbox_init_(nn.ModuleList((self.attention, self.upsamples)), self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 4.

        Raises:
            InputError: one image in training mode.
        """
        norm = self.attention.image[1]
        # a synchronised norm, another class, sees the images of all devices
        if isinstance(norm, nn.BatchNorm2d) and norm.training and len(images) < 2:
            raise InputError(
                "pan needs at least 2 images per step in training mode: the norms of its image "
                "means have one value per channel and image; use a batch size of 2 or more and "
                "drop an incomplete last batch"
            )
        features = self.encoder(images)
        x = self.attention(features[self.deepest])
        for place, upsample in zip(self.places, self.upsamples, strict=True):
            x = upsample(features[place], x)
        return {"logits": self.head(x)}


class PyramidAttention(nn.Module):
    """Feature pyramid attention (FPA): ``(N, cin, h, w) -> (N, 32, h, w)``, h and w at least 8."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.image = conv_bn(cin, DEPTH, 1)
        self.middle = conv_bn(cin, DEPTH, 1)
        self.down = nn.ModuleList(conv_bn(c, 1, k) for c, k in ((cin, 7), (1, 5), (1, 3)))
        self.across = nn.ModuleList(conv_bn(1, 1, k) for k in (7, 5, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the 1x1 branch, weighted by the pyramid, plus the image's mean."""
        size = (x.shape[-2], x.shape[-1])
        sizes = [(size[0] // factor, size[1] // factor) for factor in (1, 2, 4)]
        pooled, levels = x, []
        for down, across in zip(self.down, self.across, strict=True):
            pooled = F.relu(down(F.max_pool2d(pooled, 2)))
            levels.append(F.relu(across(pooled)))
        weights = enlarge(levels[2], sizes[2])
        for level in (1, 0):
            weights = enlarge(weights + levels[level], sizes[level])
        mean = F.relu(self.image(x.mean((2, 3), keepdim=True)))
        out: Tensor = weights * F.relu(self.middle(x)) + mean
        return out


class GlobalAttention(nn.Module):
    """Global attention upsample (GAU): a fine feature weighted by the coarse one's mean.

    ``(N, cin, h, w)`` and the coarser ``(N, 32, ...)`` to ``(N, 32, h, w)``.
    """

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.weight = conv_bn(DEPTH, DEPTH, 1)
        self.reduce = conv_bn(cin, DEPTH, 3)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return the coarse feature enlarged, plus the weighted fine one."""
        weights = self.weight(coarse.mean((2, 3), keepdim=True)).sigmoid()
        size = (fine.shape[-2], fine.shape[-1])
        out: Tensor = enlarge(coarse, size) + F.relu(self.reduce(fine)) * weights
        return out


def conv_bn(cin: int, cout: int, kernel: int) -> nn.Sequential:
    """Convolution with bias and BatchNorm, no activation: ``(N, cin, H, W) -> (N, cout, H, W)``."""
    return nn.Sequential(nn.Conv2d(cin, cout, kernel, padding=kernel // 2), nn.BatchNorm2d(cout))

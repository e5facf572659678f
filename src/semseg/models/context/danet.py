r"""DANet: every pixel attends to all pixels, and every channel to all channels.

Paper:
    Fu, Liu, Tian, Li, Bao, Fang, Lu. "Dual Attention Network for Scene Segmentation." CVPR 2019.
    arXiv:1809.02983, section 3. What the text leaves open follows the authors' code,
    ``encoding/models/sseg/danet.py`` and ``encoding/nn/da_att.py``.

Shapes (H, W any; h = H/8, w = W/8, rounded up):
    images       (N, C, H, W)
    layer4       (N, 2048, h, w)   dilations 2 in layer3 and 4, 8 and 16 in layer4
    position     (N, 512, h, w)   3x3, attention of pixels with keys of 64 channels, 3x3
    channel      (N, 512, h, w)   3x3, attention of channels, 3x3
    logits       (N, K, h, w)   1x1 on the sum of both; "position" and "channel" are scores of each

Parameters:
    66,454,779 at K = 19 over ResNet-101 without its classifier: 42,500,160 of the trunk and
    23,954,619 of both branches.

Deviations:
    - Attention of pixels holds no h * w x h * w map in memory where PyTorch has a kernel for it.
    - The three losses weigh the same, as the paper sums them; the released code's criterion takes
      one output only.
    - The trunk is torchvision's ResNet-101, whose layers the authors' code has under this setting
      (no deep stem).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders import build_encoder
from semseg.encoders.dilation import resnet_stages, set_rates
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu
from semseg.nn.norm import check_batch_norm

RATES = (4, 8, 16)
"""Dilation of each block of the last stage."""

FEWER = 4
"""By what the trunk's channels are divided for the attention."""

KEYS = 8
"""By what these are divided again for keys and queries."""

DROPOUT = 0.1
"""Rate of dropped channels before each classifier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DANetConfig(ModelConfig):
    """Settings of :class:`DANet`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    encoder: str = "resnet101.tv_in1k"
    """Trunk that can be dilated to output stride 8; the last stage of a ResNet is dilated more."""


class PositionAttention(nn.Module):
    """Pixels gather from all pixels like them: ``(N, C, h, w) -> (N, C, h, w)``.

    C is a multiple of 8. The share of what is gathered starts at zero and is learned.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(width, width // KEYS, 1)
        self.key = nn.Conv2d(width, width // KEYS, 1)
        self.value = nn.Conv2d(width, width, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the pixels and a share of what they gathered."""
        # values in as many parts as make them as wide as keys: kernels without a map ask for that
        value = self.value(x).reshape(len(x), KEYS, -1, x.shape[-2] * x.shape[-1]).mT.contiguous()
        query, key = (
            conv(x).flatten(2).mT.contiguous()[:, None].expand_as(value)
            for conv in (self.query, self.key)
        )
        gathered = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return self.gamma * gathered.mT.reshape(x.shape) + x


class ChannelAttention(nn.Module):
    """Channels gather from all channels unlike them: ``(N, C, h, w) -> (N, C, h, w)``.

    The share of what is gathered starts at zero and is learned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels and a share of what they gathered."""
        maps = x.flatten(2)
        alike = maps @ maps.mT
        # the authors subtract from the largest, so that the least alike weighs most
        share = (alike.amax(dim=-1, keepdim=True) - alike).softmax(dim=-1)
        return self.gamma * (share @ maps).reshape(x.shape) + x


def classifier(width: int, num_classes: int) -> nn.Sequential:
    """Return dropout of channels and 1x1: ``(N, width, h, w) -> (N, K, h, w)``."""
    return nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(width, num_classes, 1))


@register(
    "danet",
    DANetConfig(),
    title="DANet (ResNet-101)",
    paper="arXiv:1809.02983",
    year=2019,
    idea="Two attentions side by side: among pixels, which need not be near, and among channels, "
    "which stand for classes; their results are summed.",
    repository="https://github.com/junfu1115/DANet",
    num_params=66_454_779,
    paper_size=(768, 768),
    published=(
        Published("Cityscapes val", 79.93, "authors' README: one scale"),
        Published("Cityscapes test", 81.5, "authors' README: fine annotations"),
    ),
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class DANet(SegmentationModel):
    """Dual attention network; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated to output stride 8.
    """

    align_corners = True
    aux_weights: ClassVar[dict[str, float]] = {"position": 1.0, "channel": 1.0}

    def __init__(self, config: DANetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        stages = resnet_stages(self.encoder)
        if stages is not None:
            set_rates(stages[1], RATES)
        cin = self.encoder.channels[-1]
        width = max(cin // FEWER, KEYS) // KEYS * KEYS
        self.position_in = conv_bn_relu(cin, width, 3)
        self.channel_in = conv_bn_relu(cin, width, 3)
        self.position_attention = PositionAttention(width)
        self.channel_attention = ChannelAttention()
        self.position_out = conv_bn_relu(width, width, 3)
        self.channel_out = conv_bn_relu(width, width, 3)
        self.position = classifier(width, config.num_classes)
        self.channel = classifier(width, config.num_classes)
        self.head = classifier(width, config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``, ``"position"`` and ``"channel"``, all ``(N, K, h, w)`` at stride 8.

        Raises:
            InputError: one image in training mode whose features are a single pixel.
        """
        check_batch_norm(type(self).__name__, images, self.encoder.strides[-1], self.training)
        x = self.encoder(images)[-1]
        position = self.position_out(self.position_attention(self.position_in(x)))
        channel = self.channel_out(self.channel_attention(self.channel_in(x)))
        logits = self.head(position + channel)
        if self.logits_only:
            return {"logits": logits}
        return {
            "logits": logits,
            "position": self.position(position),
            "channel": self.channel(channel),
        }

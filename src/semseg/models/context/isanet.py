r"""ISANet: attention among pixels far apart, then among those of one region.

Paper:
    Huang, Yuan, Guo, Zhang, Chen, Wang. "Interlaced Sparse Self-Attention for Semantic
    Segmentation." 2019. arXiv:1907.12273, section 3. What the text leaves open follows the authors'
    code, ``lib/models/nets/isanet.py`` and ``lib/models/modules/isa_block.py`` of openseg.pytorch.

Shapes (h = H/8 + 1 pixels of H divisible by 8; p = partition):
    images       (N, C, H, W)
    layer3       (N, 1024, h, w)   dilation 2
    layer4       (N, 2048, h, w)   dilation 4
    pixels       (N, 512, h, w)   3x3 on layer4
    far          (N * p * p, 512, a, b)   attention among every p-th pixel; zeros around the pixels
                                  make their sides pa and pb
    near         (N * a * b, 512, p, p)   attention within each region of p x p
    joined       (N, 512, h, w)   1x1 on pixels beside what they gathered
    aux          (N, K, h, w)   3x3 to 512 and 1x1 on layer3
    logits       (N, K, h, w)   1x1

Parameters:
    59,167,718 at K = 19 over ResNet-101: 54,438,355 of the network that predicts, and 4,729,363 of
    the auxiliary head.

Deviations:
    - Norms are BatchNorm and ReLU, one of the forms of the authors' code; their training on
      Cityscapes had in-place norms with leaky ReLU.
    - One partition only; the code can have several side by side, which the paper does not use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.context.ocrnet import pool_over_the_border
from semseg.nn.conv import conv_bn_relu
from semseg.nn.norm import check_batch_norm

HIDDEN, KEYS = 512, 256
"""Channels of the pixels, and those in which they are compared."""

DROPOUT = 0.05
"""Rate of dropped channels before the classifiers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ISANetConfig(ModelConfig):
    """Settings of :class:`ISANet`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    encoder: str = "resnet101s.gluon_in1k"
    """Trunk that can be dilated to output stride 8; the authors' has three 3x3 as stem."""

    partition: int = 8
    """Side of a region in features, and distance of the pixels that attend to each other first."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.partition < 1:
            raise InputError(f"ISANet takes a partition of at least 1, got {self.partition}")


class SelfAttention(nn.Module):
    """Pixels gather from all pixels: ``(N, width, h, w) -> (N, width, h, w)``, not joined."""

    def __init__(self, width: int, keys: int) -> None:
        super().__init__()
        self.key = nn.Sequential(conv_bn_relu(width, keys, 1), conv_bn_relu(keys, keys, 1))
        self.query = nn.Sequential(conv_bn_relu(width, keys, 1), conv_bn_relu(keys, keys, 1))
        self.value = nn.Conv2d(width, width, 1, bias=False)
        self.out = conv_bn_relu(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the pixels gathered."""
        # one head: exporters know attention with heads only
        query, key, value = (
            conv(x).flatten(2).mT[:, None] for conv in (self.query, self.key, self.value)
        )
        gathered = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(gathered.mT.reshape(x.shape))
        return out


class InterlacedAttention(nn.Module):
    """Attention among every p-th pixel, then within regions of p x p pixels.

    Both together connect every pixel with every other, at a cost of about 1 / p * p of attention
    to all. ``(N, width, h, w) -> (N, width, h, w)``.
    """

    def __init__(self, width: int, keys: int, partition: int) -> None:
        super().__init__()
        self.partition = partition
        self.far = SelfAttention(width, keys)
        self.near = SelfAttention(width, keys)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the pixels gathered in two steps."""
        p, (count, width, height, length) = self.partition, x.shape
        down, right = -height % p, -length % p
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        a, b = x.shape[2] // p, x.shape[3] // p
        x = x.reshape(count, width, a, p, b, p).permute(0, 3, 5, 1, 2, 4)
        x = self.far(x.reshape(-1, width, a, b)).reshape(count, p, p, width, a, b)
        x = self.near(x.permute(0, 4, 5, 3, 1, 2).reshape(-1, width, p, p))
        x = x.reshape(count, a, b, width, p, p).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(count, width, a * p, b * p)
        return x[:, :, down // 2 : down // 2 + height, right // 2 : right // 2 + length]


@register(
    "isanet",
    ISANetConfig(),
    title="ISANet (ResNet-101)",
    paper="arXiv:1907.12273",
    year=2019,
    idea="Attention to all pixels as the product of two sparse ones: among pixels at a distance, "
    "and then among neighbours.",
    repository="https://github.com/openseg-group/openseg.pytorch",
    num_params=59_167_718,
    paper_size=(512, 1024),
    published=(
        Published("Cityscapes val", 79.55, "MODEL_ZOO of openseg.pytorch: one scale"),
        Published("Cityscapes val", 80.62, "MODEL_ZOO of openseg.pytorch: several scales, flip"),
    ),
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class ISANet(SegmentationModel):
    """Interlaced sparse self-attention network; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated to output stride 8.
    """

    align_corners = True
    aux_weights: ClassVar[dict[str, float]] = {"aux": 0.4}

    def __init__(self, config: ISANetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        pool_over_the_border(self.encoder)
        *_, third, fourth = self.encoder.channels
        self.pixels = conv_bn_relu(fourth, HIDDEN, 3)
        self.attention = InterlacedAttention(HIDDEN, KEYS, config.partition)
        self.join = nn.Sequential(conv_bn_relu(2 * HIDDEN, HIDDEN, 1), nn.Dropout2d(DROPOUT))
        self.head = nn.Conv2d(HIDDEN, config.num_classes, 1)
        self.aux = nn.Sequential(
            conv_bn_relu(third, HIDDEN, 3),
            nn.Dropout2d(DROPOUT),
            nn.Conv2d(HIDDEN, config.num_classes, 1),
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, h, w)`` at stride 8.

        Raises:
            InputError: one image in training mode whose features are a single pixel.
        """
        check_batch_norm(type(self).__name__, images, self.encoder.strides[-1], self.training)
        *_, third, fourth = self.encoder(images)
        x = self.pixels(fourth)
        x = self.join(torch.cat([x, self.attention(x)], dim=1))
        heads = {"logits": self.head(x)}
        if not self.logits_only:
            heads["aux"] = self.aux(third)
        return heads

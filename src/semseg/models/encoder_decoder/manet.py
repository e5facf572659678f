r"""MA-Net: a U-Net whose deepest feature attends to itself and whose copies are weighted.

Paper:
    Fan, Wang, Li, Wang. "MA-Net: A Multi-Scale Attention Network for Liver and Tumor
    Segmentation." IEEE Access 8, 2020, 10.1109/ACCESS.2020.3025372. No code of the authors is
    public; over a trunk it follows ``MAnet`` of segmentation_models_pytorch, whose outputs this
    network reproduces.

Shapes (H, W divisible by the trunk's largest stride; c_s = channels of the trunk at stride s):
    images       (N, C,    H,    W)
    attended     (N, c_32, H/32, W/32)   position-wise attention block (PAB)
    fused        (N, 256, H/16, W/16), (N, 128, H/8, W/8), (N, 64, H/4, W/4), (N, 32, H/2, W/2)
                                         multi-scale fusion attention blocks (MFAB)
    logits       (N, K,    H,    W)      one more double convolution at stride 1, then 3x3

Parameters:
    31,783,633 over resnet34 at K = 1, as in segmentation_models_pytorch.

Deviations:
    - The paper's own trunk of residual blocks is replaced by any trunk.
    - The library's attention is kept as it is, since trained weights rely on it: the softmax runs
      over all pairs of positions at once, not over one position's partners, and its result, a row
      per position, is laid out as if it were a row per channel.
    - The attention holds (H W / 1024)^2 numbers per image, 67 MB in float32 at 2048 x 2048.
    - New layers start as the library's do: He-uniform, the classifier Xavier-uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.models.base import ModelConfig, SegmentationModel, register
from semseg.models.encoder_decoder.unet import DECODER
from semseg.nn.conv import conv_bn_relu
from semseg.nn.init import toolbox_init_
from semseg.nn.norm import check_batch_norm

KEYS = 64
"""Channels in which positions are compared."""

REDUCTION = 16
"""Narrowing between the two layers that weight channels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MANetConfig(ModelConfig):
    """Settings of :class:`MANet`."""

    encoder: str = "resnet34.tv_in1k"
    """Trunk with features at strides 4 to 32, and 2 where it has one."""


@register(
    "manet",
    MANetConfig(num_classes=1),
    title="MA-Net",
    paper="IEEE Access 2020, 10.1109/ACCESS.2020.3025372",
    year=2020,
    idea="Self-attention between positions of the deepest feature, and channel weights made of "
    "the coarse and the fine feature together where a U-Net joins them.",
    num_params=31_783_633,
    paper_size=(512, 512),
    verified="reference output",
    small={"encoder": "resnet10t"},
)
class MANet(SegmentationModel):
    """MA-Net over any trunk; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, config: MANetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.multiple_of = max(self.encoder.strides)
        self.decoder = Decoder(self.encoder)
        self.head = nn.Conv2d(DECODER[1], config.num_classes, 3, padding=1)
        toolbox_init_(self.decoder, self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``: the output stride is 1."""
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), self.training)
        return {"logits": self.head(self.decoder(self.encoder(images)))}


class Decoder(nn.Module):
    """Attention, then five steps of enlarging: an encoder's features to ``(N, 16, H, W)``.

    Steps whose stride the trunk lacks (1, and 2 of trunks that begin at 4) fuse nothing.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        strides = [s for s in DECODER if s >= 4 or (s == 2 and s in encoder.strides)]
        self.places = [encoder.index_of(stride) for stride in (32, *strides)]
        cin, *copied = (encoder.channels[place] for place in self.places)
        self.attention = PositionAttention(cin)
        self.blocks = nn.ModuleList()
        for step, cout in enumerate(DECODER.values()):
            fused = step < len(copied)
            self.blocks.append(Fusion(cin, copied[step], cout) if fused else Plain(cin, cout))
            cin = cout

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the finest level."""
        deepest, *copies = (features[place] for place in self.places)
        x: Tensor = self.attention(deepest)
        for step, block in enumerate(self.blocks):
            x = block(x, copies[step]) if step < len(copies) else block(x)
        return x


class PositionAttention(nn.Module):
    """Position-wise attention block: ``(N, c, h, w) -> (N, c, h, w)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, KEYS, 1)
        self.key = nn.Conv2d(channels, KEYS, 1)
        self.value = nn.Conv2d(channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with what its positions gather from each other added, convolved."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        pairs = query.transpose(1, 2) @ key  # (N, hw, hw)
        weights = pairs.flatten(1).softmax(1).view_as(pairs)  # over all pairs at once
        gathered = weights @ value.transpose(1, 2)  # (N, hw, c)
        # laid out as (N, c, hw) without a transpose, as the trained weights expect
        out: Tensor = self.out(x + gathered.reshape(x.shape))
        return out


class ChannelWeights(nn.Sequential):
    """Squeeze and excitation: ``(N, c, h, w)`` to weights ``(N, c, 1, 1)`` in [0, 1]."""

    def __init__(self, channels: int) -> None:
        narrow = max(1, channels // REDUCTION)
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, narrow, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, channels, 1),
            nn.Sigmoid(),
        )


class Fusion(nn.Module):
    """Multi-scale fusion attention block.

    Args:
        cin: channels of the coarse feature.
        copied: channels of the trunk's feature at the next finer stride.
        cout: channels of the result, which has that feature's size.
    """

    def __init__(self, cin: int, copied: int, cout: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(conv_bn_relu(cin, cin, 3), conv_bn_relu(cin, copied, 1))
        self.fine = ChannelWeights(copied)
        self.coarse = ChannelWeights(copied)
        self.convs = double(2 * copied, cout)

    def forward(self, x: Tensor, copy: Tensor) -> Tensor:
        """Return both features joined; the coarse one weighted by what both of them hold."""
        x = F.interpolate(self.reduce(x), copy.shape[-2:], mode="nearest")
        x = x * (self.coarse(x) + self.fine(copy))
        out: Tensor = self.convs(torch.cat([x, copy], dim=1))
        return out


class Plain(nn.Module):
    """A step with nothing to fuse: ``(N, cin, h, w) -> (N, cout, 2h, 2w)``."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.convs = double(cin, cout)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` enlarged and convolved."""
        out: Tensor = self.convs(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def double(cin: int, cout: int) -> nn.Sequential:
    """Two 3x3 convolutions with BatchNorm and ReLU: ``(N, cin, H, W) -> (N, cout, H, W)``."""
    return nn.Sequential(conv_bn_relu(cin, cout, 3), conv_bn_relu(cout, cout, 3))

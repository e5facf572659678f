r"""LinkNet: each encoder stage hands its input to the decoder stage of the same size, by addition.

Paper:
    Chaurasia, Culurciello. "LinkNet: Exploiting Encoder Representations for Efficient Semantic
    Segmentation." VCIP 2017. arXiv:1707.03718. Layers follow the authors' Lua file
    ``models/model.lua``; over another trunk, ``Linknet`` of segmentation_models_pytorch.

Shapes (H, W divisible by 32):
    images       (N, C,  H,   W)
    stem         (N, 64, H/4, W/4)    7x7 with stride 2, max-pool
    encode 1..4  (N, 64, H/4, W/4), (N, 128, H/8, W/8), (N, 256, H/16, W/16), (N, 512, H/32, W/32)
    decode 4..1  (N, 256, H/16, W/16), (N, 128, H/8, W/8), (N, 64, H/4, W/4), (N, 64, H/4, W/4)
    head         (N, 32, H/2, W/2)    3x3 transposed, then 3x3
    logits       (N, K,  H,   W)      2x2 transposed
    With an encoder (c_s = its channels at stride s): decode (N, c_16, H/16, W/16), …
    (N, c_2, H/2, W/2), (N, 32, H, W), then 1x1

Parameters:
    11,536,691 at K = 19: 11,176,512 of ResNet-18, 360,179 of decoder and head. The authors' later
    PyTorch code has 11,535,699: no bias in the decoder's convolutions. With
    ``encoder="resnet18"`` and K = 21 11,664,437, as in segmentation_models_pytorch.

Deviations:
    - The authors count "unlabelled" as a class (K = 12 and 20); here it is ignored.
    - The Lua file's ReLU after each addition is left out: it changes nothing, because neither
      addend is negative.
    - The authors' PyTorch code has 1e-5 as constant of every norm, where the Lua file has 1e-3 for
      all but the head's first.
    - ``encoder`` is not the paper's: it is what the community calls LinkNet. It copies the stem
      before its pooling too, enlarges with 4x4 kernels and ends in one more decoder block. Its
      transposed convolutions start as PyTorch's do, its others He-uniform, and the classifier
      Xavier-uniform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu
from semseg.nn.init import toolbox_init_
from semseg.nn.norm import check_batch_norm

TRUNK = "resnet18.tv_in1k"
"""The authors' trunk."""

HEAD = 32
"""Channels before the classifier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkNetConfig(ModelConfig):
    """Settings of :class:`LinkNet`."""

    encoder: str | None = None
    """Trunk of the community's form; none is the authors' network over ResNet-18."""


@register(
    "linknet",
    LinkNetConfig(num_classes=19),
    title="LinkNet",
    paper="arXiv:1707.03718",
    year=2017,
    idea="The input of each encoder stage is added to the output of its decoder stage, so that the "
    "decoder can be small.",
    repository="https://github.com/e-lab/LinkNet",
    num_params=11_536_691,
    paper_size=(360, 640),
    published=(
        Published("Cityscapes val", 76.44, "authors' README; 512 x 1024 images"),
        Published("CamVid test", 69.10, "authors' README; 576 x 768 images"),
    ),
    verified="reference output",
)
class LinkNet(SegmentationModel):
    """LinkNet as the authors' Lua code builds it, or over any trunk; see the module docstring.

    Raises:
        InputError: the chosen trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, config: LinkNetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder or TRUNK, config.in_channels)
        self.multiple_of = max(self.encoder.strides)
        self.decoder: Decoder | TrunkDecoder
        if config.encoder is None:
            self.decoder = Decoder()
            self.head: nn.Module = head(config.num_classes)
            torch7_init_(self.decoder)
            torch7_init_(self.head)
        else:
            self.decoder = TrunkDecoder(self.encoder)
            self.head = nn.Conv2d(HEAD, config.num_classes, 1)
            toolbox_init_(self.decoder, self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``: the output stride is 1."""
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), self.training)
        return {"logits": self.head(self.decoder(self.encoder(images)))}


# ---- the authors' network ----------------------------------------------------------------------


class Decoder(nn.Module):
    """ResNet-18's features to ``(N, 64, H/4, W/4)``."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((512, 256), (256, 128), (128, 64), (64, 64))
        self.blocks = nn.ModuleList(
            decode(cin, cout, stride=1 if cin == 64 else 2) for cin, cout in widths
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the last sum; each stage's input is what its decoder's output is added to."""
        stem, *stages = features
        inputs = [F.max_pool2d(stem, 3, stride=2, padding=1), *stages[:-1]]
        x = stages[-1]
        for block, skip in zip(self.blocks, reversed(inputs), strict=True):
            x = block(x) + skip  # both come out of a ReLU, so another would change nothing
        return x


def decode(cin: int, cout: int, stride: int) -> nn.Sequential:
    """1x1 to a quarter, 3x3 transposed, 1x1: ``(N, cin, h, w) -> (N, cout, s h, s w)``."""
    narrow = cin // 4
    layers: list[nn.Module] = []
    for conv in (
        nn.Conv2d(cin, narrow, 1),
        nn.ConvTranspose2d(narrow, narrow, 3, stride, padding=1, output_padding=stride - 1),
        nn.Conv2d(narrow, cout, 1),
    ):
        layers += [conv, nn.BatchNorm2d(conv.out_channels, eps=1e-3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def head(num_classes: int) -> nn.Sequential:
    """The authors' classifier: ``(N, 64, H/4, W/4) -> (N, K, H, W)``."""
    return nn.Sequential(
        nn.ConvTranspose2d(64, HEAD, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(HEAD),
        nn.ReLU(inplace=True),
        nn.Conv2d(HEAD, HEAD, 3, padding=1),
        nn.BatchNorm2d(HEAD, eps=1e-3),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(HEAD, num_classes, 2, stride=2),
    )


def torch7_init_(part: nn.Module) -> None:
    """Draw weights from N(0, sqrt(2 / (k k out))) and biases as Torch7 does, in place."""
    for conv in part.modules():
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            area = math.prod(conv.kernel_size)
            nn.init.normal_(conv.weight, std=math.sqrt(2 / (area * conv.out_channels)))
            if conv.bias is not None:
                bound = 1 / math.sqrt(area * conv.in_channels)
                nn.init.uniform_(conv.bias, -bound, bound)


# ---- over any trunk ----------------------------------------------------------------------------


class TrunkDecoder(nn.Module):
    """Five doubling blocks over any trunk: its features to ``(N, 32, H, W)``.

    Blocks without a feature of their size (stride 1, and 2 of trunks that begin at 4) add nothing.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        strides = [s for s in (16, 8, 4, 2) if s >= 4 or s in encoder.strides]
        self.places = [encoder.index_of(stride) for stride in (32, *strides)]
        widths = [encoder.channels[place] for place in self.places]
        widths += [widths[-1]] * (5 - len(widths)) + [HEAD]
        self.blocks = nn.ModuleList(double(cin, cout) for cin, cout in pairwise(widths))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the finest block's output."""
        x, *skips = (features[place] for place in self.places)
        for i, block in enumerate(self.blocks):
            x = block(x) + skips[i] if i < len(skips) else block(x)
        return x


def double(cin: int, cout: int) -> nn.Sequential:
    """1x1 to a quarter, 4x4 transposed, 1x1: ``(N, cin, h, w) -> (N, cout, 2h, 2w)``."""
    narrow = cin // 4
    return nn.Sequential(
        conv_bn_relu(cin, narrow, 1),
        nn.Sequential(
            nn.ConvTranspose2d(narrow, narrow, 4, stride=2, padding=1),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
        ),
        conv_bn_relu(narrow, cout, 1),
    )

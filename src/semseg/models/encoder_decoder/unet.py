r"""U-Net: a contracting path, an expanding path, and a copy across at every scale.

Paper:
    Ronneberger, Fischer, Brox. "U-Net: Convolutional Networks for Biomedical Image
    Segmentation." MICCAI 2015. arXiv:1505.04597. Layers follow Figure 1.

Shapes (H, W divisible by 16; w = width):
    images       (N, C,   H,      W)
    down 0..3    (N, w*2^i, H/2^i, W/2^i)
    bottom       (N, 16w, H/16,   W/16)
    logits       (N, K,   H,      W)
    With an encoder (H, W divisible by its largest stride s):
    features     (N, channels[i], H/strides[i], W/strides[i])
    up           (N, 256, H/16, W/16), (N, 128, H/8, W/8), … (N, 16, H, W)
    logits       (N, K,   H,      W)

Parameters:
    31,030,658 at width 64, one input channel, two classes (Figure 1). With ``encoder="resnet34"``,
    three channels and one class 24,436,369, as in segmentation_models_pytorch.

Deviations:
    - Convolutions are padded, so the output has the size of the input; the paper crops each copy
      and predicts 388 x 388 pixels of 572 x 572.
    - The paper names dropout at the end of the contracting path without place or rate; here 0.5
      after the last two levels, on the copy as well. Up-convolutions are linear, as the text has
      them; the network that the authors released differs (see ``unet_valid``).
    - The paper's pixel weights and its elastic deformation are the recipe's business.
    - ``encoder`` is not the paper's: it is what the community calls U-Net with a pretrained trunk.
      Its decoder enlarges by nearest neighbour, has BatchNorm and no dropout, and ends in a 3x3
      convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu
from semseg.nn.init import he_normal_
from semseg.nn.upsample import of_enlarged

DECODER = {16: 256, 8: 128, 4: 64, 2: 32, 1: 16}
"""Channels of the decoder over an encoder, by stride."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetConfig(ModelConfig):
    """Settings of :class:`UNet`."""

    width: int = 64
    """Channels at full resolution; doubles at each of the four halvings. Not for ``encoder``."""

    encoder: str | None = None
    """Trunk that replaces the paper's contracting path, e.g. ``"resnet34"``."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.width < 1:
            raise InputError(f"UNet needs width >= 1, got {self.width}")


@register(
    "unet",
    UNetConfig(in_channels=1, num_classes=2),
    encoder_defaults={"in_channels": 3},
    title="U-Net",
    paper="arXiv:1505.04597",
    year=2015,
    idea="An expanding path mirrors the contracting one and receives its features by copy, so "
    "few images are enough for sharp borders.",
    repository="https://lmb.informatik.uni-freiburg.de/people/ronneber/u-net/",
    num_params=31_030_658,
    paper_size=(572, 572),
    published=(
        Published("PhC-U373 (ISBI cell tracking 2015)", 92.03, "paper, Table 2"),
        Published("DIC-HeLa (ISBI cell tracking 2015)", 77.56, "paper, Table 2"),
    ),
    verified="reference output",
    small={"width": 8},
)
class UNet(SegmentationModel):
    """U-Net with padded convolutions, or its decoder over any trunk; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.encoder: Encoder | None = None
        self.decoder: ExpandingPath | Decoder
        if config.encoder is None:
            self.contracting = ContractingPath(config.in_channels, config.width)
            self.decoder = ExpandingPath(config.width)
            self.head = nn.Conv2d(config.width, config.num_classes, 1)
            he_normal_(self)
        else:
            self.encoder = build_encoder(config.encoder, config.in_channels)
            self.decoder = Decoder(self.encoder)
            self.head = nn.Conv2d(DECODER[1], config.num_classes, 3, padding=1)
        self.multiple_of = 16 if self.encoder is None else max(self.encoder.strides)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``: the output stride is 1."""
        contract = self.contracting if self.encoder is None else self.encoder
        return {"logits": self.head(self.decoder(contract(images)))}


class ContractingPath(nn.Module):
    """Five levels of two convolutions, a max-pool between: ``w, 2w, 4w, 8w, 16w`` channels."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(5)]
        self.levels = nn.ModuleList(
            double_conv(cin, cout) for cin, cout in pairwise((in_channels, *widths))
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the five levels of ``(N, C, H, W)``, finest first."""
        x, features = images, []
        for i, level in enumerate(self.levels):
            x = level(x if i == 0 else self.pool(x))  # (N, w * 2^i, H / 2^i, W / 2^i)
            if i >= 3:
                x = self.dropout(x)
            features.append(x)
        return features


class ExpandingPath(nn.Module):
    """Up-convolution, copy, two convolutions, four times: five features to ``(N, w, H, W)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in reversed(range(4))]  # 8w, 4w, 2w, w
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in widths)
        self.levels = nn.ModuleList(double_conv(2 * c, c) for c in widths)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the finest level, from features finest first."""
        *skips, x = features
        for grow, level, skip in zip(self.grow, self.levels, reversed(skips), strict=True):
            x = level(torch.cat([skip, grow(x)], dim=1))
        return x


class Decoder(nn.Module):
    """Nearest-neighbour enlarging, copy, two conv-BN-ReLU, at strides 16, 8, 4, 2 and 1.

    The copies at strides 2 and 1 are left out where the trunk has no such feature.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.deepest = encoder.index_of(32)
        self.skips = [
            encoder.index_of(stride) if stride >= 4 or stride in encoder.strides else None
            for stride in DECODER
        ]
        cin = encoder.channels[self.deepest]
        blocks = []
        for skip, cout in zip(self.skips, DECODER.values(), strict=True):
            copied = 0 if skip is None else encoder.channels[skip]
            blocks.append(Level(cin, copied, cout))
            cin = cout
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return ``(N, 16, H, W)`` from an encoder's features."""
        x = features[self.deepest]
        for block, skip in zip(self.blocks, self.skips, strict=True):
            x = block(x, None if skip is None else features[skip])
        return x


class Level(nn.Sequential):
    """Enlarging, copy, two conv-BN-ReLU: ``(N, cin, h, w) -> (N, cout, 2h, 2w)``.

    Args:
        cin: channels from the level below.
        copied: channels of the copy; 0 for none.
        cout: channels out.
    """

    def __init__(self, cin: int, copied: int, cout: int) -> None:
        super().__init__(conv_bn_relu(cin + copied, cout, 3), conv_bn_relu(cout, cout, 3))
        self.cin = cin

    def forward(self, x: Tensor, copy: Tensor | None) -> Tensor:  # type: ignore[override]
        """Return the level, of the size of ``copy``, or twice as large as ``x``."""
        out: Tensor = self[1](self[0](enlarged(x, copy)))
        return out

    def merged(self) -> MergedLevel:
        """Return the equal level that enlarges by a transposed convolution, for prediction."""
        return MergedLevel(self)


class MergedLevel(nn.Module):
    """:class:`Level` in eval mode with fewer products; see :func:`of_enlarged`."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        conv, norm = level.get_submodule("0.0"), level.get_submodule("0.1")
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        self.whole = fuse_conv_bn_eval(conv, norm)
        self.grow = of_enlarged(self.whole, level.cin)
        self.copied = self.whole.in_channels - level.cin
        self.second = level.get_submodule("1")

    def forward(self, x: Tensor, copy: Tensor | None) -> Tensor:
        """Return the level."""
        if copy is None:
            first = self.grow(x)
        elif copy.shape[-2:] == (2 * x.shape[-2], 2 * x.shape[-1]):
            first = self.grow(x) + F.conv2d(copy, self.whole.weight[:, -self.copied :], padding=1)
        else:
            first = self.whole(enlarged(x, copy))
        out: Tensor = self.second(F.relu(first))
        return out


def enlarged(x: Tensor, copy: Tensor | None) -> Tensor:
    """Return ``x`` enlarged by nearest neighbour, before its copy where there is one."""
    if copy is None:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    # to the copy's size: trunks with unpadded convolutions are not exactly at x2
    return torch.cat([F.interpolate(x, copy.shape[-2:], mode="nearest"), copy], dim=1)


def double_conv(cin: int, cout: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with a ReLU: ``(N, cin, H, W) -> (N, cout, H, W)``."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(cout, cout, 3, padding=1),
        nn.ReLU(inplace=True),
    )

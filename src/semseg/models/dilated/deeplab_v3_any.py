r"""DeepLab v3 and v3+ over any trunk, as segmentation_models_pytorch has them.

Paper:
    Chen, Papandreou, Schroff, Adam, arXiv:1706.05587, and Chen, Zhu, Papandreou, Schroff, Adam,
    arXiv:1802.02611, in the reading of the toolbox segmentation_models_pytorch 0.5,
    ``decoders/deeplabv3``. The papers' own networks are ``deeplab_v3_resnet101``,
    ``deeplab_v3_plus_resnet101`` and their neighbours.

Shapes (H, W divisible by s = output_stride; channels of resnet34):
    images       (N, C,   H,   W)
    deep         (N, 512, H/s, W/s)
    aspp         (N, 256, H/s, W/s)
    deeplab_v3: 3x3 convolution, then the classifier; s = 8
    logits       (N, K,   H/8, W/8)
    deeplab_v3_plus: separable 3x3, enlarged, beside 48 channels of low, separable 3x3; s = 16
    low          (N, 64,  H/4, W/4)
    logits       (N, K,   H/4, W/4)

Parameters:
    26,012,245 (v3) and 22,442,597 (v3+) over resnet34 at K = 21.

Deviations (of the toolbox from the papers):
    - Dilations 12, 24, 36 at output stride 16 too, and dropout 0.5 instead of 0.1.
    - v3 has one more 3x3 convolution before the classifier, as in torchvision.
    - v3+ has one separable convolution after the pyramid and one after joining the fine feature,
      the paper two after joining. Separable convolutions have norm and ReLU only at their end;
      the authors' have both also in the middle.
    - Its own ResNets dilate the first unit of a stage as well, names with ``tu-`` do not
      (``dilate_first``).
    - New layers start as PyTorch's do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.dilation import dilate_whole_stages, resnet_stages
from semseg.models.base import ModelConfig, SegmentationModel, register
from semseg.models.dilated.deeplab_v3 import (
    ASPP,
    RATES,
    dilated_conv,
)
from semseg.nn.conv import conv_bn_relu

LOW_DEPTH = 48
"""Channels that the fine feature is reduced to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepLabV3AnyConfig(ModelConfig):
    """Settings of :class:`DeepLabV3Any`; in brackets the toolbox's names."""

    encoder: str = "resnet34"
    """Trunk whose strides can be dilated [``encoder_name``]."""

    output_stride: int = 8
    """Stride of the deepest feature, 16 or 8 [``encoder_output_stride``]."""

    rates: tuple[int, ...] = RATES[8]
    """Dilations of the pyramid [``decoder_atrous_rates``]."""

    width: int = 256
    """Channels of pyramid and decoder [``decoder_channels``]."""

    separable: bool = False
    """Separate the pyramid's 3x3 convolutions [``decoder_aspp_separable``]."""

    dilate_first: bool = True
    """Of ResNets: dilate the first unit of a stage as well, as the toolbox does where the name is
    ``resnet34``. ``False`` leaves it out as timm does, for the name ``tu-resnet34``. Other trunks
    are timm's in either case: those of the toolbox's names with ``tu-``."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.output_stride not in RATES:
            raise InputError(f"DeepLab has output_stride 16 or 8, got {self.output_stride}")
        if not self.rates or min(self.rates) < 1:
            raise InputError(
                f"rates are dilations of at least 1, e.g. (6, 12, 18); got {self.rates}"
            )
        if self.width < 1:
            raise InputError(f"DeepLab needs width >= 1, got {self.width}")


def separable_conv(cin: int, cout: int, dilation: int = 1) -> nn.Module:
    """3x3 per channel, 1x1 across channels, then norm and ReLU, which are not between the two."""
    return nn.Sequential(
        nn.Conv2d(cin, cin, 3, padding=dilation, dilation=dilation, groups=cin, bias=False),
        nn.Conv2d(cin, cout, 1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


FACTS = {
    "repository": "https://github.com/qubvel-org/segmentation_models.pytorch",
    "paper_size": (512, 512),
    "verified": "reference output",
    "small": {"encoder": "test_resnet", "width": 16},
}


@register(
    "deeplab_v3",
    DeepLabV3AnyConfig(),
    title="DeepLab v3 (any trunk)",
    paper="arXiv:1706.05587",
    year=2017,
    idea="Dilated convolutions of several rates beside the pooled image, over any trunk.",
    num_params=26_012_245,
    **FACTS,
)
class DeepLabV3Any(SegmentationModel):
    """The toolbox's ``DeepLabV3``; see the module docstring.

    Raises:
        InputError: the trunk cannot have this output stride.
    """

    align_corners = True

    def __init__(self, config: DeepLabV3AnyConfig) -> None:
        super().__init__(config)
        stride = config.output_stride
        self.multiple_of = stride
        self.encoder = build_encoder(config.encoder, config.in_channels, stride)
        if config.dilate_first and resnet_stages(self.encoder) is not None:
            dilate_whole_stages(self.encoder, stride)
        self.deep = self.encoder.index_of(stride)
        self.aspp = ASPP(
            self.encoder.channels[self.deep],
            config.rates,
            separable_conv if config.separable else dilated_conv,
            config.width,
            dropout=0.5,
        )
        self.add_decoder(config)
        self.head = nn.Conv2d(config.width, config.num_classes, 1)

    def add_decoder(self, config: DeepLabV3AnyConfig) -> None:
        """Add the layers between the pyramid and the classifier."""
        self.refine = dilated_conv(config.width, config.width)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at the output stride.

        Raises:
            InputError: one image in training mode.
        """
        return {"logits": self.head(self.refine(self.aspp(self.encoder(images)[self.deep])))}


@register(
    "deeplab_v3_plus",
    DeepLabV3AnyConfig(output_stride=16, separable=True),
    title="DeepLab v3+ (any trunk)",
    paper="arXiv:1802.02611",
    year=2018,
    idea="A small decoder over a fine feature sharpens dilated pyramid pooling, over any trunk.",
    num_params=22_442_597,
    **FACTS,
)
class DeepLabV3PlusAny(DeepLabV3Any):
    """The toolbox's ``DeepLabV3Plus``; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4 or cannot have this output stride.
    """

    def add_decoder(self, config: DeepLabV3AnyConfig) -> None:
        """Add the layers between the pyramid and the classifier."""
        width = config.width
        self.low = self.encoder.index_of(4)
        self.refine = separable_conv(width, width)
        self.project_low = conv_bn_relu(self.encoder.channels[self.low], LOW_DEPTH, 1)
        self.decoder = separable_conv(width + LOW_DEPTH, width)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 4.

        Raises:
            InputError: one image in training mode.
        """
        features = self.encoder(images)
        low = self.project_low(features[self.low])  # (N, 48, H/4, W/4)
        x = self.refine(self.aspp(features[self.deep]))  # (N, width, H/s, W/s)
        x = F.interpolate(x, low.shape[-2:], mode="bilinear", align_corners=True)
        return {"logits": self.head(self.decoder(torch.cat([x, low], dim=1)))}

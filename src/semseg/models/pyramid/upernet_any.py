r"""UPerNet as a toolbox has it: half as wide, features normalised first, over any trunk.

Paper:
    Xiao, Liu, Zhou, Jiang, Sun. "Unified Perceptual Parsing for Scene Understanding." ECCV 2018.
    arXiv:1807.10221. This form is that of ``UPerNet`` in segmentation_models_pytorch; for the
    authors' see ``upernet_resnet50``.

Shapes (H, W divisible by 32; channels of resnet34):
    images       (N, C, H, W)
    features     (N, 64, H/4, W/4), (N, 128, H/8, W/8), (N, 256, H/16, W/16), (N, 512, H/32, W/32)
    context      (N, 256, H/32, W/32)
    levels       (N, 256, …) at strides 4, 8 and 16
    logits       (N, K, H/4, W/4)

Parameters:
    29,604,821 over resnet34 at K = 21, as ``UPerNet("resnet34", classes=21)``.

Deviations:
    - From the authors: LayerNorm over channels on every feature of the trunk, 256 channels for
      512, averages are enlarged after their 1x1, scores are enlarged corner on corner, and the
      loss compares at the size of the image.
    - From the toolbox: plain vision transformers are taken too, and brought to four strides by
      transposed convolutions and pooling as BEiT does (arXiv:2106.08254).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, SegmentationModel, register
from semseg.models.pyramid.levels import Levels
from semseg.models.pyramid.pspnet import BINS, PyramidPooling
from semseg.models.pyramid.upernet import STRIDES, FeaturePyramid, stacked
from semseg.nn.conv import conv_bn_relu
from semseg.nn.init import toolbox_init_

WIDTH = 256
"""Channels of the decoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UPerNetAnyConfig(ModelConfig):
    """Settings of :class:`UPerNetAny`."""

    encoder: str = "resnet34"
    """Any trunk with features at strides 4 to 32."""

    width: int = WIDTH
    """Channels of the decoder."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.width < 1:
            raise InputError(f"UPerNetAny needs width >= 1, got {self.width}")


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel: ``(N, C, h, w) -> (N, C, h, w)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised feature."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ToolboxContext(nn.Module):
    """Pyramid pooling and 3x3: ``(N, cin, h, w) -> (N, width, h, w)``."""

    def __init__(self, cin: int, width: int) -> None:
        super().__init__()
        self.pooling = PyramidPooling(cin, width, align_corners=False)
        self.join = conv_bn_relu(cin + len(BINS) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined feature."""
        out: Tensor = self.join(torch.cat([x, *self.pooling(x)], dim=1))
        return out


@register(
    "upernet",
    UPerNetAnyConfig(),
    title="UPerNet (any trunk)",
    paper="arXiv:1807.10221",
    year=2018,
    idea="Pyramid pooling on top of a feature pyramid, over any trunk.",
    repository="https://github.com/qubvel-org/segmentation_models.pytorch",
    num_params=29_604_821,
    verified="reference output",
    small={"encoder": "test_resnet", "width": 16},
)
class UPerNetAny(SegmentationModel):
    """UPerNet over any trunk; see the module docstring.

    Training mode needs at least two images per step; see :class:`PyramidPooling`.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32 and is no plain transformer.
    """

    align_corners = True

    def __init__(self, config: UPerNetAnyConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.levels = Levels(self.encoder)
        self.multiple_of, channels = self.levels.multiple_of, self.levels.channels
        self.norms = nn.ModuleList(ChannelNorm(count, eps=1e-6) for count in channels)
        self.context = ToolboxContext(channels[-1], config.width)
        self.pyramid = FeaturePyramid(channels[:-1], config.width)
        self.fusion = conv_bn_relu(len(STRIDES) * config.width, config.width, 3)
        self.head = nn.Conv2d(config.width, config.num_classes, 1)
        toolbox_init_(nn.ModuleList([self.context, self.pyramid, self.fusion]), self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/4, W/4)``.

        Raises:
            InputError: one image in training mode.
        """
        features = self.levels(self.encoder(images))
        *finer, deepest = [norm(x) for x, norm in zip(features, self.norms, strict=True)]
        levels = self.pyramid(finer, self.context(deepest))
        return {"logits": self.head(self.fusion(stacked(levels)))}

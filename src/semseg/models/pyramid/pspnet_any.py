r"""PSPNet as a toolbox has it: light, over the upper part of any trunk, without auxiliary head.

Paper:
    Zhao, Shi, Qi, Wang, Jia. "Pyramid Scene Parsing Network." CVPR 2017. arXiv:1612.01105. This
    form is that of ``PSPNet`` in segmentation_models_pytorch, not the paper's; for the paper's
    see ``pspnet_resnet50``.

Shapes (H, W divisible by 8; channels of resnet34):
    images       (N, C, H, W)
    feature      (N, 128, H/8, W/8)
    pooled       4 x (N, 32, H/8, W/8)   of 1, 2 x 2, 3 x 3 and 6 x 6 averages
    joined       (N, 512, H/8, W/8)   1x1 over what was pooled beside the feature
    logits       (N, K, H/8, W/8)   3x3

Parameters:
    1,593,397 over resnet34 at K = 21, as ``PSPNet("tu-resnet34", classes=21)``. The toolbox's own
    "resnet34" counts 21,530,165, because it keeps the two deepest stages that it does not use.

Deviations:
    - From the paper: the trunk ends at stride 8 and is not dilated, so the pyramid pools a shallow
      feature; the whole image's average has a bias in place of BatchNorm, and one image can be
      trained on; 1x1 for 3x3 before the classifier and 3x3 for 1x1 in it; dropout 0.2 for 0.1;
      no auxiliary head.
    - From the toolbox: none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semseg.encoders.shallow import ShallowTimmEncoder
from semseg.models.base import ModelConfig, SegmentationModel, register
from semseg.models.pyramid.pspnet import BINS, HIDDEN, PyramidPooling
from semseg.nn.conv import conv_bn_relu
from semseg.nn.init import toolbox_init_
from semseg.nn.norm import check_batch_norm

STRIDE = 8
"""Where the trunk ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PSPNetAnyConfig(ModelConfig):
    """Settings of :class:`PSPNetAny`."""

    encoder: str = "resnet34"
    """Any timm trunk with a feature at stride 8; what is deeper is left out."""


@register(
    "pspnet",
    PSPNetAnyConfig(),
    title="PSPNet (any trunk)",
    paper="arXiv:1612.01105",
    year=2017,
    idea="The pyramid of averages on a shallow feature: context at little cost.",
    repository="https://github.com/qubvel-org/segmentation_models.pytorch",
    num_params=1_593_397,
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class PSPNetAny(SegmentationModel):
    """PSPNet over the upper part of any trunk; see the module docstring.

    Raises:
        InputError: the trunk has no feature at stride 8.
    """

    multiple_of = STRIDE
    align_corners = True

    def __init__(self, config: PSPNetAnyConfig) -> None:
        super().__init__(config)
        self.encoder = ShallowTimmEncoder(config.encoder, config.in_channels, deepest=STRIDE)
        channels = self.encoder.channels[-1]
        level = channels // len(BINS)
        self.pooling = PyramidPooling(channels, level, align_corners=True)
        # a norm over one value per image would leave nothing of it
        self.pooling.levels[0] = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, level, 1), nn.ReLU(inplace=True)
        )
        self.join = conv_bn_relu(2 * channels, HIDDEN, 1)
        self.dropout = nn.Dropout2d(0.2)
        self.head = nn.Conv2d(HIDDEN, config.num_classes, 3, padding=1)
        toolbox_init_(nn.ModuleList([self.pooling, self.join]), self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/8, W/8)``."""
        check_batch_norm(type(self).__name__, images, STRIDE, self.training)
        feature = self.encoder(images)[-1]
        joined = self.join(torch.cat([*self.pooling(feature), feature], dim=1))
        return {"logits": self.head(self.dropout(joined))}

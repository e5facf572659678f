r"""Wider ResNet-38: 38 pre-activated layers, up to 4096 channels wide, as a plain dilated FCN.

Paper:
    Wu, Shen, van den Hengel. "Wider or Deeper: Revisiting the ResNet Model for Visual
    Recognition." 2016; Pattern Recognition 2019. arXiv:1611.10080. Layers follow
    ``fcrna_model_a1`` of the authors' MXNet code: model A1 with two convolutions on top.

Shapes (H, W divisible by 8):
    images       (N, C,    H,   W)
    mod1         (N, 64,   H,   W)
    mod2         (N, 128,  H/2, W/2)   3 units of two 3x3 convolutions
    mod3         (N, 256,  H/4, W/4)   3
    mod4         (N, 512,  H/8, W/8)   6
    mod5         (N, 1024, H/8, W/8)   3, dilation 2
    mod6         (N, 2048, H/8, W/8)   one of 1x1, 3x3 and 1x1, dilation 4, dropout 0.3
    mod7         (N, 4096, H/8, W/8)   another, dilation 4, dropout 0.5
    hidden       (N, 512,  H/8, W/8)   3x3 with dilation 12
    logits       (N, K,    H/8, W/8)   3x3 with dilation 12

Parameters:
    124,033,363 at K = 19: 105,070,912 of the trunk, 18,874,880 of the hidden layer and 87,571 of
    the classifier, both with bias and without normalisation, as in the authors' code and in
    their drawing of the released model.

Deviations:
    - The authors keep each score whose true class has a probability of at most 0.6, and at least
      256 of a step; the recipe takes the 512 worst of each image.
    - They double the learning rate of biases and train without decay of them.
    - They enlarge scores bicubically, here bilinearly.
    - Their weights are MXNet files; see ``load_pretrained`` for the files that are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from semseg.encoders.wider_resnet38 import WiderResNet38
from semseg.models.base import ModelConfig, Published, register
from semseg.models.dilated.fcrn import STRIDE, DilatedFCN, wide_view

HIDDEN = 8
"""Channels of the hidden layer as a multiple of the stem's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WiderResNet38Config(ModelConfig):
    """Settings of :class:`WiderResNet38FCN`."""

    fixed_statistics: bool = False
    """Whether training keeps the norms' statistics as loaded, as the paper does; their weights
    are trained. It needs pretrained weights."""

    width: int = 64
    """Channels of the stem; all others are multiples of it."""


@register(
    "wider_resnet38",
    WiderResNet38Config(num_classes=19),
    title="Wider ResNet-38",
    paper="arXiv:1611.10080",
    year=2016,
    idea="A residual network deeper than the paths it trains end to end gains nothing by depth: "
    "few and very wide units do better, and serve segmentation as they are.",
    repository="https://github.com/itijyou/ademxapp",
    num_params=124_033_363,
    paper_size=(504, 504),
    published=(
        Published("Cityscapes val", 78.08, "authors' README: model A1, one scale and mirrored"),
        Published("PASCAL VOC 2012 test", 82.5, "authors' README: model A1, one scale"),
        Published("ADE20K val", 43.34, "authors' README: model A1, finer scores"),
    ),
    verified="reference output",
    small={"width": 4},
)
class WiderResNet38FCN(DilatedFCN):
    """ResNet-38 with two dilated convolutions on top; see the module docstring."""

    def __init__(self, config: WiderResNet38Config) -> None:
        super().__init__(config)
        self.encoder = WiderResNet38(config.in_channels, STRIDE, config.width)
        cin = self.encoder.channels[-1]
        self.head = wide_view(cin, config.num_classes, HIDDEN * config.width)
        self.fixed_statistics = config.fixed_statistics

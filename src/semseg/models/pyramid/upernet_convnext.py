r"""UPerNet over Swin and ConvNeXt, as hierarchical trunks since Swin are measured.

Paper:
    Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo. "Swin Transformer: Hierarchical Vision Transformer
    using Shifted Windows." ICCV 2021. arXiv:2103.14030, section 4.3; Liu, Mao, Wu, Feichtenhofer,
    Darrell, Xie. "A ConvNet for the 2020s." CVPR 2022. arXiv:2201.03545, section 3.3 and appendix
    A.3. UPerNet itself is of arXiv:1807.10221; this is the form of mmsegmentation, whose published
    weights ``transformers`` holds as ``openmmlab/upernet-swin-tiny`` and so on.

Shapes (H, W divisible by 32; channels of Swin-T and ConvNeXt-T; w = width):
    images       (N, C, H, W)
    features     (N, 96, H/4, W/4), (N, 192, H/8, W/8), (N, 384, H/16, W/16), (N, 768, H/32, W/32)
    context      (N, w, H/32, W/32)
    levels       (N, w, …) at strides 4, 8 and 16
    logits       (N, K, H/4, W/4)
    aux          (N, K, H/16, W/16)

Parameters:
    60,242,636 (ConvNeXt-T), 81,877,196 (S) and 122,102,956 (B) at K = 150, both heads counted;
    59,941,862 (Swin-T), 81,259,766 (S) and 121,279,716 (B).

Deviations:
    - Over ConvNeXt, stochastic depth of 0.4 and layer-wise learning rates are left out: timm's
      trunk is built without the one, and the recipe has one rate for the trunk.
    - Over Swins by timm's names, windows of a map that they do not divide are cut elsewhere than
      in the authors' code; the trunks ``swin_tiny`` and so on of this library are as theirs.
    - Over plain transformers the features are brought to four strides as in BEiT's network
      (arXiv:2106.08254), which has no norms behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.pyramid.levels import Levels
from semseg.models.pyramid.upernet import STRIDES, FeaturePyramid, stacked
from semseg.models.pyramid.upernet_any import ChannelNorm, ToolboxContext
from semseg.nn.conv import conv_bn_relu

AUX_STRIDE, AUX_WIDTH = 16, 256
"""Of the feature that the auxiliary head reads, and its channels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UPerNetConvNeXtConfig(ModelConfig):
    """Settings of :class:`UPerNetConvNeXt`."""

    encoder: str = "convnext_tiny.fb_in1k"
    """Trunk with features at strides 4 to 32."""

    width: int = 512
    """Channels of the decoder."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.width < 1:
            raise InputError(f"UPerNetConvNeXt needs width >= 1, got {self.width}")


FACTS = {
    "paper": "arXiv:2201.03545",
    "year": 2022,
    "idea": "A convolutional trunk brought up to date with transformers, step by step, under a "
    "feature pyramid whose top has seen the whole image.",
    "repository": "https://github.com/facebookresearch/ConvNeXt",
    "paper_size": (512, 512),
    "verified": "reference output",
    "small": {"encoder": "test_convnext", "width": 16},
}
SWIN_FACTS = FACTS | {
    "paper": "arXiv:2103.14030",
    "year": 2021,
    "idea": "Attention in small windows that shift from block to block, in stages that halve the "
    "map, makes a transformer a trunk for any decoder.",
    "repository": "https://github.com/SwinTransformer/Swin-Transformer-Semantic-Segmentation",
    "small": {"encoder": "swin_smallest", "width": 16},
}
ADE = "ADE20K val"
README = "README of Swin-Transformer-Semantic-Segmentation, single scale"


@register(
    "upernet_convnext_tiny",
    UPerNetConvNeXtConfig(num_classes=150),
    title="UPerNet (ConvNeXt-T)",
    num_params=60_242_636,
    published=(Published(ADE, 46.11, "mmsegmentation, configs/convnext: 512 x 512, 160k steps"),),
    **FACTS,
)
@register(
    "upernet_convnext_small",
    UPerNetConvNeXtConfig(num_classes=150, encoder="convnext_small.fb_in1k"),
    title="UPerNet (ConvNeXt-S)",
    num_params=81_877_196,
    **FACTS,
)
@register(
    "upernet_convnext_base",
    UPerNetConvNeXtConfig(num_classes=150, encoder="convnext_base.fb_in1k"),
    title="UPerNet (ConvNeXt-B)",
    num_params=122_102_956,
    **FACTS,
)
@register(
    "upernet_swin_tiny",
    UPerNetConvNeXtConfig(num_classes=150, encoder="swin_tiny"),
    title="UPerNet (Swin-T)",
    num_params=59_941_862,
    published=(Published(ADE, 44.51, README),),
    **SWIN_FACTS,
)
@register(
    "upernet_swin_small",
    UPerNetConvNeXtConfig(num_classes=150, encoder="swin_small"),
    title="UPerNet (Swin-S)",
    num_params=81_259_766,
    published=(Published(ADE, 47.64, README),),
    **SWIN_FACTS,
)
@register(
    "upernet_swin_base",
    UPerNetConvNeXtConfig(num_classes=150, encoder="swin_base_window7"),
    title="UPerNet (Swin-B)",
    num_params=121_279_716,
    published=(Published(ADE, 48.13, README),),
    **SWIN_FACTS,
)
class UPerNetConvNeXt(SegmentationModel):
    """UPerNet with normalised features and an auxiliary head; see the module docstring.

    Training mode needs at least two images per step; see
    :class:`~semseg.models.pyramid.pspnet.PyramidPooling`.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32 and is no plain transformer.
    """

    aux_weights = {"aux": 0.4}  # noqa: RUF012

    def __init__(self, config: UPerNetConvNeXtConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.levels = Levels(self.encoder)
        self.multiple_of, channels = self.levels.multiple_of, self.levels.channels
        own = self.encoder.normalised
        self.norms = nn.ModuleList(
            nn.Identity() if own else ChannelNorm(count, eps=1e-6) for count in channels
        )
        self.context = ToolboxContext(channels[-1], config.width)
        self.pyramid = FeaturePyramid(channels[:-1], config.width)
        self.fusion = conv_bn_relu(len(STRIDES) * config.width, config.width, 3)
        self.head = classifier(config.width, config.num_classes)
        cin = channels[STRIDES.index(AUX_STRIDE)]
        self.aux = nn.Sequential(
            *conv_bn_relu(cin, AUX_WIDTH, 3), *classifier(AUX_WIDTH, config.num_classes)
        )
        for part in (self.context, self.pyramid, self.fusion, self.aux[0]):
            for conv in part.modules():
                if isinstance(conv, nn.Conv2d):
                    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/4, W/4)`` and ``"aux"`` ``(N, K, H/16, W/16)``.

        Raises:
            InputError: one image in training mode.
        """
        features = self.levels(self.encoder(images))
        maps = [norm(x) for x, norm in zip(features, self.norms, strict=True)]
        levels = self.pyramid(maps[:-1], self.context(maps[-1]))
        logits = self.head(self.fusion(stacked(levels)))
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "aux": self.aux(maps[STRIDES.index(AUX_STRIDE)])}

    def no_weight_decay(self) -> set[str]:
        """Return Swin's tables of relative positions."""
        end = "relative_position_bias_table"
        return {name for name, _ in self.named_parameters() if name.endswith(end)}


def classifier(width: int, num_classes: int) -> nn.Sequential:
    """Return dropout of channels and 1x1, which starts near zero."""
    conv = nn.Conv2d(width, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.Dropout2d(0.1), conv)

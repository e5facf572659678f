r"""DeepLab v3+: dilated pyramid pooling, and a small decoder that brings borders back.

Paper:
    Chen, Zhu, Papandreou, Schroff, Adam. "Encoder-Decoder with Atrous Separable Convolution for
    Semantic Image Segmentation." ECCV 2018. arXiv:1802.02611. Details that the text leaves open
    follow the authors' TensorFlow code.

Shapes (any H, W; s = output_stride; channels of resnet101, then of xception65):
    images       (N, C,    H,   W)
    low          (N, 256,  H/4, W/4)   both trunks
    deep         (N, 2048, H/s, W/s)   both trunks
    aspp         (N, 256,  H/s, W/s)
    logits       (N, K,    H/4, W/4)

Parameters:
    45,688,261 over resnet101 at 21 classes with separable convolutions (the default), 59,344,309
    with dense ones; 41,055,413 over xception65, the trunk of the paper's best results.

Deviations:
    - The ResNet is timm's: the authors' has three 3x3 convolutions as stem
      (``encoder="resnet101s.gluon_in1k"``) and the stride in a block's last unit.
    - Image pooling averages the whole image at any size; the TensorFlow code averages windows of
      the training crop's size, which is the same for one crop.
    - BatchNorm keeps PyTorch's momentum of 0.1 (the paper's decay of 0.9997 is a momentum of
      0.0003), so that runs shorter than the paper's 30,000 steps can be evaluated.
    - Separable convolutions in the ResNet's pyramid and decoder are the paper's of Xception; its
      Table 3 has dense ones (``separable=False``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.preprocess import Preprocessing
from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.encoders.dilation import dilate_whole_stages
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.dilated.deeplab_v3 import (
    ASPP,
    DEPTH,
    MULTI_GRID,
    RATES,
    check_dilation,
    dilated_conv,
    start_as_slim,
    truncated_normal_,
)
from semseg.nn.conv import conv_bn_relu, separable_conv_bn_relu

LOW_DEPTH = 48
"""Channels that the fine feature is reduced to (paper, Table 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepLabV3PlusConfig(ModelConfig):
    """Settings of :class:`DeepLabV3Plus`."""

    encoder: str = "resnet101.tv_in1k"
    """Trunk with a feature at stride 4 whose strides can be dilated; a ResNet, unless
    ``multi_grid`` is ``None``."""

    output_stride: int = 16
    """Stride of the deepest feature: 16, or 8 for better borders at four times the cost."""

    multi_grid: tuple[int, ...] | None = MULTI_GRID
    """Unit rates of the ResNet's last units (``deeplab_v3``); ``None`` dilates as timm does, and
    is what the paper has for Xception."""

    separable: bool = True
    """Separate the 3x3 convolutions of pyramid and decoder into depthwise and pointwise ones."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        check_dilation("DeepLabV3Plus", self.output_stride, self.multi_grid)


FACTS = {
    "paper": "arXiv:1802.02611",
    "year": 2018,
    "idea": "A decoder of two convolutions over a fine feature sharpens the output of dilated "
    "pyramid pooling, and separable convolutions make both cheaper.",
    "repository": "https://github.com/tensorflow/models/tree/master/research/deeplab",
    "paper_size": (513, 513),
    "verified": "arithmetic",
    "small": {"encoder": "test_resnet"},
}
VOC = "PASCAL VOC 2012"


@register(
    "deeplab_v3_plus_resnet101",
    DeepLabV3PlusConfig(),
    title="DeepLab v3+ (ResNet-101)",
    num_params=45_688_261,
    published=(
        Published(f"{VOC} val", 78.85, "paper, Table 3: output stride 16, dense convolutions"),
        Published(f"{VOC} val", 80.57, "paper, Table 3: stride 8, six scales, flipped, dense"),
    ),
    **FACTS,
)
@register(
    "deeplab_v3_plus_xception65",
    DeepLabV3PlusConfig(encoder="xception65.tf_in1k", multi_grid=None),
    title="DeepLab v3+ (Xception-65)",
    num_params=41_055_413,
    published=(
        Published(f"{VOC} val", 79.79, "paper, Table 5: output stride 16"),
        Published(f"{VOC} test", 87.8, "paper, Table 6: COCO in training"),
        Published("Cityscapes val", 78.79, "paper, Table 7 (a)"),
    ),
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    **FACTS,
)
class DeepLabV3Plus(SegmentationModel):
    """DeepLab v3+ over any trunk that can be dilated; see the module docstring.

    Training mode needs at least two images per step: image pooling leaves one value per channel
    and image, and BatchNorm cannot normalise a single value.

    Raises:
        InputError: the trunk lacks a feature at stride 4 or cannot have this output stride.
    """

    align_corners = True  # of every resize in the authors' code

    def __init__(self, config: DeepLabV3PlusConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, config.output_stride)
        if config.multi_grid is not None:
            dilate_whole_stages(self.encoder, config.output_stride, config.multi_grid)
        self.low = self.encoder.index_of(4)
        self.deep = self.encoder.index_of(config.output_stride)
        _take_before_relu(self.encoder, self.low)
        channels = self.encoder.channels
        conv3x3 = separable_conv_bn_relu if config.separable else dilated_conv
        self.aspp = ASPP(channels[self.deep], RATES[config.output_stride], conv3x3)
        self.project_low = conv_bn_relu(channels[self.low], LOW_DEPTH, 1)
        self.decoder = nn.Sequential(conv3x3(DEPTH + LOW_DEPTH, DEPTH), conv3x3(DEPTH, DEPTH))
        self.head = nn.Conv2d(DEPTH, config.num_classes, 1)
        _init(self.aspp, self.project_low, self.decoder, self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 4.

        Raises:
            InputError: one image in training mode.
        """
        features = self.encoder(images)
        low = self.project_low(features[self.low])  # (N, 48, H/4, W/4)
        x = self.aspp(features[self.deep])  # (N, 256, H/s, W/s)
        x = F.interpolate(x, low.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        x = self.decoder(torch.cat([x, low], dim=1))
        return {"logits": self.head(x)}

    def no_weight_decay(self) -> set[str]:
        """Return the depthwise kernels: the authors' code regularises the pointwise ones only."""
        return {f"{name}.weight" for name, part in self.named_modules() if _is_depthwise(part)}


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def _init(*parts: nn.Module) -> None:
    """Draw initial weights as the authors' code does: truncated normals for separated kernels."""
    start_as_slim(*parts)
    for part in parts:
        for block in part.modules():
            if not isinstance(block, nn.Sequential):
                continue
            convs = [layer for layer in block if isinstance(layer, nn.Conv2d)]
            if convs and _is_depthwise(convs[0]):
                for conv, std in zip(convs, (0.33, 0.06), strict=True):
                    truncated_normal_(conv, std)


def _take_before_relu(encoder: Encoder, place: int) -> None:
    """Let a feature from inside an aligned Xception's block leave it without its ReLU, in place.

    The authors take the output of the block's second separable convolution, timm what the third
    one reads, which is rectified. Any other trunk stays as it is.
    """
    trunk = getattr(encoder, "trunk", None)
    info = getattr(trunk, "feature_info", None)
    if not isinstance(trunk, nn.Module) or info is None:
        return
    name = str(info.module_name(place))
    if not name.endswith(".stack.act3"):
        return
    # timm flattens the list of blocks, which makes "blocks.1" to "blocks_1"
    modules = {key.replace("_", "."): module for key, module in trunk.named_modules()}
    relu, third = modules[name], modules[name.replace("act3", "conv3")]
    relu.inplace = False
    relu.register_forward_hook(_unchanged, prepend=True)  # before timm's own, which collects
    third.register_forward_pre_hook(_rectified)


def _unchanged(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> Tensor:
    return inputs[0]


def _rectified(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (F.relu(inputs[0]),)

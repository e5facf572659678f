r"""DeepLab v3+: dilated pyramid pooling, and a small decoder that brings borders back.

Paper:
    Chen, Zhu, Papandreou, Schroff, Adam. "Encoder-Decoder with Atrous Separable Convolution for
    Semantic Image Segmentation." ECCV 2018. arXiv:1802.02611. Details that the text leaves open
    follow the authors' TensorFlow code.

Shapes (any H, W; s = output_stride; channels of resnet101):
    images       (N, C,    H,   W)
    low          (N, 256,  H/4, W/4)
    deep         (N, 2048, H/s, W/s)
    aspp         (N, 256,  H/s, W/s)
    logits       (N, K,    H/4, W/4)

Parameters:
    45,688,261 over resnet101 at 21 classes with separable convolutions (the default), 59,344,309
    with dense ones; 41,055,413 over xception65, the trunk of the paper's best results.

Deviations:
    - The trunk is timm's plain ResNet: the authors' has three 3x3 convolutions as stem, the stride
      in a block's last unit, and a multi-grid (1, 2, 4) in the last block.
    - Image pooling averages the whole image at any size; the TensorFlow code averages windows of
      the training crop's size, which is the same for one crop.
    - BatchNorm keeps PyTorch's momentum of 0.1 (the paper's decay of 0.9997 is a momentum of
      0.0003), so that runs shorter than the paper's 30,000 steps can be evaluated.
    - Over ``encoder="xception65"`` the decoder takes timm's feature at stride 4 (256 channels, the
      output of the second entry block); the authors take a convolution inside that block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu, separable_conv_bn_relu

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Dilations of the pyramid by output stride (section 4.1 of DeepLab v3, arXiv:1706.05587)."""

DEPTH = 256
"""Channels of the pyramid and of the decoder."""

LOW_DEPTH = 48
"""Channels that the fine feature is reduced to (paper, Table 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepLabV3PlusConfig(ModelConfig):
    """Settings of :class:`DeepLabV3Plus`."""

    encoder: str = "resnet101"
    """Trunk with a feature at stride 4 whose strides can be dilated."""

    output_stride: int = 16
    """Stride of the deepest feature: 16, or 8 for better borders at four times the cost."""

    separable: bool = True
    """Separate the 3x3 convolutions of pyramid and decoder into depthwise and pointwise ones."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.output_stride not in RATES:
            raise InputError(f"DeepLabV3Plus has output_stride 16 or 8, got {self.output_stride}")


@register(
    "deeplab_v3_plus",
    DeepLabV3PlusConfig(),
    title="DeepLab v3+",
    paper="arXiv:1802.02611",
    year=2018,
    idea="A decoder of two convolutions over a fine feature sharpens the output of dilated "
    "pyramid pooling, and separable convolutions make both cheaper.",
    repository="https://github.com/tensorflow/models/tree/master/research/deeplab",
    num_params=45_688_261,
    paper_size=(513, 513),
    published=(
        Published(
            "PASCAL VOC 2012 val",
            78.85,
            "paper, Table 3: ResNet-101, output stride 16, dense convolutions",
        ),
        Published("PASCAL VOC 2012 test", 87.8, "paper, Table 6: Xception, pretrained on COCO too"),
    ),
    verified="arithmetic",
    small={"encoder": "test_resnet"},
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
        self.low = self.encoder.index_of(4)
        self.deep = self.encoder.index_of(config.output_stride)
        channels = self.encoder.channels
        conv3x3 = separable_conv_bn_relu if config.separable else _dense
        self.aspp = ASPP(channels[self.deep], RATES[config.output_stride], config.separable)
        self.project_low = conv_bn_relu(channels[self.low], LOW_DEPTH, 1)
        self.decoder = nn.Sequential(conv3x3(DEPTH + LOW_DEPTH, DEPTH), conv3x3(DEPTH, DEPTH))
        self.head = nn.Conv2d(DEPTH, config.num_classes, 1)
        for part in (self.aspp, self.project_low, self.decoder):
            _init(part)
        nn.init.trunc_normal_(self.head.weight, std=0.01, a=-0.02, b=0.02)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

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


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, image pooling; joined by 1x1.

    Args:
        cin: channels of the deep feature.
        rates: dilations of the 3x3 convolutions.
        separable: separate them into depthwise and pointwise ones.

    ``(N, cin, h, w) -> (N, 256, h, w)``.
    """

    def __init__(self, cin: int, rates: tuple[int, ...], separable: bool) -> None:
        super().__init__()
        conv3x3 = separable_conv_bn_relu if separable else _dense
        self.branches = nn.ModuleList(
            [conv_bn_relu(cin, DEPTH, 1), *(conv3x3(cin, DEPTH, rate) for rate in rates)]
        )
        self.image = conv_bn_relu(cin, DEPTH, 1)
        self.join = conv_bn_relu(DEPTH * (len(rates) + 2), DEPTH, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined branches.

        Raises:
            InputError: one image while the norm of image pooling is in training mode.
        """
        norm = self.image[1]
        # a synchronised norm, another class, sees the images of all devices
        if isinstance(norm, nn.BatchNorm2d) and norm.training and len(x) < 2:
            raise InputError(
                "deeplab_v3_plus needs at least 2 images per step in training mode: its "
                "image-pooling norm has one value per channel and image; use a batch size of 2 "
                "or more and drop an incomplete last batch"
            )
        image = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        branches = [branch(x) for branch in self.branches]
        joined: Tensor = self.dropout(self.join(torch.cat([*branches, image], dim=1)))
        return joined


def _dense(cin: int, cout: int, dilation: int = 1) -> nn.Sequential:
    return conv_bn_relu(cin, cout, 3, dilation)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def _init(part: nn.Module) -> None:
    """Draw initial weights as the authors' code does: truncated normals for separated kernels."""
    for block in part.modules():
        if not isinstance(block, nn.Sequential):
            continue
        convs = [layer for layer in block if isinstance(layer, nn.Conv2d)]
        if convs and _is_depthwise(convs[0]):
            for conv, std in zip(convs, (0.33, 0.06), strict=True):
                nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
        else:
            for conv in convs:
                nn.init.xavier_uniform_(conv.weight)

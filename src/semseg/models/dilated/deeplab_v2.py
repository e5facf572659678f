r"""DeepLab v2: the classifier sees the image at four dilations, the network at three scales.

Paper:
    Chen, Papandreou, Kokkinos, Murphy, Yuille. "DeepLab: Semantic Image Segmentation with Deep
    Convolutional Nets, Atrous Convolution, and Fully Connected CRFs." PAMI 2018.
    arXiv:1606.00915. Layers follow the authors' Caffe nets, through public ports of them.

Shapes (any H, W; h = ceil((H - 1) / 8) + 1 of the padded image; sizes at H = W = 321):
    images       (N, C,    321, 321)
    deep         (N, 2048, 41,  41)    ResNet-101: stage 3 with dilation 2, stage 4 with 4
    scale_100    (N, K,    41,  41)    sum of four 3x3 classifiers, dilations 6, 12, 18, 24
    scale_75     (N, K,    31,  31)    the same network on the image at 241 x 241
    scale_50     (N, K,    21,  21)    and at 161 x 161
    logits       (N, K,    41,  41)    pixel-wise maximum of the three, brought to one size

Parameters:
    44,048,532 over ResNet-101 and 37,877,652 over VGG16 at K = 21. The authors train with the
    normalisation of ResNet-101 frozen (``freeze_norm``), which leaves 43,943,188.

Deviations:
    - The dense CRF of the paper is a step after the network; see ``semseg.postprocess``.
    - Trunks take RGB in ImageNet's normalisation, the authors' BGR in 0..255 without the mean.
    - Images are padded to 32k + 1 pixels, at which the scores of all three scales stand on the
      corners; the authors' nets take only such sizes (321, 513).
    - The PyTorch port of Nakashima interpolates between pixel centres (``align_corners=False``),
      which moves the scores by up to four pixels; here corners are aligned as in Caffe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.encoders.resnet_caffe import DEPTHS, CaffeResNet
from semseg.encoders.vgg import read_vgg16_weights
from semseg.models.base import Criterion, ModelConfig, Published, register
from semseg.models.dilated.deeplab_v1 import (
    AtrousVGG16,
    CornerAligned,
    FieldOfView,
    compare_on_grid,
)

QUARTERS = {"scale_100": 4, "scale_75": 3, "scale_50": 2}
"""Size at which the network sees the image, in quarters, by head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepLabV2Config(ModelConfig):
    """Settings of :class:`DeepLabV2`."""

    rates: tuple[int, ...] = (6, 12, 18, 24)
    """Dilations of the classifiers; the paper's smaller ones are 2, 4, 8, 12."""

    multi_scale: bool = True
    """Whether the network sees the image at sizes 1, 0.75 and 0.5."""

    freeze_norm: bool = False
    """Keep the trunk's normalisation as loaded, as the paper does; needs pretrained weights."""

    encoder: str | None = None
    """Trunk whose strides can be dilated to 8; the paper's own ResNet if there is none."""

    depths: tuple[int, ...] = DEPTHS[101]
    """Blocks of the four stages of the paper's own trunk."""

    width: int = 64
    """Channels of its stem."""


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the sum of dilated 3x3 classifiers.

    ``(N, C, h, w) -> (N, K, h, w)``.
    """

    def __init__(self, cin: int, num_classes: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        branches = [nn.Conv2d(cin, num_classes, 3, padding=rate, dilation=rate) for rate in rates]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)
            if branch.bias is not None:
                nn.init.zeros_(branch.bias)
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the classifiers."""
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


def build_trunk(config: DeepLabV2Config) -> Encoder:
    """Return the trunk at stride 8."""
    if config.encoder is None:
        return CaffeResNet(config.in_channels, config.depths, 8, config.width)
    return build_encoder(config.encoder, config.in_channels, 8)


PAPER = {
    "paper": "arXiv:1606.00915",
    "year": 2016,
    "repository": "https://bitbucket.org/aquariusjay/deeplab-public-ver2",
    "paper_size": (321, 321),
    "verified": "reference output",
}


@register(
    "deeplab_v2_resnet101",
    DeepLabV2Config(),
    title="DeepLab v2 (ResNet-101)",
    idea="Classifiers of several dilations are summed, and the scores of several image sizes "
    "fused by their maximum.",
    num_params=44_048_532,
    published=(
        Published("PASCAL VOC 2012 val", 76.35, "paper, Table 4; COCO, without CRF"),
        Published("PASCAL VOC 2012 test", 79.7, "paper, Table 5; COCO and dense CRF"),
    ),
    small={"depths": (1, 1, 1, 1), "width": 4},
    **PAPER,
)
class DeepLabV2(CornerAligned):
    """DeepLab v2 over a ResNet; see the module docstring.

    Raises:
        InputError: ``encoder`` cannot be dilated, or its features do not stand on corners.
    """

    grid = 32  # sizes at which the scores of all three scales stand on the corners

    def __init__(self, config: DeepLabV2Config) -> None:
        super().__init__(config)
        self.encoder = build_trunk(config)
        self.aspp = ASPP(self.encoder.channels[-1], config.num_classes, config.rates)
        self.multi_scale = config.multi_scale
        self.norms: list[nn.BatchNorm2d] = []
        if config.freeze_norm:
            self.norms = [m for m in self.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
            for norm in self.norms:
                norm.requires_grad_(False)

    def train(self, mode: bool = True) -> DeepLabV2:
        """Set the mode; frozen normalisation keeps its statistics."""
        super().train(mode)
        for norm in self.norms:
            norm.eval()
        return self

    def score(self, images: Tensor) -> Tensor:
        """Return the scores ``(N, K, h + 1, w + 1)`` of ``(N, C, 8h + 1, 8w + 1)`` images."""
        deep = self.encoder(images)[-1]
        height, width = images.shape[-2:]
        if deep.shape[-2:] != ((height - 1) // 8 + 1, (width - 1) // 8 + 1):
            raise InputError(
                f"deeplab_v2 needs a trunk with features on the image's corners; this one gives "
                f"{tuple(deep.shape[-2:])} for {(height, width)}. Choose a ResNet"
            )
        scores: Tensor = self.aspp(deep)
        return scores

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and, with several scales, the scores of each."""
        images = self.to_grid(images)
        if not self.multi_scale:
            return {"logits": self.score(images)}
        heads = {name: self.score(_resize(images, part)) for name, part in QUARTERS.items()}
        size = heads["scale_100"].shape[-2:]
        same = [
            F.interpolate(scores, size, mode="bilinear", align_corners=True)
            for scores in heads.values()
        ]
        logits = torch.stack(same).amax(0)
        return {"logits": logits} if self.logits_only else {"logits": logits, **heads}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the terms of the fused scores and of every scale, all of weight 1.

        Each compares with the labels of the pixels its scores stand on, as the authors' code does.
        """
        return {
            name: compare_on_grid(criterion, scores, target, QUARTERS.get(name, 4) / 4)
            for name, scores in heads.items()
        }


def _resize(images: Tensor, quarters: int) -> Tensor:
    """Return images of ``32k + 1`` pixels in a smaller size, corners on corners."""
    if quarters == 4:
        return images
    size = [(length - 1) // 4 * quarters + 1 for length in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepLabV2VGGConfig(ModelConfig):
    """Settings of :class:`DeepLabV2VGG`."""

    rates: tuple[int, ...] = (6, 12, 18, 24)
    """Dilations of the branches: ASPP-L; ASPP-S has 2, 4, 8, 12."""

    hidden: int = 1024
    """Channels of the two hidden layers of a branch."""

    width: int = 64
    """Channels of VGG16's first stage; all others are multiples of it."""


@register(
    "deeplab_v2_vgg16",
    DeepLabV2VGGConfig(),
    title="DeepLab v2 (VGG16)",
    idea="Four copies of VGG16's hidden layers with different dilations, their scores summed.",
    num_params=37_877_652,
    small={"width": 4, "hidden": 32},
    **PAPER,
)
class DeepLabV2VGG(CornerAligned):
    """DeepLab v2 over VGG16, on one scale as the authors released it; see the module docstring."""

    def __init__(self, config: DeepLabV2VGGConfig) -> None:
        super().__init__(config)
        self.encoder = AtrousVGG16(config.in_channels, config.width)
        cin = self.encoder.channels[-1]
        self.branches = nn.ModuleList(
            FieldOfView(cin, config.hidden, config.num_classes, kernel=3, rate=rate)
            for rate in config.rates
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, h, w)``, score ``i`` on pixel ``8i``."""
        pool5 = self.encoder(self.to_grid(images))[-1]
        return {"logits": torch.stack([branch(pool5) for branch in self.branches]).sum(0)}

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load VGG16, its hidden layers thinned out into every branch.

        Args:
            source: see :func:`semseg.encoders.vgg.read_vgg16_weights`.

        Raises:
            FileError: the weights cannot be had or are not VGG16's.
            InputError: this network does not have the paper's width.
        """
        weights = read_vgg16_weights(source)
        self.encoder.copy_weights(weights)
        for branch in self.branches:
            if isinstance(branch, FieldOfView):
                branch.copy_hidden(weights)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return what starts from VGG16 as ``"encoder"``, the classifiers as ``"head"``."""
        head = [p for name, p in self.named_parameters() if ".fc8." in name]
        inside = {id(p) for p in head}
        return {"encoder": [p for p in self.parameters() if id(p) not in inside], "head": head}

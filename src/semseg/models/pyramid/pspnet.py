r"""PSPNet: averages over the whole image, its quarters, ninths and thirty-sixths as context.

Paper:
    Zhao, Shi, Qi, Wang, Jia. "Pyramid Scene Parsing Network." CVPR 2017. arXiv:1612.01105,
    sections 3.2 to 4.1 and figure 3. What the text leaves open follows the first author's
    PyTorch code, ``model/pspnet.py``.

Shapes (images grow to 8h + 1, 8w + 1; score i stands on pixel 8i):
    images       (N, C, 8h + 1, 8w + 1)
    layer3       (N, 1024, h + 1, w + 1)   dilation 2
    layer4       (N, 2048, h + 1, w + 1)   dilation 4
    pooled       4 x (N, 512, h + 1, w + 1)   of 1, 2 x 2, 3 x 3 and 6 x 6 averages
    aux          (N, K, h + 1, w + 1)   3x3 to 256 and 1x1 on layer3
    logits       (N, K, h + 1, w + 1)   3x3 to 512 and 1x1 on layer4 beside what was pooled

Parameters:
    49,180,908 (ResNet-50) and 68,173,036 (ResNet-101) at K = 150: 46,782,550 and 65,774,678 of
    the network that predicts, and 2,398,358 of the auxiliary head.

Deviations:
    - The auxiliary head is always there; the authors' code builds it for training only.
    - Dropout is of whole channels, as in the PyTorch code; the Caffe code of the paper's results
      drops single values. Regions are divided as adaptive pooling does, at any size of image; the
      Caffe code has windows of fixed size, which is the same at 473 x 473.
    - BatchNorm keeps PyTorch's momentum of 0.1, as the PyTorch code does.
    - Any size of image is taken; zeros fill it up to 8h + 1, which the authors' code asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu

BINS = (1, 2, 3, 6)
"""Regions along each side, by level of the pyramid."""

HIDDEN = 512
"""Channels before the classifier."""

AUX_HIDDEN = 256
"""Channels before the auxiliary classifier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PSPNetConfig(ModelConfig):
    """Settings of :class:`PSPNet`."""

    encoder: str = "resnet50_deep"
    """Trunk that can be dilated to output stride 8; the paper's has three 3x3 as stem."""


class PyramidPooling(nn.Module):
    """Averages of regions, each through 1x1, BatchNorm and ReLU, enlarged to the feature's size.

    Args:
        cin: channels of the feature.
        cout: channels of each level.
        align_corners: how levels are enlarged.

    Training mode needs at least two images per step: the coarsest level is one value per channel
    and image, and BatchNorm cannot normalise a single value.
    """

    def __init__(self, cin: int, cout: int, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *conv_bn_relu(cin, cout, 1)) for bins in BINS
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the levels of ``(N, cin, h, w)``, each ``(N, cout, h, w)``, coarsest first.

        Raises:
            InputError: one image while the norm of the coarsest level is in training mode.
        """
        norms = [part for part in self.levels[0].modules() if isinstance(part, nn.BatchNorm2d)]
        # a synchronised norm, another class, sees the images of all devices
        if len(x) < 2 and any(norm.training for norm in norms):
            raise InputError(
                "pyramid pooling needs at least 2 images per step in training mode: its average "
                "of the whole image is one value per channel and image, which batch normalisation "
                "turns into zero; use a batch size of 2 or more and drop an incomplete last batch"
            )
        size = x.shape[-2:]
        return [
            F.interpolate(level(x), size, mode="bilinear", align_corners=self.align_corners)
            for level in self.levels
        ]


def classifier(cin: int, hidden: int, num_classes: int) -> nn.Sequential:
    """Return 3x3, BatchNorm, ReLU, dropout of channels and 1x1: ``(N, cin, h, w)`` to scores."""
    return nn.Sequential(
        *conv_bn_relu(cin, hidden, 3), nn.Dropout2d(0.1), nn.Conv2d(hidden, num_classes, 1)
    )


FACTS = {
    "paper": "arXiv:1612.01105",
    "year": 2017,
    "idea": "Averages over regions of four sizes beside every pixel tell what scene it is part of.",
    "repository": "https://github.com/hszhao/semseg",
    "paper_size": (473, 473),
    "verified": "reference output",
    "small": {"encoder": "test_resnet"},
}
README = "README of hszhao/semseg, single scale"


@register(
    "pspnet_resnet50",
    PSPNetConfig(num_classes=150),
    title="PSPNet (ResNet-50)",
    num_params=49_180_908,
    published=(
        Published("ADE20K val", 41.89, README),
        Published("PASCAL VOC 2012 val", 77.05, README),
        Published("Cityscapes val", 77.30, README),
    ),
    **FACTS,
)
@register(
    "pspnet_resnet101",
    PSPNetConfig(num_classes=150, encoder="resnet101_deep"),
    title="PSPNet (ResNet-101)",
    num_params=68_173_036,
    published=(
        Published("ADE20K val", 43.10, README),
        Published("PASCAL VOC 2012 val", 79.07, README),
        Published("Cityscapes val", 78.63, README),
        Published("PASCAL VOC 2012 test", 85.4, "paper, abstract; COCO in training"),
    ),
    **FACTS,
)
class PSPNet(SegmentationModel):
    """Pyramid scene parsing network; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated, or its features do not stand on pixels 8i.
    """

    align_corners = True
    aux_weights: ClassVar[dict[str, float]] = {"aux": 0.4}

    def __init__(self, config: PSPNetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        *_, third, fourth = self.encoder.channels
        self.pooling = PyramidPooling(fourth, fourth // len(BINS), align_corners=True)
        joined = fourth + fourth // len(BINS) * len(BINS)
        self.head = classifier(joined, HIDDEN, config.num_classes)
        self.aux = classifier(third, AUX_HIDDEN, config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, h + 1, w + 1)``.

        Raises:
            InputError: one image in training mode, or a trunk without a feature on pixels 8i.
        """
        height, width = images.shape[-2:]
        images = F.pad(images, (0, (1 - width) % 8, 0, (1 - height) % 8))
        *_, third, fourth = self.encoder(images)
        expected = [(side - 1) // 8 + 1 for side in images.shape[-2:]]
        if list(fourth.shape[-2:]) != expected:
            raise InputError(
                f"PSPNet needs a trunk with a feature on every eighth pixel, the image's corners "
                f"included; this one gives {tuple(fourth.shape[-2:])} for "
                f"{tuple(images.shape[-2:])}. Choose a ResNet"
            )
        x = torch.cat([fourth, *self.pooling(fourth)], dim=1)
        heads = {"logits": self.head(x)}
        if not self.logits_only:
            heads["aux"] = self.aux(third)
        return heads

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits at ``size``: eight times denser, and what lies beyond the image cut."""
        height, width = logits.shape[-2:]
        full = (8 * (height - 1) + 1, 8 * (width - 1) + 1)
        dense = F.interpolate(logits, full, mode="bilinear", align_corners=True)
        return dense[..., : size[0], : size[1]]

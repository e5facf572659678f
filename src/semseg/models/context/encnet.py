r"""EncNet: a code of the whole scene weighs the channels, and has to name the scene's classes.

Paper:
    Zhang, Dana, Shi, Zhang, Wang, Tyagi, Agrawal. "Context Encoding for Semantic Segmentation."
    CVPR 2018. arXiv:1803.08904, section 2. What the text leaves open follows the authors' code,
    ``encoding/models/sseg/encnet.py`` and ``encoding/nn/encoding.py``.

Shapes (H, W any; h = H/8, w = W/8, rounded up):
    images       (N, C, H, W)
    layer3       (N, 1024, h, w)   dilation 2
    layer4       (N, 2048, h, w)   dilation 4
    pixels       (N, 512, h, w)   3x3 on layer4
    code         (N, 512)   mean over 32 codewords of the pixels' residuals to each
    weights      (N, 512, 1, 1)   linear and sigmoid on the code; pixels grow by as much
    presence     (N, K)   linear on the code: which classes the image has
    aux          (N, K, h, w)   3x3 to 256 and 1x1 on layer3
    logits       (N, K, h, w)   1x1 on the weighted pixels

Parameters:
    55,156,706 at K = 150 over ResNet-101: 42,623,936 of the trunk with three 3x3 as stem, 2,398,358
    of the auxiliary head. With the lateral connections of the authors' later code 63,024,098.

Deviations:
    - The authors' compiled operators hold all residuals, 32 times the features; here squares and
      sums are expanded, so memory is that of the 32 weights of each pixel.
    - A class is present where one of its pixels is labelled; the authors' histogram has the same
      result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders import build_encoder
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu
from semseg.nn.norm import check_batch_norm

HIDDEN = 512
"""Channels of the pixels, and of the code."""

CODEWORDS = 32
"""Words of the code book."""

DROPOUT = 0.1
"""Rate before the classifiers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncNetConfig(ModelConfig):
    """Settings of :class:`EncNet`."""

    num_classes: int = 150
    """K; ADE20K has 150."""

    encoder: str = "resnet101s.gluon_in1k"
    """Trunk that can be dilated to output stride 8; the authors' has three 3x3 as stem."""

    lateral: bool = False
    """Whether layer2 and layer3 join the pixels; the authors' later code for PASCAL Context."""


class Encoding(nn.Module):
    """Residuals to learned words, weighted by nearness and summed: ``(N, D, h, w) -> (N, K, D)``.

    Args:
        width: D, channels of the pixels.
        words: K, codewords; each has a scale of its own, which says how fast its weight falls.
    """

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.codewords = nn.Parameter(torch.empty(words, width))
        self.scale = nn.Parameter(torch.empty(words))
        reach = (words * width) ** -0.5
        nn.init.uniform_(self.codewords, -reach, reach)
        nn.init.uniform_(self.scale, -1, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return one vector per word."""
        pixels = x.flatten(2)
        # |x - c|^2 = |x|^2 - 2 x c + |c|^2: no tensor of pixels times words times channels
        distance = (
            pixels.square().sum(dim=1)[:, None]
            - 2 * (self.codewords @ pixels)
            + self.codewords.square().sum(dim=1)[:, None]
        )
        share = (self.scale[:, None] * distance).softmax(dim=1)
        return share @ pixels.mT - share.sum(dim=2, keepdim=True) * self.codewords


class Context(nn.Module):
    """The code of a scene and the pixels weighted by it.

    Input ``(N, C, h, w)``; output the same, and the code ``(N, C)``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = conv_bn_relu(width, width, 1)
        self.encoding = Encoding(width, CODEWORDS)
        self.norm = nn.BatchNorm1d(CODEWORDS)
        self.weigh = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted pixels and the code."""
        code = F.relu(self.norm(self.encoding(self.project(x)))).mean(dim=1)
        weights = self.weigh(code).sigmoid()[:, :, None, None]
        return F.relu(x + x * weights), code


def classes_in(target: Tensor, num_classes: int) -> Tensor:
    """Return which classes each image has: ``(N, H, W) -> (N, num_classes)`` of zeros and ones.

    With one channel it is whether the image has class 1.

    Example:
        >>> classes_in(torch.tensor([[[0, 2, 255]]]), 3).tolist()
        [[1.0, 0.0, 1.0]]
    """
    first = 1 if num_classes == 1 else 0
    known = [(target == first + k).flatten(1).any(dim=1) for k in range(num_classes)]
    return torch.stack(known, dim=1).float()


@register(
    "encnet",
    EncNetConfig(),
    title="EncNet (ResNet-101)",
    paper="arXiv:1803.08904",
    year=2018,
    idea="A learned code book sums up the whole scene; the sum decides which channels count, and "
    "must say which classes are there.",
    repository="https://github.com/zhanghang1989/PyTorch-Encoding",
    num_params=55_156_706,
    paper_size=(480, 480),
    published=(
        Published("PASCAL Context val", 51.7, "paper, abstract: ResNet-101"),
        Published("ADE20K val", 44.65, "paper, as quoted in the README of ANN, Tab. 3"),
        Published("ADE20K val", 44.4, "documentation of PyTorch-Encoding: ResNet-101"),
        Published("PASCAL Context val", 54.1, "same: ResNet-101, lateral connections"),
    ),
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class EncNet(SegmentationModel):
    """Context encoding network; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated to output stride 8.
    """

    align_corners = True
    aux_weights: ClassVar[dict[str, float]] = {"presence": 0.2, "aux": 0.2}

    def __init__(self, config: EncNetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        *_, second, third, fourth = self.encoder.channels
        self.pixels = conv_bn_relu(fourth, HIDDEN, 3)
        self.lateral: nn.ModuleList | None = None
        if config.lateral:
            self.lateral = nn.ModuleList(conv_bn_relu(c, HIDDEN, 1) for c in (second, third))
            self.fusion = conv_bn_relu(3 * HIDDEN, HIDDEN, 3)
        self.context = Context(HIDDEN)
        self.presence = nn.Linear(HIDDEN, config.num_classes)
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Conv2d(HIDDEN, config.num_classes, 1))
        width = max(third // 4, 1)
        self.aux = nn.Sequential(
            conv_bn_relu(third, width, 3),
            nn.Dropout(DROPOUT),
            nn.Conv2d(width, config.num_classes, 1),
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"`` at stride 8, and ``"presence"`` ``(N, K)``.

        Raises:
            InputError: one image in training mode whose features are a single pixel.
        """
        check_batch_norm(type(self).__name__, images, self.encoder.strides[-1], self.training)
        *_, second, third, fourth = self.encoder(images)
        x = self.pixels(fourth)
        if self.lateral is not None:
            sides = [conv(side) for conv, side in zip(self.lateral, (second, third), strict=True)]
            x = self.fusion(torch.cat([x, *sides], dim=1))
        x, code = self.context(x)
        logits = self.head(x)
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "presence": self.presence(code), "aux": self.aux(third)}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the criterion of both maps, and binary cross entropy of the classes present."""
        presence = heads["presence"].float()
        wrong = F.binary_cross_entropy_with_logits(
            presence, classes_in(target, self.config.num_classes)
        )
        return {
            "logits": self.head_loss(heads["logits"], target, criterion),
            "presence": self.aux_weights["presence"] * wrong,
            "aux": self.aux_weights["aux"] * self.head_loss(heads["aux"], target, criterion),
        }

r"""EMANet: pixels are rebuilt from a few bases, which expectation and maximisation find.

Paper:
    Li, Zhong, Wu, Yang, Lin, Liu. "Expectation-Maximization Attention Networks for Semantic
    Segmentation." ICCV 2019. arXiv:1907.13426, section 3. What the text leaves open follows the
    authors' code, ``network.py``, ``settings.py`` and ``train.py``.

Shapes (H, W any; h = H/8, w = W/8, rounded up):
    images       (N, C, H, W)
    layer3       (N, 1024, h, w)   dilation 2
    layer4       (N, 2048, h, w)   dilations 2, 8 and 16
    pixels       (N, 512, h, w)   3x3 on layer4
    bases        (N, 512, 64)   three rounds from the running mean of earlier batches
    share        (N, h * w, 64)   of each pixel in each base
    rebuilt      (N, 512, h, w)   bases times share, ReLU, 1x1; the pixels are added
    logits       (N, K, h, w)   3x3 to 256 and 1x1

Parameters:
    53,510,869 trained at K = 21 over ResNet-101, and 262,656 that stay as they start: the 1x1 whose
    result the rounds see. The authors' network has 53,773,525.

Deviations:
    - BatchNorm keeps PyTorch's momentum of 0.1; the authors' is 0.0003.
    - The running mean of the bases is updated by the forward pass in training; the authors do it in
      the training loop, of all GPUs' images.
    - The rounds let no gradient through, as in the authors' code; that the convolution before them
      is never trained follows from it, and here it says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.dilation import resnet_stages, set_rates
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu
from semseg.nn.norm import check_batch_norm

RATES = (2, 8, 16)
"""Dilation of each block of the last stage."""

HIDDEN, NARROW = 512, 256
"""Channels of the pixels, and before the classifier."""

MOMENTUM = 0.9
"""Share of the running mean of the bases that a step keeps."""

DROPOUT = 0.1
"""Rate of dropped channels before the classifier."""

TINY = 1e-6
"""Added to what is divided by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EMANetConfig(ModelConfig):
    """Settings of :class:`EMANet`."""

    num_classes: int = 21
    """K; PASCAL VOC has 21."""

    encoder: str = "resnet101s.gluon_in1k"
    """Trunk that can be dilated to output stride 8; the last stage of a ResNet is dilated more."""

    bases: int = 64
    """Bases from which pixels are rebuilt."""

    rounds: int = 3
    """Rounds of expectation and maximisation."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if min(self.bases, self.rounds) < 1:
            raise InputError(
                f"EMANet takes at least one base and one round, got {self.bases} and {self.rounds}"
            )


def unit_length(bases: Tensor) -> Tensor:
    """Return bases ``(N, C, K)`` of length one."""
    length: Tensor = bases.norm(dim=1, keepdim=True)
    return bases / (TINY + length)


class EMAttention(nn.Module):
    """Pixels rebuilt from bases, added to the pixels: ``(N, C, h, w) -> (N, C, h, w)``.

    Args:
        width: C.
        bases: number of bases.
        rounds: of expectation (who belongs to which base) and maximisation (bases as means).
    """

    bases_mean: Tensor

    def __init__(self, width: int, bases: int, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds
        start = unit_length(torch.randn(1, width, bases))
        self.register_buffer("bases_mean", start)
        self.before = nn.Conv2d(width, width, 1).requires_grad_(False)
        after = nn.Conv2d(width, width, 1, bias=False)
        self.after = nn.Sequential(after, nn.BatchNorm2d(width))
        for conv in (self.before, after):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the pixels and what of them the bases hold; training moves the running mean."""
        with torch.no_grad():
            pixels = self.before(x).flatten(2)
            bases = self.bases_mean.to(pixels).expand(len(x), -1, -1)
            for _ in range(self.rounds):
                share = (pixels.mT @ bases).softmax(dim=2)
                bases = pixels @ (share / (TINY + share.sum(dim=1, keepdim=True)))
                bases = unit_length(bases)
            if self.training:
                self.bases_mean.lerp_(
                    bases.mean(dim=0, keepdim=True).to(self.bases_mean), 1 - MOMENTUM
                )
            rebuilt = (bases @ share.mT).reshape(x.shape)
        out: Tensor = F.relu(self.after(F.relu(rebuilt)) + x)
        return out


@register(
    "emanet",
    EMANetConfig(),
    title="EMANet (ResNet-101)",
    paper="arXiv:1907.13426",
    year=2019,
    idea="Attention through a few bases in place of all pixels: expectation-maximisation finds "
    "them anew in each image.",
    repository="https://github.com/XiaLiPKU/EMANet",
    num_params=53_510_869,
    paper_size=(513, 513),
    published=(
        Published("PASCAL VOC 2012 val", 80.05, "authors' README, Tab 1: one scale"),
        Published("PASCAL VOC 2012 val", 81.32, "authors' README, Tab 1: several scales, flip"),
        Published("PASCAL VOC 2012 val", 80.99, "authors' README, News"),
        Published("PASCAL VOC 2012 test", 87.7, "authors' README, Tab 2: COCO too, then val"),
        Published("Cityscapes val", 81.14, "authors' README, News: OHEM, one scale"),
    ),
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class EMANet(SegmentationModel):
    """Expectation-maximisation attention network; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated to output stride 8.
    """

    align_corners = True

    def __init__(self, config: EMANetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        stages = resnet_stages(self.encoder)
        if stages is not None:
            set_rates(stages[1], RATES)
        self.pixels = conv_bn_relu(self.encoder.channels[-1], HIDDEN, 3)
        self.attention = EMAttention(HIDDEN, config.bases, config.rounds)
        self.head = nn.Sequential(
            conv_bn_relu(HIDDEN, NARROW, 3),
            nn.Dropout2d(DROPOUT),
            nn.Conv2d(NARROW, config.num_classes, 1),
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, h, w)`` at stride 8.

        Raises:
            InputError: one image in training mode whose features are a single pixel.
        """
        check_batch_norm(type(self).__name__, images, self.encoder.strides[-1], self.training)
        pixels = self.pixels(self.encoder(images)[-1])
        return {"logits": self.head(self.attention(pixels))}

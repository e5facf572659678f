r"""FCRN: a very deep dilated ResNet whose classifier has a large field of view.

Paper:
    Wu, Shen, van den Hengel. "High-performance Semantic Segmentation Using Very Deep Fully
    Convolutional Networks." 2016. arXiv:1604.04339; continued in "Bridging Category-level and
    Instance-level Semantic Image Segmentation", arXiv:1605.06885. No code of it is public. Blocks,
    labels and the finer scores follow the same authors' later MXNet code of plain dilated FCNs
    (https://github.com/itijyou/ademxapp: ``resnet_v1.py``, ``fcn_top``, ``issegm/``).

Shapes (H, W divisible by 8):
    images       (N, C,    H,   W)
    layer1       (N, 256,  H/4, W/4)
    layer2       (N, 512,  H/8, W/8)
    layer3       (N, 1024, H/8, W/8)   dilation 2
    layer4       (N, 2048, H/8, W/8)   dilation 4, dropout in its last two blocks
    logits       (N, K,    H/8, W/8)   one 3x3 convolution with dilation 12
    finer        (N, K,    H,   W)     interleaved scores of shifted images, enlarged

Parameters:
    23,895,125 with ResNet-50, 42,887,253 with ResNet-101 and 58,530,901 with ResNet-152 at
    K = 21: the trunk as torchvision counts it (23,508,032, 42,500,160 and 58,143,808) and
    387,093 of the classifier. The paper states no count.

Deviations:
    - What the abstract states is certain: residual networks of several depths, higher resolution
      and larger field of view, finer scores from a coarse network, online bootstrapping of hard
      pixels, dropout in some residual blocks. The rest is a reading: stride 8, dilation 12, and
      rates 0.3 and 0.5 before the sum of the last two blocks are those of the later code, which
      has two convolutions of that field of view (``hidden=512``) where one is built here.
    - The bootstrapped loss is a recipe's: ``bootstrapped_cross_entropy`` with the 512 worst of
      an image's scores (arXiv:1605.06885). The later code keeps every score whose true class
      has a probability of at most 0.6, and at least 256.
    - Finer scores serve prediction only; the paper uses them in training as well.
    - Trunks take RGB in ImageNet's normalisation, the authors' RGB in 0..255 without the mean.
    - Scores are enlarged bilinearly, in the later code bicubically.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.encoders.resnet_caffe import DEPTHS, CaffeResNet
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import he_normal_
from semseg.nn.norm import check_batch_norm

STRIDE = 8
"""Pixels per score, in height and width."""

RATE = 12
"""Dilation of the classifier's convolutions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FCRNConfig(ModelConfig):
    """Settings of :class:`FCRN`."""

    hidden: int | None = None
    """Channels of a convolution before the classifier; none if ``None``."""

    dropout: tuple[float, ...] = (0.3, 0.5)
    """Rates in the last bottlenecks of the trunk."""

    fixed_statistics: bool = False
    """Whether training keeps the norms' statistics as loaded; their weights are trained."""

    encoder: str | None = None
    """Trunk whose strides can be dilated to 8; the paper's own ResNet if there is none."""

    depths: tuple[int, ...] = DEPTHS[101]
    """Blocks of the four stages of the paper's own trunk."""

    width: int = 64
    """Channels of its stem."""


def wide_view(cin: int, num_classes: int, hidden: int | None) -> nn.Sequential:
    """Return the classifier, ``(N, cin, h, w) -> (N, K, h, w)``, He-normal.

    One 3x3 convolution with dilation 12, or two with ``hidden`` channels and a ReLU between;
    neither is normalised.
    """
    widths = [cin, num_classes] if hidden is None else [cin, hidden, num_classes]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=RATE, dilation=RATE), nn.ReLU()]
    head = nn.Sequential(*layers[:-1])
    he_normal_(head)
    return head


def labels_of_cells(target: Tensor, height: int, width: int) -> Tensor:
    """Return ``(N, height, width)`` labels of the pixels in the middle of cells of 8 x 8.

    A cell that the image only touches has the label of the last pixel.
    """
    rows, columns = (
        (torch.arange(cells, device=target.device) * STRIDE + STRIDE // 2).clamp(max=length - 1)
        for cells, length in zip((height, width), target.shape[-2:], strict=True)
    )
    return target[:, rows[:, None], columns]


class DilatedFCN(SegmentationModel):
    """A trunk at stride 8 under a convolutional classifier, trained on one label per score.

    A network sets :attr:`encoder` and :attr:`head`.
    """

    multiple_of = STRIDE
    encoder: Encoder
    head: nn.Module
    fixed_statistics: bool

    def train(self, mode: bool = True) -> Self:
        """Set the mode; fixed statistics stay those of eval mode."""
        super().train(mode)
        if self.fixed_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 8."""
        learning = self.training and not self.fixed_statistics
        check_batch_norm(type(self).__name__, images, STRIDE, learning)
        return {"logits": self.head(self.encoder(images)[-1])}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the one term: each score against the label in the middle of its cell."""
        logits = heads["logits"]
        labels = labels_of_cells(target, logits.shape[-2], logits.shape[-1])
        return {"logits": criterion(logits, labels)}

    def finer(self, images: Tensor, steps: int = 2) -> Tensor:
        """Simulate a network of stride ``8 / steps``: look at shifted images, interleave scores.

        Args:
            images: as :meth:`forward` takes them.
            steps: looks in each direction, 1, 2, 4 or 8; the cost grows with their square.

        Returns:
            ``(N, K, H, W)`` logits.

        Raises:
            InputError: ``steps`` does not divide 8.
        """
        if steps not in (1, 2, 4, 8):
            raise InputError(f"{type(self).__name__} takes steps 1, 2, 4 or 8, got {steps}")
        padded = self.pad(images)
        height, width = padded.shape[-2:]
        canvas = F.pad(padded, (STRIDE // 2,) * 4)
        starts = range(STRIDE // steps // 2, STRIDE, STRIDE // steps)
        looks = [
            [self.forward_heads(canvas[..., y : y + height, x : x + width]) for x in starts]
            for y in starts
        ]
        columns = [torch.stack([look["logits"] for look in row], dim=-1) for row in looks]
        fine = torch.stack(columns, dim=-3)  # (N, K, h, steps, w, steps)
        fine = fine.flatten(-2).flatten(2, 3)
        return self.full_size(fine, (images.shape[-2], images.shape[-1]))


class DroppingNorm(nn.BatchNorm2d):
    """BatchNorm with dropout after it; its tensors keep their names."""

    def __init__(self, channels: int, eps: float, rate: float) -> None:
        super().__init__(channels, eps=eps)
        self.dropout = nn.Dropout(rate)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, some values zero in training."""
        out: Tensor = self.dropout(super().forward(input))
        return out


def drop_in_last_blocks(encoder: nn.Module, rates: Sequence[float]) -> None:
    """Let the last bottlenecks drop values of their branch, just before the sum, in place."""
    owners = [
        name.rpartition(".")[0] for name, _ in encoder.named_modules() if name.endswith(".bn3")
    ]
    for owner, rate in zip(reversed(owners), reversed(rates), strict=False):
        norm = encoder.get_submodule(f"{owner}.bn3")
        if isinstance(norm, nn.BatchNorm2d):
            dropping = DroppingNorm(norm.num_features, norm.eps, rate)
            encoder.get_submodule(owner).bn3 = dropping


FACTS = {
    "paper": "arXiv:1604.04339",
    "year": 2016,
    "idea": "Very deep residual networks at high resolution see widely, and learn from the "
    "pixels that are still hard.",
    "paper_size": (512, 512),
    "verified": "reference output",
    "small": {"depths": (1, 1, 1, 2), "width": 4},
}


@register(
    "fcrn_resnet50",
    FCRNConfig(depths=DEPTHS[50]),
    title="FCRN (ResNet-50)",
    num_params=23_895_125,
    **FACTS,
)
@register(
    "fcrn_resnet101",
    FCRNConfig(),
    title="FCRN (ResNet-101)",
    num_params=42_887_253,
    published=(
        Published("PASCAL VOC 2012", 78.3, "paper, abstract, which names no depth and no split"),
        Published("PASCAL VOC 2012", 79.1, "arXiv:1605.06885, abstract, likewise"),
    ),
    **FACTS,
)
@register(
    "fcrn_resnet152",
    FCRNConfig(depths=DEPTHS[152]),
    title="FCRN (ResNet-152)",
    num_params=58_530_901,
    **FACTS,
)
class FCRN(DilatedFCN):
    """Fully convolutional residual network; see the module docstring."""

    def __init__(self, config: FCRNConfig) -> None:
        super().__init__(config)
        if config.encoder is None:
            self.encoder = CaffeResNet(config.in_channels, config.depths, STRIDE, config.width)
            self.encoder.maxpool = nn.MaxPool2d(3, stride=2, padding=1)  # MXNet rounds down
        else:
            self.encoder = build_encoder(config.encoder, config.in_channels, STRIDE)
        drop_in_last_blocks(self.encoder, config.dropout)
        self.head = wide_view(self.encoder.channels[-1], config.num_classes, config.hidden)
        self.fixed_statistics = config.fixed_statistics

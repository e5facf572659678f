r"""Fast-SCNN: both branches share their first three layers, the deep one is a small MobileNetV2.

Paper:
    Poudel, Liwicki, Cipolla. "Fast-SCNN: Fast Semantic Segmentation Network." BMVC 2019.
    arXiv:1902.04502, tables 1 to 3 and section 4.1. No code of the authors is public; what the
    paper leaves open follows the common PyTorch port, ``Tramac/Fast-SCNN-pytorch``.

Shapes (H, W divisible by 32):
    images       (N, C,   H,    W)
    shallow      (N, 64,  H/8,  W/8)    3x3, two separable 3x3, stride 2 each
    deep         (N, 128, H/32, W/32)   nine bottlenecks, expanded sixfold
    pooled       (N, 128, H/32, W/32)   averages of 1, 2 x 2, 3 x 3 and 6 x 6 regions beside it
    fused        (N, 128, H/8,  W/8)    enlarged fourfold, added to shallow
    logits       (N, K,   H/8,  W/8)    two separable 3x3, 1x1
    aux_shallow  (N, K,   H/8,  W/8)    3x3 to 32 and 1x1 on shallow
    aux_deep     (N, K,   H/32, W/32)   the same on pooled

Parameters:
    1,194,729 at K = 19: 1,138,051 of the network that predicts, as in the port, and 19,123 and
    37,555 of the two auxiliary heads. The paper states 1.11 million.

Deviations:
    - From the port, where the paper is clear: no activation between the two halves of a separable
      convolution (section 3.2.1), the depthwise convolution of the fusion has dilation 4 (table
      3), the first convolution is padded (table 1), two auxiliary heads instead of one.
    - Left open by the paper, as in the port: form of the auxiliary heads, dropout of 0.1 (before
      the 1x1 of each head), regions of the pyramid, bias of the fusion's 1x1 convolutions,
      ``align_corners`` of every resize.
    - Initialisation is PyTorch's default; the paper names none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu

BINS = (1, 2, 3, 6)
"""Regions along each side, by level of the pyramid."""

STAGES = ((64, 2), (96, 2), (128, 1))
"""Channels and stride of the deep branch's stages, three bottlenecks each."""

EXPANSION = 6
DEPTH = 128
AUX_HIDDEN = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class FastSCNNConfig(ModelConfig):
    """Settings of :class:`FastSCNN`: those of every network."""


def depthwise(channels: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """Return a 3x3 convolution per channel and its norm."""
    conv = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def separable(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    """3x3 per channel, 1x1 across channels, no activation between: ``-> (N, cout, H/s, W/s)``."""
    return nn.Sequential(*depthwise(cin, stride), *conv_bn_relu(cin, cout, 1))


class Bottleneck(nn.Module):
    """Inverted residual (paper, table 2): ``(N, cin, H, W) -> (N, cout, H/s, W/s)``."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        wide = EXPANSION * cin
        self.residual = stride == 1 and cin == cout
        self.block = nn.Sequential(
            *conv_bn_relu(cin, wide, 1),
            *depthwise(wide, stride),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, added to its input where both have one shape."""
        out: Tensor = self.block(x)
        return x + out if self.residual else out


def refuse_single_image(owner: str, images: Tensor, norm: nn.Module) -> None:
    """Refuse to normalise the average of one whole image: one value per channel has no variance.

    Args:
        owner: the network's name, for the message.
        images: ``(N, C, H, W)``.
        norm: what normalises the average.

    Raises:
        InputError: a single image while ``norm`` is in training mode.
    """
    # a synchronised norm, another class, sees the images of all devices
    if isinstance(norm, nn.BatchNorm2d) and norm.training and images.shape[0] < 2:
        raise InputError(
            f"{owner} needs at least 2 images per step in training mode: its average of the whole "
            "image is one value per channel and image, which batch normalisation turns into zero; "
            "use a batch size of 2 or more and drop an incomplete last batch"
        )


class PyramidPooling(nn.Module):
    """Averages of regions beside the feature: ``(N, cin, h, w) -> (N, cout, h, w)``."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        inner = cin // len(BINS)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *conv_bn_relu(cin, inner, 1)) for bins in BINS
        )
        self.join = conv_bn_relu(cin + inner * len(BINS), cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined levels."""
        size = x.shape[-2:]
        levels = [
            F.interpolate(level(x), size, mode="bilinear", align_corners=True)
            for level in self.levels
        ]
        out: Tensor = self.join(torch.cat([x, *levels], dim=1))
        return out


class Fusion(nn.Module):
    """Sum of both branches (paper, table 3): ``(N, cout, H/8, W/8)``."""

    def __init__(self, shallow: int, deep: int, cout: int, factor: int = 4) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            *depthwise(deep, dilation=factor),
            nn.ReLU(inplace=True),
            nn.Conv2d(deep, cout, 1),
            nn.BatchNorm2d(cout),
        )
        self.shallow = nn.Sequential(nn.Conv2d(shallow, cout, 1), nn.BatchNorm2d(cout))

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """Return the rectified sum at the size of ``shallow``."""
        deep = F.interpolate(deep, shallow.shape[-2:], mode="bilinear", align_corners=True)
        return F.relu(self.shallow(shallow) + self.deep(deep))


def aux_head(cin: int, num_classes: int) -> nn.Sequential:
    """Return the classifier of an auxiliary head: ``(N, cin, h, w)`` to scores."""
    return nn.Sequential(
        *conv_bn_relu(cin, AUX_HIDDEN, 3),
        nn.Dropout(0.1),
        nn.Conv2d(AUX_HIDDEN, num_classes, 1),
    )


@register(
    "fast_scnn",
    FastSCNNConfig(num_classes=19),
    title="Fast-SCNN",
    paper="arXiv:1902.04502",
    year=2019,
    idea="A deep branch at low and a shallow one at high resolution share the layers that reduce "
    "the image.",
    num_params=1_194_729,
    paper_size=(1024, 2048),
    published=(Published("Cityscapes test", 68.0, "paper, abstract; no pretraining"),),
    verified="reference output",
)
class FastSCNN(SegmentationModel):
    """Fast-SCNN as the paper's tables have it; see the module docstring.

    Training mode needs at least two images per step.
    """

    multiple_of = 32
    align_corners = True
    aux_weights: ClassVar[dict[str, float]] = {"aux_shallow": 0.4, "aux_deep": 0.4}

    def __init__(self, config: FastSCNNConfig) -> None:
        super().__init__(config)
        first = nn.Conv2d(config.in_channels, 32, 3, stride=2, padding=1, bias=False)
        self.shallow = nn.Sequential(
            nn.Sequential(first, nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
            separable(32, 48, stride=2),
            separable(48, 64, stride=2),
        )
        blocks, cin = [], 64
        for channels, stride in STAGES:
            for s in (stride, 1, 1):
                blocks.append(Bottleneck(cin, channels, s))
                cin = channels
        self.deep = nn.Sequential(*blocks)
        self.pooling = PyramidPooling(cin, DEPTH)
        self.fusion = Fusion(64, DEPTH, DEPTH)
        self.head = nn.Sequential(
            separable(DEPTH, DEPTH),
            separable(DEPTH, DEPTH),
            nn.Dropout(0.1),
            nn.Conv2d(DEPTH, config.num_classes, 1),
        )
        self.aux_shallow = aux_head(64, config.num_classes)
        self.aux_deep = aux_head(DEPTH, config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux_shallow"`` at stride 8, ``"aux_deep"`` at stride 32.

        Raises:
            InputError: one image in training mode.
        """
        refuse_single_image("FastSCNN", images, self.pooling.levels[0].get_submodule("2"))
        shallow = self.shallow(images)
        deep = self.pooling(self.deep(shallow))
        logits = self.head(self.fusion(shallow, deep))
        if self.logits_only:
            return {"logits": logits}
        return {
            "logits": logits,
            "aux_shallow": self.aux_shallow(shallow),
            "aux_deep": self.aux_deep(deep),
        }

    def no_weight_decay(self) -> set[str]:
        """Return the depthwise kernels, which the paper does not regularise."""
        return {
            f"{name}.weight"
            for name, part in self.named_modules()
            if isinstance(part, nn.Conv2d) and part.groups > 1
        }

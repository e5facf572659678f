r"""SegNet: VGG16 mirrored, each decoder stage unpooled by the switches of its encoder stage.

Paper:
    Badrinarayanan, Kendall, Cipolla. "SegNet: A Deep Convolutional Encoder-Decoder Architecture
    for Image Segmentation." PAMI 2017. arXiv:1511.00561. Layers follow the authors'
    ``Models/segnet_train.prototxt``.

Shapes (any H, W; w = width; a pool rounds up, so 45 x 60 becomes 23 x 30 and back again):
    images           (N, C,  H,    W)
    encoder 1        (N, w,  H/2,  W/2)    2 convolutions, pooled; the switches are kept
    encoder 2        (N, 2w, H/4,  W/4)    2
    encoder 3        (N, 4w, H/8,  W/8)    3
    encoder 4        (N, 8w, H/16, W/16)   3
    encoder 5        (N, 8w, H/32, W/32)   3
    decoder 5        (N, 8w, H/16, W/16)   unpooled by encoder 5's switches, 3 convolutions
    decoder 4        (N, 4w, H/8,  W/8)    3
    decoder 3        (N, 2w, H/4,  W/4)    3
    decoder 2        (N, w,  H/2,  W/2)    2
    decoder 1        (N, w,  H,    W)      1
    logits           (N, K,  H,    W)      the last 3x3 convolution, no normalisation

Parameters:
    29,449,355 at w = 64, K = 11, counted from the prototxt. The file for CamVid under
    ``Example_Models`` has one convolution more before the classifier and 29,486,411.

Deviations:
    - Batch normalisation keeps running averages (epsilon 1e-5, shifts start at 0). The authors
      recompute its statistics in a pass over the training set (1e-9, 0.001).
    - Images are RGB in [0, 1]; the authors feed BGR in 0..255, nothing subtracted either. The
      normalisation after the first convolution absorbs the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import UNIT
from semseg.encoders.timm import adapt_stem
from semseg.encoders.vgg import NAMES, STAGES, read_vgg16_weights
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import he_normal_
from semseg.nn.norm import check_batch_norm

DEEPEST = 2 ** (len(STAGES) - 1)
"""Stride of the last normalised features; a pool follows them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegNetConfig(ModelConfig):
    """Settings of :class:`SegNet`."""

    width: int = 64
    """Channels of VGG16's first stage; all others are multiples of it."""


def convolutions(channels: list[int]) -> nn.Sequential:
    """Return 3x3 convolution with bias, BatchNorm and ReLU, from each width to the next."""
    layers: list[nn.Module] = []
    for cin, cout in pairwise(channels):
        layers += [nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU()]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """VGG16's thirteen convolutions, each normalised, and the switches of its five pools."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        stages, cin = [], in_channels
        for factor, count in STAGES:
            stages.append(convolutions([cin, *[width * factor] * count]))
            cin = width * factor
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the deepest features and, for each pool, its switches and what it pooled."""
        check_batch_norm("SegNet's encoder", images, DEEPEST, self.training)
        x, pools = images, []
        for stage in self.stages:
            before = stage(x)
            x, switches = F.max_pool2d(before, 2, ceil_mode=True, return_indices=True)
            pools.append((switches, before))
        return x, pools

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load VGG16's convolutions, as the authors start; normalisation keeps its values.

        Args:
            source: see :func:`semseg.encoders.vgg.read_vgg16_weights`.

        Raises:
            FileError: the weights cannot be had or are not VGG16's.
            InputError: this network does not have the paper's width.
        """
        self.copy_weights(read_vgg16_weights(source))

    def copy_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy the convolutions among ``weights``, the first adapted to the image's channels.

        Raises:
            InputError: this network does not have the paper's width.
        """
        convs = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        published = weights["conv1_1.weight"].shape[0]
        if convs[0].out_channels != published:
            raise InputError(
                f"published VGG16 weights have width {published}, this encoder has "
                f"{convs[0].out_channels}; create it with width={published} or without pretrained"
            )
        stem = adapt_stem(weights["conv1_1.weight"], convs[0].in_channels)
        weights = weights | {"conv1_1.weight": stem}
        for name, conv in zip(NAMES, convs, strict=True):
            conv.load_state_dict({k: weights[f"{name}.{k}"] for k in ("weight", "bias")})


@register(
    "segnet",
    SegNetConfig(num_classes=11),
    title="SegNet",
    paper="arXiv:1511.00561",
    year=2015,
    idea="Max-pooling switches carry the boundaries from each encoder stage to its decoder stage.",
    repository="https://github.com/alexgkendall/SegNet-Tutorial",
    num_params=29_449_355,
    paper_size=(360, 480),
    published=(
        Published("CamVid test", 60.1, "paper, CamVid table; trained with 3,500 further images"),
        Published("PASCAL VOC 2012 test", 59.9, "paper, VOC table"),
    ),
    preprocessing=UNIT,
    verified="reference output",
    small={"width": 4},
)
class SegNet(SegmentationModel):
    """SegNet over VGG16; see the module docstring."""

    def __init__(self, config: SegNetConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.in_channels, config.width)
        widths = [config.width * factor for factor, _ in STAGES]
        self.decoder = nn.ModuleList()
        for i in reversed(range(1, len(STAGES))):
            # the last convolution of a stage has the width of the stage above it
            self.decoder.append(convolutions([widths[i]] * STAGES[i][1] + [widths[i - 1]]))
        # the classifier is stage 1's second convolution
        self.decoder.append(convolutions([widths[0], widths[0]]))
        self.classifier = nn.Conv2d(widths[0], config.num_classes, 3, padding=1)
        he_normal_(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``."""
        x, pools = self.encoder(images)
        for stage, (switches, before) in zip(self.decoder, reversed(pools), strict=True):
            # the size is not twice x's where a pool rounded up
            size = before.shape[-2:]
            x = stage(F.max_unpool2d(x, switches, (2, 2), output_size=size))
        return {"logits": self.classifier(x)}

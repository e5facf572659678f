r"""SegNet-Basic: the first SegNet, four 7x7 encoders and four decoders of one width.

Paper:
    Badrinarayanan, Handa, Cipolla. "SegNet: A Deep Convolutional Encoder-Decoder Architecture for
    Robust Semantic Pixel-Wise Labelling." 2015. arXiv:1505.07293. Layers follow the authors'
    ``Models/segnet_basic_train.prototxt``.

Shapes (any H, W; w = width = 64; a pool rounds up, so 45 x 60 becomes 23 x 30 and back again):
    images      (N, C, H, W)      normalised across channels, values in 0..255
    encoder i   (N, w, H/2^i, W/2^i)   i = 1..4: 7x7, norm, ReLU, pooled; the switches are kept
    decoder i   (N, w, H/2^(i-1), W/2^(i-1))   i = 4..1: unpooled by encoder i's switches, 7x7, norm
    logits      (N, K, H, W)      1x1

Parameters:
    1,416,587 at w = 64, K = 11, counted from the prototxt.

Deviations:
    - Batch normalisation keeps running averages (epsilon 1e-5, shifts start at 0). The authors
      recompute its statistics in a pass over the training set (1e-9, 0.001).
    - Images are RGB, the authors' BGR; the response normalisation spans all three, so that only
      the order of the first convolution's weights differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.preprocess import Preprocessing
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import he_normal_
from semseg.nn.norm import check_batch_norm

BYTES = Preprocessing(mean=(0.0,) * 3, std=(1 / 255,) * 3)
"""Values in 0..255: the response normalisation's constants belong to that range."""

STAGES = 4

DEEPEST = 2 ** (STAGES - 1)
"""Stride of the last normalised features; a pool follows them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegNetBasicConfig(ModelConfig):
    """Settings of :class:`SegNetBasic`."""

    width: int = 64
    """Channels of all features."""


def conv7(cin: int, cout: int, *, relu: bool) -> nn.Sequential:
    """Return a 7x7 convolution with bias, BatchNorm and, in the encoder only, ReLU."""
    layers = [nn.Conv2d(cin, cout, 7, padding=3), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


@register(
    "segnet_basic",
    SegNetBasicConfig(num_classes=11),
    title="SegNet-Basic",
    paper="arXiv:1505.07293",
    year=2015,
    idea="Decoders without activation unpool by the encoders' switches, so that all sharpness "
    "comes from where the maxima were.",
    repository="https://github.com/alexgkendall/SegNet-Tutorial",
    num_params=1_416_587,
    paper_size=(360, 480),
    published=(Published("CamVid test", 46.3, "Bayesian SegNet (arXiv:1511.02680), table 1"),),
    preprocessing=BYTES,
    verified="reference output",
    small={"width": 4},
)
class SegNetBasic(SegmentationModel):
    """SegNet-Basic; see the module docstring."""

    def __init__(self, config: SegNetBasicConfig) -> None:
        super().__init__(config)
        width = config.width
        # Caffe's LRN and PyTorch's both divide alpha by the number of channels they sum over
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.encoder = nn.ModuleList(
            conv7(config.in_channels if i == 0 else width, width, relu=True) for i in range(STAGES)
        )
        self.decoder = nn.ModuleList(conv7(width, width, relu=False) for _ in range(STAGES))
        self.classifier = nn.Conv2d(width, config.num_classes, 1)
        he_normal_(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``."""
        check_batch_norm(type(self).__name__, images, DEEPEST, self.training)
        x, pools = self.norm(images), []
        for stage in self.encoder:
            before = stage(x)
            x, switches = F.max_pool2d(before, 2, ceil_mode=True, return_indices=True)
            pools.append((switches, before.shape[-2:]))
        for stage, (switches, size) in zip(self.decoder, reversed(pools), strict=True):
            # the size is not twice x's where a pool rounded up
            x = stage(F.max_unpool2d(x, switches, (2, 2), output_size=size))
        return {"logits": self.classifier(x)}

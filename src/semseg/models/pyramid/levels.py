"""Features at strides 4 to 32 for UPerNet, also from a plain transformer, which has one stride.

Source:
    Bao, Dong, Piao, Wei. "BEiT: BERT Pre-Training of Image Transformers." ICLR 2022.
    arXiv:2106.08254, section 3.2 and the authors' code for segmentation.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders import Encoder
from semseg.encoders.timm import TimmEncoder
from semseg.models.pyramid.upernet import STRIDES


class Levels(nn.Module):
    """The four features that the decoder takes of a trunk's, finest first.

    Of a plain transformer of timm, whose features have one stride s, they are taken after a third,
    a half, two thirds and all of its blocks, and brought to strides s/4, s/2, s and 2 s by
    transposed convolutions and pooling.

    Args:
        encoder: the trunk; a plain transformer is told to give those four features.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.finer: nn.Module | None = None
        if isinstance(encoder, TimmEncoder) and encoder.is_plain:
            encoder.spread()
            width, stride = encoder.channels[0], encoder.strides[0]
            self.finest = nn.Sequential(
                doubled(width), nn.BatchNorm2d(width), nn.GELU(), doubled(width)
            )
            self.finer = doubled(width)
            self.places = list(range(4))
            self.multiple_of = 2 * stride
        else:
            self.places = [encoder.index_of(stride) for stride in STRIDES]
            self.multiple_of = max(encoder.strides)
        self.channels = [encoder.channels[i] for i in self.places]

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the four features."""
        maps = [features[i] for i in self.places]
        if self.finer is None:
            return maps
        return [self.finest(maps[0]), self.finer(maps[1]), maps[2], F.max_pool2d(maps[3], 2)]


def doubled(width: int) -> nn.ConvTranspose2d:
    """Return what doubles a map: ``(N, C, h, w) -> (N, C, 2 h, 2 w)``."""
    return nn.ConvTranspose2d(width, width, 2, stride=2)

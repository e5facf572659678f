r"""U-Net as printed: unpadded convolutions, cropped copies, mirrored borders, 572 to 388 pixels.

Paper:
    Ronneberger, Fischer, Brox. "U-Net: Convolutional Networks for Biomedical Image
    Segmentation." MICCAI 2015. arXiv:1505.04597, section 2, figures 1 and 2. What the paper leaves
    open follows the released ``phseg_v5`` network.

Shapes (at 388 x 388; in general H and W become 16 b - 60 of 16 b + 124 pixels, w = width = 64):
    images       (N, C, 388, 388)
    padded       (N, C, 572, 572)     92 mirrored pixels on each side
    down 0..4    (N, w, 568, 568), (N, 2w, 280, 280), (N, 4w, 136, 136), (N, 8w, 64, 64),
                 (N, 16w, 28, 28)     two 3x3 each, pooled between
    up 3..0      (N, 8w, 52, 52), (N, 4w, 100, 100), (N, 2w, 196, 196), (N, w, 388, 388)
    logits       (N, K, 388, 388)

Parameters:
    31,030,658 at width 64, one input channel, two classes (figure 1).

Deviations:
    - ``forward`` treats the whole image as one tile. Tiles whose corners lie at multiples of 16
      give the same scores, pixel by pixel, so cutting saves memory and changes nothing.
    - The paper names dropout without place or rate; as released: 0.5 after the last two
      contracting levels, on the copy as well. There the up-convolutions are followed by a ReLU.
    - The paper's weight map is the loss ``border_cross_entropy``, and its mean over seven rotated
      images a matter of prediction; neither is part of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError, check_images
from semseg.core.preprocess import Preprocessing
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import he_normal_

LEVELS = 4
"""Halvings."""

MARGIN = 92
"""Pixels of context that the unpadded convolutions take from each side."""

GREY = Preprocessing(mean=(0.5,), std=(0.5,))


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetValidConfig(ModelConfig):
    """Settings of :class:`UNetValid`."""

    width: int = 64
    """Channels at full resolution; doubles at each of the four halvings."""


def padded_size(size: int) -> int:
    """Return the least input side that gives at least ``size`` pixels of output.

    Example:
        >>> padded_size(388), padded_size(389)
        (572, 588)
    """
    grain: int = 2**LEVELS
    return -(-(size - 4) // grain) * grain + 4 + 2 * MARGIN


def mirrored(start: int, stop: int, size: int) -> Tensor:
    """Return indices of pixels ``start`` … ``stop - 1`` of a row mirrored at its first and last.

    The border pixel is not repeated; a row shorter than its margin is mirrored again and again.

    Example:
        >>> mirrored(-2, 5, 3).tolist()
        [2, 1, 0, 1, 2, 1, 0]
    """
    period = max(2 * (size - 1), 1)
    index = torch.arange(start, stop) % period
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)


def two_convolutions(cin: int, cout: int) -> nn.Sequential:
    """Return two unpadded 3x3 convolutions with ReLU: ``(N, cout, h - 4, w - 4)``."""
    return nn.Sequential(nn.Conv2d(cin, cout, 3), nn.ReLU(), nn.Conv2d(cout, cout, 3), nn.ReLU())


@register(
    "unet_valid",
    UNetValidConfig(in_channels=1, num_classes=2),
    title="U-Net (unpadded, as published)",
    paper="arXiv:1505.04597",
    year=2015,
    idea="Only pixels with full context are predicted; mirrored borders and overlapping tiles make "
    "any image size seamless.",
    repository="https://lmb.informatik.uni-freiburg.de/people/ronneber/u-net/",
    num_params=31_030_658,
    paper_size=(388, 388),
    published=(
        Published("PhC-U373", 92.03, "paper, table 2; IoU of the cells"),
        Published("DIC-HeLa", 77.56, "paper, table 2; IoU of the cells"),
    ),
    preprocessing=GREY,
    verified="arithmetic",
    small={"width": 4},
)
class UNetValid(SegmentationModel):
    """U-Net without padding; see the module docstring."""

    def __init__(self, config: UNetValidConfig) -> None:
        super().__init__(config)
        widths = [config.width * 2**i for i in range(LEVELS + 1)]
        self.down = nn.ModuleList(
            two_convolutions(cin, cout)
            for cin, cout in zip([config.in_channels, *widths], widths, strict=False)
        )
        self.dropout = nn.Dropout(0.5)
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.up.append(nn.ConvTranspose2d(2 * width, width, 2, stride=2))
            self.merge.append(two_convolutions(2 * width, width))
        self.classifier = nn.Conv2d(config.width, config.num_classes, 1)
        he_normal_(self)

    def pad(self, images: Tensor) -> Tensor:
        """Return checked images with mirrored borders: ``(N, C, 16 a + 124, 16 b + 124)``."""
        check_images(type(self).__name__, images, self.config.in_channels, self.min_size)
        height, width = images.shape[-2:]
        rows = mirrored(-MARGIN, padded_size(height) - MARGIN, height)
        columns = mirrored(-MARGIN, padded_size(width) - MARGIN, width)
        images = images.index_select(2, rows.to(images.device))
        return images.index_select(3, columns.to(images.device))

    def full_size(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the part of the logits that lies inside the image."""
        height, width = size
        return logits[..., :height, :width]

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, h - 184, w - 184)`` of images that :meth:`pad` gave.

        Raises:
            InputError: a size at which a pool would meet an odd row.
        """
        if any(
            side < padded_size(1) or padded_size(side - 2 * MARGIN) != side
            for side in images.shape[-2:]
        ):
            height, width = images.shape[-2:]
            raise InputError(
                f"UNetValid computes on sides of {padded_size(1)} pixels or a multiple of 16 more, "
                f"got {height} x {width}; pass the images through pad() first"
            )
        x, copies = images, []
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else F.max_pool2d(x, 2))
            if level >= LEVELS - 1:
                x = self.dropout(x)
            copies.append(x)
        for up, merge, copy in zip(self.up, self.merge, reversed(copies[:-1]), strict=True):
            x = F.relu(up(x))
            x = merge(torch.cat([x, cropped(copy, x)], 1))
        return {"logits": self.classifier(x)}


def cropped(x: Tensor, like: Tensor) -> Tensor:
    """Return the middle of ``(N, C, H, W)`` at the height and width of ``like``."""
    height, width = like.shape[-2:]
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]

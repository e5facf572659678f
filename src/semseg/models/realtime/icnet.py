r"""ICNet: the deep network sees a quarter of the image; shallow ones add the lost detail in steps.

Paper:
    Zhao, Qi, Shen, Shi, Jia. "ICNet for Real-Time Semantic Segmentation on High-Resolution
    Images." ECCV 2018. arXiv:1704.08545. Layers follow the authors'
    ``icnet_cityscapes_bnnomerge.prototxt``; the auxiliary heads, which it lacks, the paper.

Shapes (images grow to 32h + 1, 32w + 1; a feature of stride s stands on pixels 0, s, 2s, …):
    images       (N, C, 32h + 1, 32w + 1)
    medium       (N, 256, 2h + 1, 2w + 1)     on every second pixel: stem, stage 2, one of stage 3
    low          (N, 1024, h + 1, w + 1)      on every second value of medium: stages 3 to 5
    pooled       (N, 256, h + 1, w + 1)       low plus averages of its regions, 1x1
    high         (N, 64, 4h + 1, 4w + 1)      three 3x3 on the image
    sub4         (N, K, 2h + 1, 2w + 1)       of pooled, enlarged twofold
    sub24        (N, K, 4h + 1, 4w + 1)       of pooled and medium, fused and enlarged
    logits       (N, K, 8h + 1, 8w + 1)       of these and high, fused and enlarged

Parameters:
    6,707,321 at K = 19: 6,699,987 of the prototxt and 7,334 of the two auxiliary heads.

Deviations:
    - Regions of the average overlap as in the prototxt, whose windows fit 1025 x 2049 pixels; the
      rule behind them is this project's for other sizes. Below 130 pixels regions are divided as
      adaptive pooling does.
    - Images are normalised as ImageNet's; the authors' are BGR in 0..255 without the mean. A
      scaling layer of the prototxt, which starts as the identity, is left out.
    - Any size of image is taken; zeros fill it up to 32h + 1.
    - The authors start from a PSPNet-50 trained on the same data and prune half of its channels;
      here the narrow network starts from He's initialisation, the prototxt's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import he_normal_
from semseg.nn.norm import check_batch_norm

BINS = (1, 2, 3, 6)
"""Regions along each side, by level of the pyramid."""

STRIDES = {"sub4": 16, "sub24": 8, "logits": 4}
"""Pixels from one score to the next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ICNetConfig(ModelConfig):
    """Settings of :class:`ICNet`."""

    width: int = 32
    """Channels of the first layer; 64 is PSPNet-50 before half of its kernels are removed."""


def conv_norm(
    cin: int, cout: int, kernel: int = 1, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Return convolution and norm, nothing after them."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(cin, cout, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout, momentum=0.05))


def conv_norm_relu(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return convolution, norm and ReLU."""
    return nn.Sequential(*conv_norm(cin, cout, kernel, stride), nn.ReLU(inplace=True))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a skip: ``(N, cin, h, w) -> (N, 4 * inner, h/s, w/s)``."""

    def __init__(self, cin: int, inner: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        cout = 4 * inner
        self.branch = nn.Sequential(
            *conv_norm(cin, inner, stride=stride),
            nn.ReLU(inplace=True),
            *conv_norm(inner, inner, 3, dilation=dilation),
            nn.ReLU(inplace=True),
            *conv_norm(inner, cout),
        )
        self.skip = nn.Identity() if cin == cout else conv_norm(cin, cout, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified sum."""
        return F.relu(self.branch(x) + self.skip(x))


def stage(cin: int, inner: int, blocks: int, dilation: int = 1) -> nn.Sequential:
    """Return so many bottlenecks."""
    widths = [cin] + [4 * inner] * (blocks - 1)
    return nn.Sequential(*(Bottleneck(w, inner, dilation=dilation) for w in widths))


def window(side: int, bins: int) -> tuple[int, int]:
    """Return kernel and stride of ``bins`` windows that cover ``side`` and may overlap.

    Example:
        >>> [window(33, bins) for bins in BINS], [window(65, bins) for bins in BINS]
        ([(33, 33), (17, 16), (13, 10), (8, 5)], [(65, 65), (33, 32), (25, 20), (15, 10)])
    """
    stride = side // bins if bins < 3 else side // 6 * 6 // bins
    return side - (bins - 1) * stride, stride


def plus_regions(x: Tensor) -> Tensor:
    """Return ``(N, C, h, w)`` plus the averages of its regions at four sizes."""
    height, width = x.shape[-2:]
    total = x
    for bins in BINS:
        if min(height, width) < max(BINS):
            level = F.adaptive_avg_pool2d(x, bins)
        else:
            (kh, sh), (kw, sw) = window(height, bins), window(width, bins)
            level = F.avg_pool2d(x, (kh, kw), (sh, sw))
        total = total + F.interpolate(level, (height, width), mode="bilinear", align_corners=True)
    return total


def zoom(x: Tensor) -> Tensor:
    """Return ``(N, C, h + 1, w + 1)`` at ``(2h + 1, 2w + 1)``: one new value between two."""
    height, width = x.shape[-2:]
    size = (2 * height - 1, 2 * width - 1)
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


class Fusion(nn.Module):
    """Cascade feature fusion of a coarse, already enlarged feature and a fine one."""

    def __init__(self, coarse: int, fine: int, cout: int) -> None:
        super().__init__()
        self.coarse = conv_norm(coarse, cout, 3, dilation=2)
        self.fine = conv_norm(fine, cout)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return the rectified sum ``(N, cout, h, w)``."""
        return F.relu(self.coarse(coarse) + self.fine(fine))


@register(
    "icnet",
    ICNetConfig(num_classes=19),
    title="ICNet",
    paper="arXiv:1704.08545",
    year=2017,
    idea="Deep layers see a small image, shallow ones the large, and each fusion of the two is "
    "trained with scores of its own.",
    repository="https://github.com/hszhao/ICNet",
    num_params=6_707_321,
    paper_size=(1024, 2048),
    published=(
        Published("Cityscapes val", 67.7, "authors' README; 30,000 steps"),
        Published("Cityscapes test", 69.5, "authors' README; 90,000 steps on train and val"),
    ),
    verified="reference output",
    small={"width": 8},
)
class ICNet(SegmentationModel):
    """Image cascade network; see the module docstring."""

    align_corners = True
    aux_weights: ClassVar[dict[str, float]] = {"sub4": 0.16, "sub24": 0.4}

    def __init__(self, config: ICNetConfig) -> None:
        super().__init__(config)
        w, classes = config.width, config.num_classes
        self.medium = nn.Sequential(
            conv_norm_relu(config.in_channels, w, 3, stride=2),
            conv_norm_relu(w, w, 3),
            conv_norm_relu(w, 2 * w, 3),
            nn.MaxPool2d(3, stride=2, padding=1),
            stage(2 * w, w, 3),
            Bottleneck(4 * w, 2 * w, stride=2),
        )
        self.low = nn.Sequential(
            stage(8 * w, 2 * w, 3), stage(8 * w, 4 * w, 6, 2), stage(16 * w, 8 * w, 3, 4)
        )
        self.pooled = conv_norm_relu(32 * w, 8 * w, 1)
        self.high = nn.Sequential(
            conv_norm_relu(config.in_channels, w, 3, stride=2),
            conv_norm_relu(w, w, 3, stride=2),
            conv_norm_relu(w, 2 * w, 3, stride=2),
        )
        self.fuse_medium = Fusion(8 * w, 8 * w, 4 * w)
        self.fuse_high = Fusion(4 * w, 2 * w, 4 * w)
        self.head = nn.Conv2d(4 * w, classes, 1)
        self.sub4 = nn.Conv2d(8 * w, classes, 1)
        self.sub24 = nn.Conv2d(4 * w, classes, 1)
        he_normal_(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``, ``"sub24"`` and ``"sub4"`` at strides 4, 8 and 16.

        Raises:
            InputError: an image of a single pixel alone in training mode.
        """
        check_batch_norm(type(self).__name__, images, 1, self.training)
        height, width = images.shape[-2:]
        images = F.pad(images, (0, (1 - width) % 32, 0, (1 - height) % 32))
        # halving 2h + 1 values with aligned corners is to take every second one
        medium = self.medium(images[..., ::2, ::2])
        low = self.low(medium[..., ::2, ::2])
        sub4 = zoom(self.pooled(plus_regions(low)))
        sub24 = zoom(self.fuse_medium(sub4, medium))
        logits = self.head(zoom(self.fuse_high(sub24, self.high(images))))
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "sub24": self.sub24(sub24), "sub4": self.sub4(sub4)}

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return a head's logits at ``size``: enlarged to 32h + 1, and what lies beyond cut."""
        height, width = size
        full = (height + (1 - height) % 32, width + (1 - width) % 32)
        dense = F.interpolate(logits, full, mode="bilinear", align_corners=True)
        return dense[..., :height, :width]

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return one term per head, at its own stride: each score meets the label it stands on."""
        terms = {}
        for name, stride in STRIDES.items():
            labels = target[..., ::stride, ::stride]
            height, width = labels.shape[-2:]
            term = criterion(heads[name][..., :height, :width], labels)
            terms[name] = self.aux_weights.get(name, 1.0) * term
        return terms

r"""PSANet: every pixel predicts, by position, whom it collects from and whom it hands on to.

Paper:
    Zhao, Zhang, Liu, Shi, Loy, Lin, Jia. "PSANet: Point-wise Spatial Attention Network for Scene
    Parsing." ECCV 2018. doi:10.1007/978-3-030-01240-3_17, section 3. What the text leaves open
    follows the first author's PyTorch code, ``model/psanet.py`` and ``lib/psa``.

Shapes (images grow to 16a + 1, 16b + 1; m = mask, odd):
    images       (N, C, 16a + 1, 16b + 1)
    layer3       (N, 1024, 2a + 1, 2b + 1)   dilation 2
    layer4       (N, 2048, 2a + 1, 2b + 1)   dilation 4
    reduced      2 x (N, 512, a + 1, b + 1)   to collect and to distribute, every second pixel
    weights      2 x (N, m * m, a + 1, b + 1)   of the pixels around, as far as (m - 1) / 2
    gathered     (N, 2048, 2a + 1, 2b + 1)   1x1 on both results, enlarged again
    aux          (N, K, 2a + 1, 2b + 1)   3x3 to 256 and 1x1 on layer3
    logits       (N, K, 2a + 1, 2b + 1)   3x3 to 512 and 1x1 on layer4 beside what was gathered

Parameters:
    53,273,836 (ResNet-50) and 72,265,964 (ResNet-101) at K = 150 and mask 59, of crops of 465:
    50,875,478 and 69,867,606 of the network that predicts, and 2,398,358 of the auxiliary head.

Deviations:
    - The auxiliary head is always there; the authors' code builds it for training only.
    - The authors' operator that turns weights by offset into weights by place is compiled C++ and
      CUDA; here it is one ``gather``.
    - The mask reaches all pixels of the crop it was made for. In larger images pixels beyond it
      have the weight exp(0) before normalisation, as that operator leaves them; the authors
      predict in windows of the crop's size.
    - BatchNorm keeps PyTorch's momentum of 0.1, as the PyTorch code does.
    - Any size of image is taken; zeros fill it up to 16a + 1, which the authors' code asks for.
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
from semseg.nn.norm import check_batch_norm

STRIDE = 8
"""Of the trunk's features."""

SHRINK = 2
"""Attention is among every second of them, in both directions."""

HIDDEN, AUX_HIDDEN = 512, 256
"""Channels of attention and before the classifier, and before the auxiliary one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PSANetConfig(ModelConfig):
    """Settings of :class:`PSANet`."""

    encoder: str = "resnet50_deep"
    """Trunk that can be dilated to output stride 8; the paper's has three 3x3 as stem."""

    mask: int = 59
    """Side of the weights that a pixel predicts: 59 reaches all of a crop of 465, 89 all of 705."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.mask < 3 or self.mask % 2 == 0:
            raise InputError(
                f"PSANet takes an odd mask of at least 3, got {self.mask}; of a crop of 16a + 1 "
                "pixels 2a + 1 reaches everywhere"
            )


def by_place(weights: Tensor, mask: int) -> Tensor:
    """Turn weights by offset into weights by place; those of places beyond the mask are 0.

    Args:
        weights: ``(N, mask * mask, h, w)``; channels are offsets, row by row from the upper left.
        mask: odd.

    Returns:
        ``(N, h * w, h * w)``: what the pixel of the last dimension says of that of the second.
    """
    count, _, height, width = weights.shape
    rows = torch.arange(height, device=weights.device)
    columns = torch.arange(width, device=weights.device)
    down = rows[:, None] - rows[None, :] + mask // 2  # [place, pixel]
    right = columns[:, None] - columns[None, :] + mask // 2
    inside_down, inside_right = (x.ge(0) & x.lt(mask) for x in (down, right))
    # [row and column of the place, row and column of the pixel]
    channel = down[:, None, :, None] * mask + right[None, :, None, :]
    inside = inside_down[:, None, :, None] & inside_right[None, :, None, :]
    pixels = height * width
    index = torch.where(inside, channel, 0).reshape(1, pixels, pixels).expand(count, -1, -1)
    found = weights.reshape(count, mask * mask, pixels).gather(1, index)
    return found * inside.reshape(1, pixels, pixels).to(found.dtype)


class PointwiseAttention(nn.Module):
    """Information from all pixels by collecting and distributing.

    ``(N, cin, h, w) -> (N, cin, h, w)`` for odd h and w.
    """

    def __init__(self, cin: int, mask: int) -> None:
        super().__init__()
        self.mask = mask
        self.collect, self.collect_weights = self._branch(cin)
        self.distribute, self.distribute_weights = self._branch(cin)
        self.project = conv_bn_relu(2 * HIDDEN, cin, 1)

    def _branch(self, cin: int) -> tuple[nn.Sequential, nn.Sequential]:
        weights = nn.Conv2d(HIDDEN, self.mask**2, 1, bias=False)
        return (
            conv_bn_relu(cin, HIDDEN, 1),
            nn.Sequential(*conv_bn_relu(HIDDEN, HIDDEN, 1), weights),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return what pixels gathered."""
        collect, distribute = _shrunk(self.collect(x)), _shrunk(self.distribute(x))
        # a pixel's weights say of each place how much it takes from there ...
        taken = by_place(self.collect_weights(collect), self.mask)
        # ... or how much it gives: [place, pixel] has to become [giving, receiving]
        given = by_place(self.distribute_weights(distribute), self.mask).transpose(1, 2)
        both = [_gathered(collect, taken), _gathered(distribute, given)]
        size = x.shape[-2:]
        out: Tensor = self.project(torch.cat(both, dim=1))
        return F.interpolate(out, size, mode="bilinear", align_corners=True)


def _shrunk(x: Tensor) -> Tensor:
    size = [(side - 1) // SHRINK + 1 for side in x.shape[-2:]]
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def _gathered(x: Tensor, weights: Tensor) -> Tensor:
    """Return sums over the second dimension of weights ``(N, h * w, h * w)``, normalised there."""
    return (x.flatten(2) @ weights.softmax(dim=1)).reshape(x.shape)


def classifier(cin: int, hidden: int, num_classes: int) -> nn.Sequential:
    """Return 3x3, BatchNorm, ReLU, dropout of channels and 1x1: ``(N, cin, h, w)`` to scores."""
    return nn.Sequential(
        *conv_bn_relu(cin, hidden, 3), nn.Dropout2d(0.1), nn.Conv2d(hidden, num_classes, 1)
    )


FACTS = {
    "paper": "ECCV 2018, 10.1007/978-3-030-01240-3_17",
    "year": 2018,
    "idea": "Attention by position: each pixel predicts a map of weights over all offsets, one to "
    "collect information and one to distribute its own.",
    "repository": "https://github.com/hszhao/semseg",
    "paper_size": (465, 465),
    "verified": "reference output",
    "small": {"encoder": "test_resnet", "mask": 9},
}
README = "README of hszhao/semseg, single scale"


@register(
    "psanet_resnet50",
    PSANetConfig(num_classes=150),
    title="PSANet (ResNet-50)",
    num_params=53_273_836,
    published=(
        Published("ADE20K val", 42.29, README),
        Published("PASCAL VOC 2012 val", 77.25, README),
        Published("Cityscapes val", 77.45, f"{README}; mask 89"),
    ),
    **FACTS,
)
@register(
    "psanet_resnet101",
    PSANetConfig(num_classes=150, encoder="resnet101_deep"),
    title="PSANet (ResNet-101)",
    num_params=72_265_964,
    published=(
        Published("ADE20K val", 43.37, README),
        Published("PASCAL VOC 2012 val", 78.70, README),
        Published("Cityscapes val", 78.42, f"{README}; mask 89"),
    ),
    **FACTS,
)
class PSANet(SegmentationModel):
    """Point-wise spatial attention network; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated, or its features do not stand on pixels 8i.
    """

    align_corners = True
    aux_weights: ClassVar[dict[str, float]] = {"aux": 0.4}

    def __init__(self, config: PSANetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=STRIDE)
        *_, third, fourth = self.encoder.channels
        self.attention = PointwiseAttention(fourth, config.mask)
        self.head = classifier(2 * fourth, HIDDEN, config.num_classes)
        self.aux = classifier(third, AUX_HIDDEN, config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, 2a + 1, 2b + 1)``.

        Raises:
            InputError: one image of one pixel in training mode, or a trunk without a feature on
                pixels 8i.
        """
        grid = STRIDE * SHRINK
        height, width = images.shape[-2:]
        images = F.pad(images, (0, (1 - width) % grid, 0, (1 - height) % grid))
        check_batch_norm(type(self).__name__, images, grid, self.training)
        *_, third, fourth = self.encoder(images)
        expected = [(side - 1) // STRIDE + 1 for side in images.shape[-2:]]
        if list(fourth.shape[-2:]) != expected:
            raise InputError(
                f"PSANet needs a trunk with a feature on every eighth pixel, the image's corners "
                f"included; this one gives {tuple(fourth.shape[-2:])} for "
                f"{tuple(images.shape[-2:])}. Choose a ResNet"
            )
        heads = {"logits": self.head(torch.cat([fourth, self.attention(fourth)], dim=1))}
        if not self.logits_only:
            heads["aux"] = self.aux(third)
        return heads

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits at ``size``: eight times denser, and what lies beyond the image cut."""
        height, width = logits.shape[-2:]
        full = (STRIDE * (height - 1) + 1, STRIDE * (width - 1) + 1)
        dense = F.interpolate(logits, full, mode="bilinear", align_corners=True)
        return dense[..., : size[0], : size[1]]

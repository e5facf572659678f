r"""GSCNN: a second, fine stream sees shapes alone, because what the trunk knows gates it.

Paper:
    Takikawa, Acuna, Jampani, Fidler. "Gated-SCNN: Gated Shape CNNs for Semantic Segmentation."
    ICCV 2019. arXiv:1907.05740, section 3. What the text leaves open follows the authors' code,
    ``network/gscnn.py``, ``my_functionals`` and ``loss.py``.

Shapes (H, W any; sides are rounded up at each halving; w = width):
    images       (N, C,    H,   W)
    mod1         (N, w,    H,   W)
    mod2         (N, 2w,   H/2, W/2)
    mod3, mod4   (N, 4w,   H/4, W/4), (N, 8w, H/8, W/8)
    mod7         (N, 64w,  H/8, W/8)   as in Wider ResNet-38, model A2
    stream       (N, 32,   H,   W), (N, 16, H, W), (N, 8, H, W)   gated by mod3, mod4 and mod7
    edges        (N, 1,    H,   W)   logits of a border between classes
    pyramid      (N, 1536, H/8, W/8)   six of 256: of the image, of edges and Canny's edges, 1x1
                                       and 3x3 with dilations 12, 24 and 36 of mod7
    decoder      (N, 304,  H/2, W/2)   256 of the pyramid beside 48 of mod2, then two 3x3 to 256
    logits       (N, K,    H/2, W/2)

Parameters:
    137,278,125 at K = 19: 105,062,720 of the trunk and 32,215,405 of streams and heads. The
    authors' code has 65 more, of a convolution that it does not use.

Loss:
    The recipe's criterion, 20 times the balanced cross entropy of edges, the criterion again where
    an edge is more probable than 0.8, and the difference between borders in the result and in the
    mask (the paper's equation 4, with borders of samples by Gumbel softmax).

Deviations:
    - The released code leaves out the last term's smoothing and derivatives by an early ``return``;
      here they are as written behind it and in the paper, with the outermost values repeated
      beyond the image. Its cross entropy of edges applies the sigmoid twice, here once.
    - One convolution that the authors' code creates and never uses is not here.
    - Canny's detector sees what the authors' code hands it: normalised values cut to whole numbers
      and taken modulo 256. Faint edges are followed for 32 pixels, theirs without limit.
    - Per-image class weights of the authors' cross entropy are left to the recipe. Dropout in the
      trunk is of single values, theirs of channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.hrnet import BasicBlock
from semseg.encoders.wider_resnet38 import WiderResNet38
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu

STREAM = (32, 16, 8)
"""Channels of the shape stream after each of its blocks."""

HIDDEN, FINE = 256, 48
"""Channels of each part of the pyramid and of the decoder, and of what joins from mod2."""

RATES = (12, 24, 36)
"""Dilations of the pyramid at stride 8."""

LOW, HIGH, FOLLOWED = 10, 100, 32
"""Canny's thresholds, and pixels for which an edge above the lower one is followed."""

CERTAIN = 0.8
"""Probability of an edge above which the third loss counts a pixel."""

RADIUS = 2
"""Pixels on either side that belong to a border in the mask."""

TEMPERATURE, TRIANGLE = 0.5, 4
"""Of the Gumbel softmax, and the radius of the filter before derivatives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GSCNNConfig(ModelConfig):
    """Settings of :class:`GSCNN`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    width: int = 64
    """Channels of the trunk's stem; its others are multiples of it."""


# ---- Canny -------------------------------------------------------------------------------------


def canny(images: Tensor) -> Tensor:
    """Return 255 on Canny's edges of ``(N, C, H, W)`` whole numbers and 0 elsewhere.

    As OpenCV computes it: Sobel's derivatives, at each pixel those of the channel where they are
    largest, lines of one pixel's width, and hysteresis.

    Returns:
        ``(N, 1, H, W)`` in the dtype of ``images``.
    """
    height, width = images.shape[-2:]
    p = F.pad(images, (1, 1, 1, 1), mode="replicate").long()
    across = p[..., :-2, :] + 2 * p[..., 1:-1, :] + p[..., 2:, :]
    along = p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]
    dx = across[..., 2:] - across[..., :-2]
    dy = along[..., 2:, :] - along[..., :-2, :]
    size, strongest = (dx.abs() + dy.abs()).max(dim=1, keepdim=True)
    dx, dy = dx.gather(1, strongest), dy.gather(1, strongest)
    padded = F.pad(size, (1, 1, 1, 1))

    def beside(row: int, column: int) -> Tensor:
        return padded[..., 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    # angles of 22.5 and 67.5 degrees part the directions; 13573 is tan(22.5) times 2^15
    flat, rise = dx.abs() * 13573, dy.abs() * 2**15
    level = (size > beside(0, -1)) & (size >= beside(0, 1))
    upright = (size > beside(-1, 0)) & (size >= beside(1, 0))
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    rises = dx.sign() * dy.sign() < 0
    steep, gentle = rise > flat + dx.abs() * 2**16, rise < flat
    # not torch.where: ONNX Runtime has none that chooses between truth values
    diagonal = ~steep & ~gentle & ((rises & rising) | (~rises & falling))
    line = (gentle & level) | (steep & upright) | diagonal
    faint = (line & (size > LOW)).to(images.dtype)
    found = (line & (size > HIGH)).to(images.dtype)
    for _ in range(FOLLOWED):
        found = faint * F.max_pool2d(found, 3, stride=1, padding=1)
    return 255 * found


# ---- the two streams ---------------------------------------------------------------------------


class Gate(nn.Module):
    """Weigh the stream's pixels by one map from the trunk: ``(N, width, H, W)`` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1, bias=False)
        self.share = nn.Sequential(
            nn.BatchNorm2d(width + 1),
            nn.Conv2d(width + 1, width + 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width + 1, 1, 1),
            nn.BatchNorm2d(1),
            nn.Sigmoid(),
        )
        nn.init.xavier_normal_(self.conv.weight)

    def forward(self, x: Tensor, trunk: Tensor) -> Tensor:
        """Return the convolved stream, up to twice as strong where the gate is open."""
        out: Tensor = self.conv(x * (self.share(torch.cat([x, trunk], dim=1)) + 1))
        return out


class ShapeStream(nn.Module):
    """Residual blocks at full resolution, gated by ever deeper features.

    Args:
        cin: channels of the trunk's first feature.
        sides: channels of the features that gate.
    """

    def __init__(self, cin: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        widths = (cin, *STREAM)
        self.blocks = nn.ModuleList(BasicBlock(width) for width in widths[:-1])
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.gates = nn.ModuleList(Gate(width) for width in STREAM)
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in sides)
        self.fuse = nn.Conv2d(STREAM[-1], 1, 1, bias=False)
        for conv in self.blocks.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Return logits of edges ``(N, 1, H, W)``."""
        size = x.shape[-2:]
        steps = zip(self.blocks, self.narrow, self.gates, self.sides, features, strict=True)
        for block, narrow, gate, side, feature in steps:
            x = gate(narrow(block(x)), _enlarge(side(feature), size))
        out: Tensor = self.fuse(x)
        return out


class EdgePyramid(nn.Module):
    """Atrous pyramid with a part of edges: ``(N, cin, h, w)`` and ``(N, 1, H, W)`` to 1536."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.image = conv_bn_relu(cin, HIDDEN, 1)
        self.edges = conv_bn_relu(1, HIDDEN, 1)
        self.convs = nn.ModuleList(
            [conv_bn_relu(cin, HIDDEN, 1), *(conv_bn_relu(cin, HIDDEN, 3, r) for r in RATES)]
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return the six parts beside each other.

        Raises:
            InputError: one image while the norm of the image's average is in training mode.
        """
        norm = self.image[1]
        # a synchronised norm, another class, sees the images of all devices
        if isinstance(norm, nn.BatchNorm2d) and norm.training and len(x) < 2:
            raise InputError(
                "GSCNN needs at least 2 images per step in training mode: its average of the whole "
                "image is one value per channel and image, which batch normalisation turns into "
                "zero; use a batch size of 2 or more and drop an incomplete last batch"
            )
        size = x.shape[-2:]
        whole = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *size)
        shapes = self.edges(_enlarge(edges, size))
        return torch.cat([whole, shapes, *(conv(x) for conv in self.convs)], dim=1)


def _enlarge(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


# ---- losses ------------------------------------------------------------------------------------


def borders(target: Tensor, ignore_id: int) -> Tensor:
    """Return 1 within two pixels of another class and 0 elsewhere, float ``(N, H, W)``.

    Ignored pixels, those beyond the image and the first class count as one, as in the authors'
    code.
    """
    height, width = target.shape[-2:]
    labels = torch.where(target == ignore_id, 0, target)
    padded = F.pad(labels, (RADIUS,) * 4)
    near = torch.zeros_like(labels, dtype=torch.bool)
    for row in range(-RADIUS, RADIUS + 1):
        for column in range(-RADIUS, RADIUS + 1):
            if row**2 + column**2 <= RADIUS**2:
                top, left = RADIUS + row, RADIUS + column
                near |= padded[:, top : top + height, left : left + width] != labels
    return near.float()


def balanced_cross_entropy(scores: Tensor, truth: Tensor) -> Tensor:
    """Return cross entropy of ``(N, H, W)`` logits, edges weighing as the rest is frequent."""
    share = truth.mean()
    weight = torch.where(truth > 0, 1 - share, share)
    return F.binary_cross_entropy_with_logits(scores, truth.to(scores.dtype), weight)


def steepness(maps: Tensor) -> Tensor:
    """Return the size of the gradient of smoothed ``(N, K, H, W)`` maps, as a share of the largest.

    The filter is a triangle of radius 4 in both directions; derivatives are central differences.
    """
    classes = maps.shape[1]
    side = torch.arange(-TRIANGLE, TRIANGLE + 1, device=maps.device, dtype=maps.dtype)
    triangle = (TRIANGLE + 1 - side.abs()) / (TRIANGLE + 1) ** 2
    padded = F.pad(maps, (TRIANGLE,) * 4, mode="replicate")
    rows = triangle.view(1, 1, 1, -1).expand(classes, 1, 1, -1)
    smooth = F.conv2d(F.conv2d(padded, rows, groups=classes), rows.mT, groups=classes)
    p = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    dx = (p[..., 1:-1, 2:] - p[..., 1:-1, :-2]) / 2
    dy = (p[..., 2:, 1:-1] - p[..., :-2, 1:-1]) / 2
    size = (dx.square() + dy.square() + 1e-6).sqrt()
    return size / size.max()


def dual_task(logits: Tensor, target: Tensor, ignore_id: int) -> Tensor:
    """Return the difference between borders of the sampled result and of the mask.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel.
        target: ``(N, H, W)`` train ids.
        ignore_id: of pixels that are taken as the first class, their logits as zero.
    """
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    ignored = target == ignore_id
    logits = logits.masked_fill(ignored[:, None], 0)
    labels = torch.where(ignored, 0, target)
    sampled = steepness(F.gumbel_softmax(logits, tau=TEMPERATURE, dim=1))
    true = steepness(F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(logits.dtype))
    return (sampled - true).abs().mean()


# ---- the network -------------------------------------------------------------------------------


@register(
    "gscnn",
    GSCNNConfig(),
    title="GSCNN",
    paper="arXiv:1907.05740",
    year=2019,
    idea="Shape is a stream of its own at full resolution: gates from the trunk leave it nothing "
    "but borders, which then help the pyramid and are held to the result by the loss.",
    repository="https://github.com/nv-tlabs/GSCNN",
    num_params=137_278_125,
    paper_size=(720, 720),
    published=(
        Published("Cityscapes val", 80.8, "paper, Table 1"),
        Published("Cityscapes test", 82.8, "paper, Table 2: several scales"),
    ),
    verified="reference output",
    small={"width": 4},
)
class GSCNN(SegmentationModel):
    """Gated shape network; see the module docstring."""

    aux_weights: ClassVar[dict[str, float]] = {"edges": 20.0}

    def __init__(self, config: GSCNNConfig) -> None:
        super().__init__(config)
        self.encoder = WiderResNet38(
            config.in_channels, 8, config.width, pools=True, final_norm=False
        )
        first, second, third, fourth, *_, last = self.encoder.channels
        self.stream = ShapeStream(first, (third, fourth, last))
        self.with_canny = nn.Conv2d(2, 1, 1, bias=False)
        self.pyramid = EdgePyramid(last)
        self.fine = nn.Conv2d(second, FINE, 1, bias=False)
        self.coarse = nn.Conv2d((3 + len(RATES)) * HIDDEN, HIDDEN, 1, bias=False)
        self.head = nn.Sequential(
            conv_bn_relu(HIDDEN + FINE, HIDDEN, 3),
            conv_bn_relu(HIDDEN, HIDDEN, 3),
            nn.Conv2d(HIDDEN, config.num_classes, 1, bias=False),
        )
        for conv in self.head.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/2, W/2)`` and ``"edges"`` ``(N, 1, H, W)``.

        Raises:
            InputError: one image in training mode.
        """
        first, second, third, fourth, *_, last = self.encoder(images)
        edges = self.stream(first, [third, fourth, last])
        drawn = canny(images.detach().trunc() % 256)
        both = self.with_canny(torch.cat([edges.sigmoid(), drawn], dim=1)).sigmoid()
        coarse = self.coarse(self.pyramid(last, both))
        coarse = _enlarge(coarse, second.shape[-2:])
        logits = self.head(torch.cat([self.fine(second), coarse], dim=1))
        return {"logits": logits} if self.logits_only else {"logits": logits, "edges": edges}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the four terms of the module docstring."""
        size = (target.shape[-2], target.shape[-1])
        logits, edges = self.full_size(heads["logits"], size), heads["edges"][:, 0]
        ignore = 255 if self.config.num_classes <= 255 else 65535
        near = torch.where(edges.detach().sigmoid() > CERTAIN, target, ignore)
        # a mean over no pixel is not a number
        known = bool((near != ignore).any())
        truth = borders(target, ignore)
        return {
            "logits": criterion(logits, target),
            "edges": self.aux_weights["edges"] * balanced_cross_entropy(edges, truth),
            "near_edges": criterion(logits, near) if known else 0 * logits.sum(),
            "dual": dual_task(logits, target, ignore),
        }

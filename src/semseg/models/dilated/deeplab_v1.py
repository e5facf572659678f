r"""DeepLab v1: VGG16 at stride 8 by dilation ("holes"), with a large field of view.

Paper:
    Chen, Papandreou, Kokkinos, Murphy, Yuille. "Semantic Image Segmentation with Deep
    Convolutional Nets and Fully Connected CRFs." ICLR 2015. arXiv:1412.7062. Layers follow the
    authors' ``train.prototxt`` of DeepLab-LargeFOV and DeepLab-MSc-LargeFOV.

Shapes (any H, W; h = ceil((H - 1) / 8) + 1, w likewise; sizes at H = W = 321):
    images       (N, C,    321, 321)
    pool1        (N, 64,   161, 161)   3x3 max-pooling, stride 2
    pool2        (N, 128,  81,  81)
    pool3        (N, 256,  41,  41)
    pool4, pool5 (N, 512,  41,  41)    stride 1; conv5 has dilation 2
    fc6, fc7     (N, 1024, 41,  41)    3x3 with dilation 12, then 1x1
    logits       (N, K,    h,   w)     41 x 41; score i stands on pixel 8i

Parameters:
    20,505,429 at K = 21 (the paper's 20.5M); 65,140,565 with the first layer 4x4 and 4096 wide,
    134,346,581 with 7x7 (65.1M and 134.3M in Table 2). With multi-scale features 21,711,445: the
    paper has one classifier over the 1024 + 640 concatenated channels, computed here, as in the
    authors' file, as the sum of six classifiers, of which one has the bias.

Deviations:
    - The dense CRF of the paper is a step after the network; see ``semseg.postprocess``.
    - VGG16 comes from torchvision and takes RGB in ImageNet's normalisation; the authors' takes
      BGR in 0..255 without the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.vgg import STAGES, VGG16, read_vgg16_weights
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.stages import load_earlier_stage
from semseg.nn.init import he_normal_


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepLabV1Config(ModelConfig):
    """Settings of :class:`DeepLabV1`."""

    kernel: int = 3
    """Size of the first layer after VGG16 (paper, Table 2: 7, 4 or 3)."""

    rate: int = 12
    """Its dilation (paper: 4, 4 or 8, 12)."""

    hidden: int = 1024
    """Channels of the two hidden layers (paper: 4096, or 1024 with 3x3)."""

    multi_scale_features: bool = False
    """Whether the image and the first four pools feed the classifier as well."""

    train_features_only: bool = False
    """Train only what the multi-scale features add, as the paper does, from a trained network
    without them."""

    width: int = 64
    """Channels of VGG16's first stage; all others, and the added features, are multiples."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.kernel < 1 or self.rate < 1 or (self.kernel - 1) * self.rate % 2:
            raise InputError(
                f"DeepLabV1 cannot centre a kernel of {self.kernel} with rate {self.rate}; "
                "take an odd kernel or an even rate"
            )
        if self.train_features_only and not self.multi_scale_features:
            raise InputError("train_features_only needs multi_scale_features=True")


class CornerAligned(SegmentationModel):
    """A network whose score ``i`` stands exactly on pixel ``8i``, as in DeepLab's Caffe nets.

    Images grow right and below to ``grid * k + 1`` pixels, so that scores stand on all corners.
    """

    align_corners = True
    grid: ClassVar[int] = 8

    def to_grid(self, images: Tensor) -> Tensor:
        """Return images padded with zeros, which is the mean colour, to ``grid * k + 1``."""
        height, width = images.shape[-2:]
        return F.pad(images, (0, (1 - width) % self.grid, 0, (1 - height) % self.grid))

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits at ``size``: eight times denser, and what lies beyond the image cut."""
        height, width = logits.shape[-2:]
        full = (8 * (height - 1) + 1, 8 * (width - 1) + 1)
        dense = F.interpolate(logits, full, mode="bilinear", align_corners=True)
        return dense[..., : size[0], : size[1]]

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the one term: scores against every eighth label (paper, section 3.1)."""
        return {"logits": compare_on_grid(criterion, heads["logits"], target)}


def compare_on_grid(
    criterion: Criterion, logits: Tensor, target: Tensor, scale: float = 1.0
) -> Tensor:
    """Return the loss of scores against the labels of the pixels they stand on.

    Args:
        criterion: the loss of the recipe.
        logits: ``(N, K, h, w)``, score ``i`` on pixel ``8i / scale``, rounded.
        target: ``(N, H, W)``; scores beyond it are left out.
        scale: size of the network's input relative to the image.
    """
    rows, columns = (
        torch.arange(math.floor((length - 0.5) * scale / 8) + 1, device=target.device)
        for length in target.shape[-2:]
    )
    rows, columns = ((8 / scale * i).round().long() for i in (rows, columns))
    labels = target[:, rows[:, None], columns]
    return criterion(logits[..., : len(rows), : len(columns)], labels)


class AtrousVGG16(VGG16):
    """VGG16 at stride 8: 3x3 pools, the last two of stride 1, and dilation 2 between them.

    ``forward`` returns the five pools, ``(N, w, H/2, W/2)`` to ``(N, 8w, H/8, W/8)``.
    """

    def __init__(self, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(in_channels, width)
        self.strides = (2, 4, 8, 8, 8)
        self.channels = self.channels[:5]
        for name, conv in self.convs.items():
            if name.startswith("conv5") and isinstance(conv, nn.Conv2d):
                conv.dilation = conv.padding = (2, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the pools, finest first."""
        x, pools = images, []
        for stage, (_, count) in enumerate(STAGES, 1):
            for i in range(1, count + 1):
                x = F.relu(self.convs[f"conv{stage}_{i}"](x))
            x = F.max_pool2d(x, 3, stride=2 if stage <= 3 else 1, padding=1, ceil_mode=True)
            pools.append(x)
        return pools


class FieldOfView(nn.Module):
    """VGG16's hidden layers, made convolutional, and a classifier: ``(N, C, h, w)`` to scores."""

    def __init__(self, cin: int, hidden: int, num_classes: int, kernel: int, rate: int) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(cin, hidden, kernel, padding=(kernel - 1) * rate // 2, dilation=rate)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.fc8 = nn.Conv2d(hidden, num_classes, 1)
        self.dropout = nn.Dropout(0.5)
        he_normal_(self)
        nn.init.normal_(self.fc8.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``(N, K, h, w)``."""
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.dropout(F.relu(self.fc7(x)))
        scores: Tensor = self.fc8(x)
        return scores

    def copy_hidden(self, weights: dict[str, Tensor]) -> None:
        """Thin out VGG16's 7x7 x 4096 hidden layers to this size (paper, section 3.2)."""
        for name, layer in (("fc6", self.fc6), ("fc7", self.fc7)):
            weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            for axis, size in enumerate(layer.weight.shape):
                kept = torch.linspace(0, weight.shape[axis] - 1, size).round().long()
                weight = weight.index_select(axis, kept)
                bias = bias[kept] if axis == 0 else bias
            layer.load_state_dict({"weight": weight, "bias": bias})


def side_branch(cin: int, width: int, num_classes: int, stride: int) -> nn.Sequential:
    """Return the paper's two-layer perceptron on a fine feature, with its share of the classifier.

    ``(N, cin, H, W) -> (N, K, H / stride, W / stride)``.
    """
    layers = (nn.Conv2d(cin, width, 3, stride, padding=1), nn.Conv2d(width, width, 1))
    classifier = nn.Conv2d(width, num_classes, 1, bias=False)
    for layer in layers:  # the authors' file; small, so that they start almost without effect
        nn.init.normal_(layer.weight, std=0.001)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(classifier.weight, std=0.01)
    hidden = [part for layer in layers for part in (layer, nn.ReLU(), nn.Dropout(0.5))]
    return nn.Sequential(*hidden, classifier)


SMALL = {"width": 4, "hidden": 32}


@register(
    "deeplab_v1_largefov",
    DeepLabV1Config(),
    title="DeepLab v1, LargeFOV (VGG16)",
    paper="arXiv:1412.7062",
    year=2015,
    idea="Dilated convolution keeps a classification network dense at stride 8 and sets its field "
    "of view freely.",
    repository="https://bitbucket.org/deeplab/deeplab-public",
    num_params=20_505_429,
    paper_size=(321, 321),
    published=(
        Published("PASCAL VOC 2012 val", 62.25, "paper, Table 1; without CRF"),
        Published("PASCAL VOC 2012 test", 70.3, "paper, Table 3; with dense CRF"),
    ),
    verified="reference output",
    small=SMALL,
)
@register(
    "deeplab_v1_msc",
    DeepLabV1Config(multi_scale_features=True),
    title="DeepLab v1, MSc-LargeFOV (VGG16)",
    paper="arXiv:1412.7062",
    year=2015,
    idea="The image and the first four pools feed the classifier beside the deepest feature.",
    repository="https://bitbucket.org/deeplab/deeplab-public",
    num_params=21_711_445,
    paper_size=(321, 321),
    published=(
        Published("PASCAL VOC 2012 val", 64.21, "paper, Table 1; without CRF"),
        Published("PASCAL VOC 2012 test", 71.6, "paper, Table 3; with dense CRF"),
    ),
    verified="reference output",
    small=SMALL,
)
class DeepLabV1(CornerAligned):
    """DeepLab v1 over VGG16; see the module docstring.

    With multi-scale features, ``pretrained`` also takes a trained network without them: the names
    of its layers agree.
    """

    def __init__(self, config: DeepLabV1Config) -> None:
        super().__init__(config)
        self.encoder = AtrousVGG16(config.in_channels, config.width)
        widths, classes = self.encoder.channels, config.num_classes
        # the authors' nets average here before the wide first layer; most ports leave it out
        self.pool5a = nn.AvgPool2d(3, stride=1, padding=1)
        self.head = FieldOfView(widths[-1], config.hidden, classes, config.kernel, config.rate)
        self.sides = nn.ModuleList()
        if config.multi_scale_features:
            fine = zip((config.in_channels, *widths[:4]), (8, 4, 2, 1, 1), strict=True)
            for cin, stride in fine:
                self.sides.append(side_branch(cin, 2 * config.width, classes, stride))
        self.train_features_only = config.train_features_only
        if self.train_features_only:
            self.encoder.requires_grad_(False)
            self.head.requires_grad_(False)

    def train(self, mode: bool = True) -> DeepLabV1:
        """Set the mode; what is not trained keeps its dropout off."""
        super().train(mode)
        if self.train_features_only:
            self.head.eval()
        return self

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, h, w)``, score ``i`` on pixel ``8i``."""
        images = self.to_grid(images)
        pools = self.encoder(images)
        logits = self.head(self.pool5a(pools[-1]))
        for side, fine in zip(self.sides, (images, *pools[:4]), strict=False):
            logits = logits + side(fine)
        return {"logits": logits}

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load VGG16, its hidden layers thinned out, or a trained network without the features.

        Args:
            source: see :func:`semseg.encoders.vgg.read_vgg16_weights`; or a weights file or run
                of ``deeplab_v1_largefov`` where this network has multi-scale features.

        Raises:
            FileError: the weights cannot be had or do not fit.
            InputError: published weights for a network that does not have the paper's width.
        """
        if self.sides and load_earlier_stage(self, source, ("deeplab_v1_largefov",)):
            return
        weights = read_vgg16_weights(source)
        self.encoder.copy_weights(weights)
        self.head.copy_hidden(weights)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return what starts from VGG16 as ``"encoder"``, classifiers and sides as ``"head"``."""
        head = [*self.head.fc8.parameters(), *self.sides.parameters()]
        inside = {id(p) for p in head}
        return {"encoder": [p for p in self.parameters() if id(p) not in inside], "head": head}

r"""UPerNet: a feature pyramid whose top has seen the whole image; all levels classify together.

Paper:
    Xiao, Liu, Zhou, Jiang, Sun. "Unified Perceptual Parsing for Scene Understanding." ECCV 2018.
    arXiv:1807.10221, section 3.1 and figure 4. This is the network for objects alone; details
    follow the authors' code for ADE20K, ``mit_semseg/models/models.py``. The network of all tasks
    is ``upp_resnet50``.

Shapes (H, W divisible by 32; w = width, the paper's 512):
    images         (N, C, H, W)
    res2 … res5    (N, 256, H/4, W/4), (N, 512, H/8, W/8), (N, 1024, H/16, W/16),
                   (N, 2048, H/32, W/32)
    context        (N, w, H/32, W/32)   res5 beside 512 channels of each of four averages
    P2 … P4        (N, w, H/4, W/4), (N, w, H/8, W/8), (N, w, H/16, W/16)
    fused          (N, w, H/4, W/4)   P2 … P4 and the context, enlarged, through 3x3
    logits         (N, K, H/4, W/4)

Parameters:
    64,222,294 (ResNet-50) and 83,214,422 (ResNet-101) at K = 150.

Deviations:
    - The average of regions is adaptive pooling as in the code for ADE20K; the paper and
      ``upp_resnet50`` have Precise RoI pooling.
    - BatchNorm keeps PyTorch's momentum of 0.1; the authors' synchronised norm averages with
      0.001 and corrects for its start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.pyramid.pspnet import BINS
from semseg.nn.conv import conv_bn_relu
from semseg.nn.norm import check_batch_norm

STRIDES = (4, 8, 16, 32)
"""Strides of the trunk's features that are used, finest first."""

POOLED = 512
"""Channels of each level of pooling, at any width."""

Pool = Callable[[Tensor, int], Tensor]
"""``((N, C, h, w), bins) -> (N, C, bins, bins)``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UPerNetConfig(ModelConfig):
    """Settings of :class:`UPerNet`."""

    encoder: str = "resnet50_deep"
    """Trunk with features at strides 4 to 32; the authors' has three 3x3 as stem."""

    width: int = 512
    """Channels of the feature pyramid; the authors' ``upernet_lite`` has 256."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.width < 1:
            raise InputError(f"UPerNet needs width >= 1, got {self.width}")


class Context(nn.Module):
    """The deepest feature beside averages of its regions, joined by 3x3.

    Averages are enlarged first and only then go through 1x1, BatchNorm and ReLU, so that one image
    can be trained on; PSPNet's order is the reverse. ``(N, cin, h, w) -> (N, width, h, w)``.
    """

    def __init__(self, cin: int, width: int, pool: Pool = F.adaptive_avg_pool2d) -> None:
        super().__init__()
        self.pool = pool
        self.levels = nn.ModuleList(conv_bn_relu(cin, POOLED, 1) for _ in BINS)
        self.join = conv_bn_relu(cin + len(BINS) * POOLED, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined feature."""
        pooled = [
            level(enlarged(self.pool(x, bins), x))
            for level, bins in zip(self.levels, BINS, strict=True)
        ]
        out: Tensor = self.join(torch.cat([x, *pooled], dim=1))
        return out


class FeaturePyramid(nn.Module):
    """Top-down path: each level is a 1x1 of the trunk's feature plus the enlarged level above.

    Args:
        channels: of the trunk's features, finest first, without the deepest.
        width: channels of every level.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_bn_relu(cin, width, 1) for cin in channels)
        self.out = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in channels)

    def forward(self, features: list[Tensor], top: Tensor) -> list[Tensor]:
        """Return the levels, finest first; the last is ``top`` itself."""
        levels = [top]
        path = top
        for i in reversed(range(len(self.lateral))):
            side = self.lateral[i](features[i])
            path = side + enlarged(path, side)
            levels.insert(0, self.out[i](path))
        return levels


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` at the height and width of ``like``."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def stacked(levels: list[Tensor]) -> Tensor:
    """Return all levels at the size of the first, side by side in channels."""
    return torch.cat([levels[0], *(enlarged(level, levels[0]) for level in levels[1:])], dim=1)


def authors_init_(part: nn.Module) -> None:
    """Draw initial weights as the authors' code does, in place: He's, and norms just above zero.

    Biases of convolutions keep PyTorch's values.
    """
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.bias, 1e-4)


def on_quarter(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores at stride 4 and the labels of the pixels they stand on, of one size.

    A score stands on the middle of 4 x 4 pixels; of the four nearest, the label right below counts.
    """
    labels = labels[:, 2::4, 2::4]
    return logits[..., : labels.shape[-2], : labels.shape[-1]], labels


FACTS = {
    "paper": "arXiv:1807.10221",
    "year": 2018,
    "idea": "Pyramid pooling on top of a feature pyramid gives context and detail without "
    "dilation, in one feature that classifies all levels together.",
    "repository": "https://github.com/CSAILVision/semantic-segmentation-pytorch",
    "paper_size": (512, 512),
    "verified": "reference output",
    "small": {"encoder": "test_resnet", "width": 16},
}
README = "README of CSAILVision/semantic-segmentation-pytorch, single scale"


@register(
    "upernet_resnet50",
    UPerNetConfig(num_classes=150),
    title="UPerNet (ResNet-50)",
    num_params=64_222_294,
    published=(Published("ADE20K val", 40.44, README),),
    **FACTS,
)
@register(
    "upernet_resnet101",
    UPerNetConfig(num_classes=150, encoder="resnet101_deep"),
    title="UPerNet (ResNet-101)",
    num_params=83_214_422,
    published=(Published("ADE20K val", 42.00, README),),
    **FACTS,
)
class UPerNet(SegmentationModel):
    """UPerNet for one task; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, config: UPerNetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.multiple_of = max(self.encoder.strides)
        self.places = [self.encoder.index_of(stride) for stride in STRIDES]
        *channels, deepest = [self.encoder.channels[i] for i in self.places]
        self.context = Context(deepest, config.width)
        self.pyramid = FeaturePyramid(channels, config.width)
        self.fusion = conv_bn_relu(len(STRIDES) * config.width, config.width, 3)
        self.head = nn.Conv2d(config.width, config.num_classes, 1)
        for part in (self.context, self.pyramid, self.fusion, self.head):
            authors_init_(part)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/4, W/4)``."""
        check_batch_norm(type(self).__name__, images, self.multiple_of, self.training)
        features = self.encoder(images)
        *finer, deepest = [features[i] for i in self.places]
        levels = self.pyramid(finer, self.context(deepest))
        return {"logits": self.head(self.fusion(stacked(levels)))}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the one term: scores against every fourth label, as the authors' code compares."""
        return {"logits": criterion(*on_quarter(heads["logits"], target))}

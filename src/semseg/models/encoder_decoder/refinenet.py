r"""RefineNet: every feature of the trunk refines the coarser result, by residual blocks alone.

Paper:
    Lin, Milan, Shen, Reid. "RefineNet: Multi-Path Refinement Networks for High-Resolution
    Semantic Segmentation." CVPR 2017. arXiv:1611.06612, section 3. Layers follow the network that
    the authors released for PASCAL VOC and Cityscapes (``net_graphs`` of their MATLAB code), as
    DrSleep/refinenet-pytorch has it.

Shapes (any H, W; sizes are rounded up; w = width, 256 in the paper; channels of a ResNet):
    images        (N, C, H, W)
    trunk         (N, 256, H/4, W/4), (N, 512, H/8, W/8), (N, 1024, H/16, W/16),
                  (N, 2048, H/32, W/32)
    RefineNet-4   (N, 2w, H/32, W/32)
    RefineNet-3   (N, w, H/16, W/16)   its input, and RefineNet-4's result enlarged
    RefineNet-2   (N, w, H/8, W/8)
    RefineNet-1   (N, w, H/4, W/4)
    logits        (N, K, H/4, W/4)

Parameters:
    99,060,309 with ResNet-50 (also ``refinenet``, which takes any trunk), 118,052,437 with
    ResNet-101 and 133,696,085 with ResNet-152 at K = 21; 75,552,277 of them are the four blocks
    and the classifier. The paper states none.

Deviations:
    - The released network has four poolings in a chain and three residual units after it in every
      block; the paper's text has two poolings (``pools``), one unit, and two more before the
      classifier. The authors' later models convolve before they pool (``conv_first``).
    - Coarse results are enlarged bilinearly with aligned corners, as in the PyTorch port; the
      authors' code enlarges by cubic interpolation.
    - The trunk halves in its 3x3 convolutions, as torchvision publishes it and the port has it;
      the authors' ResNet halves in the 1x1 before (``encoder="resnet101_caffe"``). It takes
      ImageNet's normalisation, the authors' takes RGB in 0..255 less 128, enlarged by 1.2.
    - The loss is taken at the image's size; the authors reduce the target to stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import gaussian_
from semseg.nn.norm import check_batch_norm

STRIDES = (32, 16, 8, 4)
"""Strides of the trunk's features, in the order they are refined."""

POOL = 5
"""Side of the windows of the chained poolings (section 3.2)."""

UNITS = (2, 3)
"""Residual units of a block: on its input, and on its output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefineNetConfig(ModelConfig):
    """Settings of :class:`RefineNet`."""

    encoder: str = "resnet50.tv_in1k"
    """Trunk with features at strides 4 to 32."""

    width: int = 256
    """Channels of the blocks; the deepest one has twice as many."""

    pools: int = 4
    """Poolings in a chain; the paper's figure has 2."""

    conv_first: bool = False
    """Convolve before each pooling, not after: the authors' improved pooling of 2018."""

    freeze_norm: bool = False
    """Keep the statistics of the trunk's normalisation as loaded, as the paper does, which trains
    on single images; needs pretrained weights."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        for name in ("width", "pools"):
            if getattr(self, name) < 1:
                raise InputError(f"RefineNet needs {name} >= 1, got {getattr(self, name)}")


def linear_conv(cin: int, cout: int, kernel: int) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size."""
    return nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)


class ResidualUnit(nn.Module):
    """RCU: ReLU and 3x3 convolution, twice, and a shortcut around them, without normalisation.

    The shortcut takes the values from before the first ReLU: ``(N, c, h, w) -> (N, c, h, w)``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = linear_conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return input and branch in sum."""
        out: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


class ChainedPooling(nn.Module):
    """CRP: each pooling and convolution takes what the one before gave; all are summed.

    Args:
        width: channels c.
        kernel: side of the convolutions.
        pools: length of the chain.
        conv_first: convolve, then pool.

    ``(N, c, h, w) -> (N, c, h, w)``.
    """

    def __init__(self, width: int, kernel: int, pools: int = 4, conv_first: bool = False) -> None:
        super().__init__()
        self.convs = nn.ModuleList(linear_conv(width, width, kernel) for _ in range(pools))
        self.pool = nn.MaxPool2d(POOL, stride=1, padding=POOL // 2)
        self.conv_first = conv_first

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and every link of the chain in sum."""
        link = total = x
        for conv in self.convs:
            link = self.pool(conv(link)) if self.conv_first else conv(self.pool(link))
            total = total + link
        return total


class RefineBlock(nn.Module):
    """One RefineNet: adapt the trunk's feature, fuse the coarser result, pool, refine.

    Args:
        cin: channels of the trunk's feature.
        below: channels of the coarser result; ``None`` for the deepest block.
        width: channels c of this block.
        pooling: its chained pooling, of c channels.
        kernel: side of the convolutions that change channels.
        units: residual units on the input and on the output.

    ``(N, cin, h, w)`` and ``(N, below, h', w')`` to ``(N, c, h, w)``.
    """

    def __init__(
        self,
        cin: int,
        below: int | None,
        width: int,
        pooling: ChainedPooling,
        kernel: int = 3,
        units: tuple[int, int] = UNITS,
    ) -> None:
        super().__init__()
        first, last = units
        self.reduce = linear_conv(cin, width, kernel)
        self.adapt = nn.Sequential(*(ResidualUnit(width) for _ in range(first)))
        if below is not None:
            self.fuse = linear_conv(width, width, kernel)
            self.fuse_below = linear_conv(below, width, kernel)
        self.pooling = pooling
        self.refine = nn.Sequential(*(ResidualUnit(width) for _ in range(last)))

    def forward(self, x: Tensor, below: Tensor | None = None) -> Tensor:
        """Return the refined feature at the size of ``x``."""
        x = self.adapt(self.reduce(x))
        if below is not None:
            # convolved small, then enlarged: nothing but linear maps on the long way down
            below = self.fuse_below(below)
            below = F.interpolate(below, x.shape[-2:], mode="bilinear", align_corners=True)
            x = self.fuse(x) + below
        out: Tensor = self.refine(self.pooling(F.relu(x)))
        return out


class Cascade(nn.Module):
    """Four blocks from the deepest feature to the finest.

    Args:
        channels: of the trunk's features, deepest first.
        width: channels of the blocks; twice as many in the first.
        kernel: side of the convolutions outside of residual units.
        units: residual units of a block on its input and on its output.
        pools: poolings of each chain.
        conv_first: their order; see :class:`ChainedPooling`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        kernel: int = 3,
        units: tuple[int, int] = UNITS,
        pools: int = 4,
        conv_first: bool = False,
    ) -> None:
        super().__init__()
        blocks, below = [], None
        for i, cin in enumerate(channels):
            cout = width if i else 2 * width
            pooling = ChainedPooling(cout, kernel, pools, conv_first)
            blocks.append(RefineBlock(cin, below, cout, pooling, kernel, units))
            below = cout
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return ``(N, width, H/4, W/4)`` from features deepest first."""
        x: Tensor | None = None
        for block, feature in zip(self.blocks, features, strict=True):
            x = block(feature, x)
        assert x is not None, "there are four features"
        return x


def hold_statistics(trunk: nn.Module) -> None:
    """Let normalisation in ``trunk`` use its running statistics; its gains stay trainable."""
    for norm in trunk.modules():
        if isinstance(norm, _BatchNorm):
            norm.eval()


LISTED = "paper, as paperswithcode.com lists its tables"
FACTS = {
    "paper": "arXiv:1611.06612",
    "year": 2017,
    "idea": "Coarse features are refined step by step by all finer ones, through residual units "
    "and chained pooling whose shortcuts let gradients pass to every level of the trunk.",
    "repository": "https://github.com/guosheng/refinenet",
    "paper_size": (512, 512),
    "verified": "reference output",
    "small": {"encoder": "test_resnet", "width": 16},
}


@register(
    "refinenet",
    RefineNetConfig(),
    title="RefineNet (any trunk)",
    num_params=99_060_309,
    **FACTS,
)
@register(
    "refinenet_resnet50",
    RefineNetConfig(),
    title="RefineNet (ResNet-50)",
    num_params=99_060_309,
    published=(
        Published(
            "PASCAL VOC 2012 val",
            69.1,
            "demo_refinenet_train.m of the authors' code: 1,464 training images, conv_first",
        ),
    ),
    **FACTS,
)
@register(
    "refinenet_resnet101",
    RefineNetConfig(encoder="resnet101.tv_in1k"),
    title="RefineNet (ResNet-101)",
    num_params=118_052_437,
    published=(
        Published(
            "PASCAL VOC 2012 val",
            80.5,
            "README of DrSleep/refinenet-pytorch: weights provided there, one scale",
        ),
        Published("Cityscapes test", 73.6, LISTED),
        Published("ADE20K val", 40.2, LISTED),
    ),
    **FACTS,
)
@register(
    "refinenet_resnet152",
    RefineNetConfig(encoder="resnet152.tv_in1k"),
    title="RefineNet (ResNet-152)",
    num_params=133_696_085,
    published=(
        Published("PASCAL VOC 2012 test", 83.4, "paper, abstract: its best result"),
        Published("ADE20K val", 40.7, LISTED),
    ),
    **FACTS,
)
class RefineNet(SegmentationModel):
    """Multi-path refinement over any trunk; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, config: RefineNetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.freeze_norm = config.freeze_norm
        self.places = [self.encoder.index_of(stride) for stride in STRIDES]
        channels = [self.encoder.channels[i] for i in self.places]
        self.dropout = nn.Dropout(0.5)
        self.cascade = Cascade(
            channels, config.width, pools=config.pools, conv_first=config.conv_first
        )
        self.head = nn.Conv2d(config.width, config.num_classes, 3, padding=1)
        for new in (self.cascade, self.head):
            gaussian_(new, std=0.01)

    def train(self, mode: bool = True) -> RefineNet:
        """Set the mode; frozen normalisation keeps its statistics."""
        super().train(mode)
        if self.freeze_norm:
            hold_statistics(self.encoder)
        return self

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 4.

        Raises:
            InputError: one image of at most 32 pixels a side in training, with free normalisation.
        """
        free = self.training and not self.freeze_norm
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), free)
        features = self.encoder(images)
        deepest, deep, *finer = (features[i] for i in self.places)
        x = self.cascade([self.dropout(deepest), self.dropout(deep), *finer])
        return {"logits": self.head(self.dropout(x))}

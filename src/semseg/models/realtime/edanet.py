r"""EDANet: densely connected modules of asymmetric convolutions, dilated, and no decoder.

Paper:
    Lo, Hang, Chan, Lin. "Efficient Dense Modules of Asymmetric Convolution for Real-Time Semantic
    Segmentation." MMAsia 2019. arXiv:1809.06323. Layers follow the tables and drawings in the
    authors' repository, which holds no code.

Shapes (H, W divisible by 8; C image channels):
    images      (N, C,   H,   W)
    down 1, 2   (N, 15,  H/2, W/2), (N, 60, H/4, W/4)   convolution beside max-pooling
    block 1     (N, 260, H/4, W/4)   5 modules, each adds 40 channels, dilations 1, 1, 1, 2, 2
    down 3      (N, 130, H/8, W/8)   convolution alone, because it narrows
    block 2     (N, 450, H/8, W/8)   8 modules, dilations 2, 2, 4, 4, 8, 8, 16, 16
    logits      (N, K,   H/8, W/8)   1x1

Parameters:
    689,485 at K = 19 and 685,877 at K = 11, as in the port that the authors point to,
    wpf535236337/pytorch_EDANet.

Deviations:
    - What the tables leave open follows that port, which thanks the first author for checking it:
      biases before norms, norms at their defaults, dropout of whole channels at rate 0.02, a
      module's output before its input, enlarging with aligned corners, weights from N(0, 0.02) and
      scales of norms from N(1, 0.02).
    - How images are normalised is open as well: here they are in [0, 1].
    - The second enlarging, by 2, is not part of the network: the authors' labels are of full size,
      their images of half.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semseg.core.preprocess import UNIT
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.realtime.erfnet import Down
from semseg.nn.norm import check_batch_norm

GROWTH = 40
"""Channels that each module adds."""

BLOCKS = ((1, 1, 1, 2, 2), (2, 2, 4, 4, 8, 8, 16, 16))
"""Dilations of the modules at 1/4 and at 1/8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EDANetConfig(ModelConfig):
    """Settings of :class:`EDANet`: those of every network."""


def down(cin: int, cout: int) -> nn.Module:
    """Return a halving block: ``(N, cin, H, W) -> (N, cout, H/2, W/2)``; it pools if it widens."""
    if cin < cout:
        return Down(cin, cout, eps=1e-5)
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, stride=2, padding=1),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


def asymmetric(channels: int, dilation: int = 1) -> list[nn.Module]:
    """Return a 3x1 and a 1x3 convolution with nothing between, a norm and an activation."""
    d = dilation
    return [
        nn.Conv2d(channels, channels, (3, 1), padding=(d, 0), dilation=(d, 1)),
        nn.Conv2d(channels, channels, (1, 3), padding=(0, d), dilation=(1, d)),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]


class EDAModule(nn.Module):
    """Dense module: ``(N, C, H, W) -> (N, C + 40, H, W)``; its second pair is dilated."""

    def __init__(self, cin: int, dilation: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(cin, GROWTH, 1),
            nn.BatchNorm2d(GROWTH),
            nn.ReLU(inplace=True),
            *asymmetric(GROWTH),
            *asymmetric(GROWTH, dilation),
            nn.Dropout2d(0.02),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the new channels, then all earlier ones."""
        return torch.cat([self.branch(x), x], dim=1)


def block(cin: int, dilations: tuple[int, ...]) -> nn.Sequential:
    """Return one module per dilation: ``(N, cin, H, W) -> (N, cin + 40 n, H, W)``."""
    return nn.Sequential(*(EDAModule(cin + GROWTH * i, d) for i, d in enumerate(dilations)))


def init_(model: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and scales of norms from N(1, 0.02), in place."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, mean=1.0, std=0.02)


@register(
    "edanet",
    EDANetConfig(num_classes=19),
    title="EDANet",
    paper="arXiv:1809.06323",
    year=2018,
    idea="Dense connections gather the outputs of narrow, dilated asymmetric convolutions, so that "
    "scores come straight from them.",
    repository="https://github.com/shaoyuanlo/EDANet",
    num_params=689_485,
    paper_size=(512, 1024),
    published=(
        Published("Cityscapes test", 67.32, "authors' README; 512 x 1024 images, enlarged by 2"),
        Published("CamVid test", 66.4, "paper, CamVid table; not checked against its text"),
    ),
    preprocessing=UNIT,
    verified="reference output",
)
class EDANet(SegmentationModel):
    """EDANet as the authors' tables describe it; see the module docstring."""

    multiple_of = 8
    align_corners = True

    def __init__(self, config: EDANetConfig) -> None:
        super().__init__(config)
        self.down1 = down(config.in_channels, 15)
        self.down2 = down(15, 60)
        self.block1 = block(60, BLOCKS[0])
        self.down3 = down(260, 130)
        self.block2 = block(130, BLOCKS[1])
        self.classifier = nn.Conv2d(450, config.num_classes, 1)
        init_(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/8, W/8)``."""
        check_batch_norm(type(self).__name__, images, self.multiple_of, self.training)
        x = self.block1(self.down2(self.down1(images)))
        x = self.block2(self.down3(x))
        return {"logits": self.classifier(x)}

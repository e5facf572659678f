r"""ERFNet: residual blocks of full width whose 3x3 convolutions are columns and rows.

Paper:
    Romera, Alvarez, Bergasa, Arroyo. "ERFNet: Efficient Residual Factorized ConvNet for Real-Time
    Semantic Segmentation." IEEE Transactions on Intelligent Transportation Systems 19(1), 2018.
    DOI 10.1109/TITS.2017.2750080. Layers follow the authors' PyTorch code, ``train/erfnet.py``.

Shapes (H, W divisible by 8; C image channels; w = 13 + C, which is the paper's 16 at C = 3):
    images      (N, C,   H,   W)
    down        (N, w,   H/2, W/2)   3x3 convolution beside a 2x2 max-pooling
    down, 5     (N, 64,  H/4, W/4)   5 blocks
    down, 8     (N, 128, H/8, W/8)   8 blocks, dilations 2, 4, 8, 16 twice
    up, 2       (N, 64,  H/4, W/4)   3x3 transposed convolution, 2 blocks
    up, 2       (N, 16,  H/2, W/2)   the same
    logits      (N, K,   H,   W)     2x2 transposed convolution; (N, K, H/8, W/8) if encoder_only

Parameters:
    2,064,191 at K = 19; 1,876,495 with encoder_only. The authors' PyTorch network has 2,066,642:
    it keeps the first stage's 1x1 classifier, which nothing uses any more.

Deviations:
    - The first block has 13 filters for any C; the authors' formula 16 - C has none left at 16.
    - The authors' earlier Lua code, with which the paper's results were made, has a row before each
      column and drops channels after each halving too, at rates 0, 0.03 and 0.3.
    - The authors' code counts "unlabelled" as a class of weight 0 (K = 20); here it is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import UNIT
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.stages import load_earlier_stage
from semseg.nn.norm import check_batch_norm

FILTERS = 13
"""Of the first convolution; the pooled image stands beside them."""

DILATIONS = (2, 4, 8, 16) * 2
"""Of the blocks at 1/8."""

STRIDE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ERFNetConfig(ModelConfig):
    """Settings of :class:`ERFNet`."""

    encoder_only: bool = False
    """First stage of the paper's training: a 1x1 classifier on the encoder, logits at 1/8."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if FILTERS + self.in_channels >= 64:
            raise InputError(
                f"ERFNet takes at most {63 - FILTERS} channels, got {self.in_channels}; "
                "its second block has 64, the input's among them"
            )


class Down(nn.Module):
    """Halving block: ``(N, cin, H, W) -> (N, cout, H/2, W/2)``, the last cin of them pooled."""

    def __init__(self, cin: int, cout: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout - cin, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(cout, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return filters and maxima, normalised together and activated."""
        x = torch.cat([self.conv(x), F.max_pool2d(x, 2)], dim=1)
        return F.relu(self.norm(x))


def factorised(channels: int, dilation: int = 1) -> list[nn.Module]:
    """Return a 3x1 convolution, an activation, a 1x3 convolution and their one norm."""
    d = dilation
    return [
        nn.Conv2d(channels, channels, (3, 1), padding=(d, 0), dilation=(d, 1)),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, (1, 3), padding=(0, d), dilation=(1, d)),
        nn.BatchNorm2d(channels, eps=1e-3),
    ]


class NonBottleneck1d(nn.Module):
    """Residual block of two factorised convolutions: ``(N, C, H, W) -> (N, C, H, W)``."""

    def __init__(self, channels: int, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        layers = [*factorised(channels), nn.ReLU(inplace=True), *factorised(channels, dilation)]
        if dropout:
            layers.append(nn.Dropout2d(dropout))
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of input and branch."""
        return F.relu(self.branch(x) + x)


def encoder(in_channels: int) -> nn.Sequential:
    """Return the layers from images to ``(N, 128, H/8, W/8)``."""
    width = FILTERS + in_channels
    return nn.Sequential(
        Down(in_channels, width),
        Down(width, 64),
        *(NonBottleneck1d(64, dropout=0.03) for _ in range(5)),
        Down(64, 128),
        *(NonBottleneck1d(128, dilation, dropout=0.3) for dilation in DILATIONS),
    )


def double(cin: int, cout: int) -> nn.Sequential:
    """Return a block that doubles height and width: ``(N, cin, H, W) -> (N, cout, 2H, 2W)``."""
    return nn.Sequential(
        nn.ConvTranspose2d(cin, cout, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(cout, eps=1e-3),
        nn.ReLU(inplace=True),
        NonBottleneck1d(cout),
        NonBottleneck1d(cout),
    )


@register(
    "erfnet",
    ERFNetConfig(num_classes=19),
    title="ERFNet",
    paper="IEEE T-ITS 19(1), 10.1109/TITS.2017.2750080",
    year=2017,
    idea="Residual blocks keep their full width because each 3x3 convolution is a column and a "
    "row, with an activation between.",
    repository="https://github.com/Eromera/erfnet_pytorch",
    num_params=2_064_191,
    paper_size=(512, 1024),
    published=(
        Published("Cityscapes test", 69.8, "authors' README, PyTorch code; 512 x 1024 images"),
        Published("Cityscapes val", 72.1, "authors' README, PyTorch code; 512 x 1024 images"),
    ),
    preprocessing=UNIT,
    verified="reference output",
)
class ERFNet(SegmentationModel):
    """ERFNet as the authors' PyTorch code builds it; see the module docstring.

    The paper trains the encoder first, with a classifier of its own at 1/8, then all of it:
    ``recipes/camvid_erfnet_encoder.yaml`` begins, ``recipes/camvid_erfnet.yaml`` follows.
    """

    multiple_of = STRIDE

    def __init__(self, config: ERFNetConfig) -> None:
        super().__init__(config)
        self.encoder_only = config.encoder_only
        self.encoder = encoder(config.in_channels)
        self.head: nn.Module = (
            nn.Conv2d(128, config.num_classes, 1)
            if self.encoder_only
            else nn.Sequential(
                double(128, 64),
                double(64, 16),
                nn.ConvTranspose2d(16, config.num_classes, 2, stride=2),
            )
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``: ``(N, K, H, W)``, or ``(N, K, H/8, W/8)`` with ``encoder_only``."""
        check_batch_norm(type(self).__name__, images, STRIDE, self.training)
        return {"logits": self.head(self.encoder(images))}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the one term; the first stage compares at 1/8, with the label at each centre."""
        if not self.encoder_only:
            return super().loss(heads, target, criterion)
        sizes = zip(heads["logits"].shape[-2:], target.shape[-2:], strict=True)
        # a centre in the padding takes the image's last row or column
        rows, columns = (
            torch.arange(n, device=target.device).mul(STRIDE).add(STRIDE // 2).clamp(max=end - 1)
            for n, end in sizes
        )
        return {"logits": criterion(heads["logits"], target[:, rows[:, None], columns])}

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load the encoder of a network trained with ``encoder_only``: the paper's second stage.

        Args:
            source: weights file or run folder of that network.

        Raises:
            InputError: ``source`` is neither; the authors' own encoder is not read.
            FileError: it holds another network, or one of other classes or channels.
        """
        first = ERFNet(
            ERFNetConfig(
                num_classes=self.config.num_classes,
                in_channels=self.config.in_channels,
                encoder_only=True,
            )
        )
        first.encoder = self.encoder  # filled in place
        if not load_earlier_stage(first, source, ("erfnet",)):
            raise InputError(
                "ERFNet starts from the file or run of an erfnet trained with encoder_only=True, "
                f"got {source}; recipes/camvid_erfnet_encoder.yaml trains one"
            )

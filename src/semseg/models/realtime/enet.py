r"""ENet: a deep, narrow encoder at an eighth of the resolution and a decoder that only sharpens.

Paper:
    Paszke, Chaurasia, Kim, Culurciello. "ENet: A Deep Neural Network Architecture for Real-Time
    Semantic Segmentation." 2016. arXiv:1606.02147. Layers follow the authors' Lua files
    ``train/models/encoder.lua`` and ``decoder.lua``.

Shapes (H, W divisible by 8; C image channels; w = 13 + C, which is the paper's 16 at C = 3):
    images      (N, C,   H,   W)
    initial     (N, w,   H/2, W/2)   13 filters beside a 2x2 max-pooling of the image
    stage 1     (N, 64,  H/4, W/4)   pooling with switches, 4 bottlenecks
    stage 2, 3  (N, 128, H/8, W/8)   pooling with switches, 8 bottlenecks, 8 more
    stage 4     (N, 64,  H/4, W/4)   unpooling by stage 2's switches, 2 bottlenecks
    stage 5     (N, w,   H/2, W/2)   unpooling by stage 1's switches, 1 bottleneck
    logits      (N, K,   H,   W)     2x2 transposed convolution; (N, K, H/8, W/8) if encoder_only

Parameters:
    364,311 at K = 19; 363,856 at K = 12; 340,607 at K = 19 with encoder_only. Counted from the
    Lua files. The widespread PyTorch port has 351,660: it narrows the resizing bottlenecks to a
    quarter of their input, not of their output, and adds an activation after each expansion.

Deviations:
    - Initialisation is PyTorch's default. Torch7's differs in two places: scales of batch
      normalisation start uniform in [0, 1), not at 1, and transposed convolutions are bounded by
      their input channels, not their output channels.
    - Dropout rescales while training, not at test time; the two differ by a constant factor that
      the normalisation before it absorbs.
    - The authors count "unlabelled" as a class of weight 0 (K = 12 and 20); here it is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checkpoint import load_weights
from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import UNIT
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register

Layer = Callable[[int], nn.Module]
"""Makes a layer that keeps the number of channels it is given."""

norm = partial(nn.BatchNorm2d, eps=1e-3)


@dataclass(frozen=True, kw_only=True, slots=True)
class ENetConfig(ModelConfig):
    """Settings of :class:`ENet`."""

    encoder_only: bool = False
    """First stage of the paper's training: a 1x1 classifier on the encoder, logits at 1/8."""


def conv3x3(channels: int, dilation: int = 1) -> nn.Module:
    """Return the middle of a regular or dilated bottleneck."""
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)


def asymmetric5(channels: int) -> nn.Module:
    """Return a 5x5 convolution as a row, then a column, with nothing between."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, (1, 5), padding=(0, 2), bias=False),
        nn.Conv2d(channels, channels, (5, 1), padding=(2, 0)),
    )


def doubling3x3(channels: int) -> nn.Module:
    """Return a transposed convolution that doubles height and width."""
    return nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1)


def relu(channels: int) -> nn.Module:
    """Return the decoder's activation; the encoder's is ``nn.PReLU``, a slope per channel."""
    return nn.ReLU()


def branch(
    cin: int, cout: int, middle: Layer, activation: Layer, *, stride: int = 1, dropout: float = 0.0
) -> nn.Sequential:
    """Return the convolutional branch of a bottleneck: ``(N, cin, H, W) -> (N, cout, ...)``.

    A quarter of the *output* channels in the middle, no activation after the expansion.
    """
    inner = cout // 4
    layers = [
        nn.Conv2d(cin, inner, stride, stride, bias=False),  # 2x2 where it halves, else 1x1
        norm(inner),
        activation(inner),
        middle(inner),
        norm(inner),
        activation(inner),
        nn.Conv2d(inner, cout, 1, bias=False),
        norm(cout),
    ]
    return nn.Sequential(*layers, nn.Dropout2d(dropout)) if dropout else nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """Residual block: ``(N, C, H, W) -> (N, C, H, W)``."""

    def __init__(
        self, channels: int, middle: Layer, activation: Layer, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.branch = branch(channels, channels, middle, activation, dropout=dropout)
        self.activation = activation(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of input and branch."""
        out: Tensor = self.activation(self.branch(x) + x)
        return out


class Down(nn.Module):
    """Halving block: ``(N, cin, H, W) -> (N, cout, H/2, W/2)`` and the pooling's switches."""

    def __init__(self, cin: int, cout: int, dropout: float) -> None:
        super().__init__()
        self.branch = branch(cin, cout, conv3x3, nn.PReLU, stride=2, dropout=dropout)
        self.activation = nn.PReLU(cout)
        self.missing = cout - cin

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and the positions of the pooled maxima."""
        skip, switches = F.max_pool2d(x, 2, return_indices=True)
        skip = F.pad(skip, (0, 0, 0, 0, 0, self.missing))  # zeros as the new channels
        return self.activation(self.branch(x) + skip), switches


class Up(nn.Module):
    """Doubling block: ``(N, cin, H, W)`` and switches of cout channels to ``(N, cout, 2H, 2W)``."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.branch = branch(cin, cout, doubling3x3, relu)
        self.skip = nn.Sequential(nn.Conv2d(cin, cout, 1, bias=False), norm(cout))

    def forward(self, x: Tensor, switches: Tensor) -> Tensor:
        """Return features whose skip stands where the maxima came from."""
        return F.relu(self.branch(x) + F.max_unpool2d(self.skip(x), switches, (2, 2)))


class Encoder(nn.Module):
    """Images to 128 channels at 1/8, and the switches of the last two poolings."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = (13 + in_channels, 64, 128)
        first, second, third = self.out_channels
        self.initial = nn.Conv2d(in_channels, 13, 3, stride=2, padding=1)
        self.initial_act = nn.Sequential(norm(first), nn.PReLU(first))
        self.down1 = Down(first, second, dropout=0.01)
        self.stage1 = nn.Sequential(
            *(Bottleneck(second, conv3x3, nn.PReLU, 0.01) for _ in range(4))
        )
        self.down2 = Down(second, third, dropout=0.1)
        dilated = [partial(conv3x3, dilation=d) for d in (2, 4, 8, 16)]
        eight: list[Layer] = [conv3x3, dilated[0], asymmetric5, dilated[1]]
        eight += [conv3x3, dilated[2], asymmetric5, dilated[3]]
        self.stage2 = nn.Sequential(*(Bottleneck(third, m, nn.PReLU, 0.1) for m in eight))
        self.stage3 = nn.Sequential(*(Bottleneck(third, m, nn.PReLU, 0.1) for m in eight))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features ``(N, 128, H/8, W/8)`` and the switches at 1/2 and 1/4."""
        x = torch.cat([self.initial(images), F.max_pool2d(images, 2)], dim=1)
        x, switches1 = self.down1(self.initial_act(x))
        x, switches2 = self.down2(self.stage1(x))
        return self.stage3(self.stage2(x)), switches1, switches2


class Decoder(nn.Module):
    """Features at 1/8 and switches to class scores at full size."""

    def __init__(self, channels: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        first, second, third = channels
        self.up4 = Up(third, second)
        self.stage4 = nn.Sequential(*(Bottleneck(second, conv3x3, relu) for _ in range(2)))
        self.up5 = Up(second, first)
        self.stage5 = Bottleneck(first, conv3x3, relu)
        self.classifier = nn.ConvTranspose2d(first, num_classes, 2, stride=2)

    def forward(self, x: Tensor, switches1: Tensor, switches2: Tensor) -> Tensor:
        """Return logits ``(N, K, H, W)``."""
        x = self.stage4(self.up4(x, switches2))
        x = self.stage5(self.up5(x, switches1))
        logits: Tensor = self.classifier(x)
        return logits


@register(
    "enet",
    ENetConfig(num_classes=19),
    title="ENet",
    paper="arXiv:1606.02147",
    year=2016,
    idea="Most layers at an eighth of the resolution, mixing dilated and asymmetric bottlenecks.",
    repository="https://github.com/e-lab/ENet-training",
    num_params=364_311,
    paper_size=(360, 640),
    published=(
        Published("Cityscapes test", 58.3, "paper, Cityscapes table; 512 x 1024 images"),
        Published("CamVid test", 51.3, "paper, CamVid table; 360 x 480 images"),
    ),
    preprocessing=UNIT,
    verified="reference output",
)
class ENet(SegmentationModel):
    """ENet as the authors' Lua code builds it; see the module docstring."""

    multiple_of = 8

    def __init__(self, config: ENetConfig) -> None:
        super().__init__(config)
        self.encoder_only = config.encoder_only
        self.encoder = Encoder(config.in_channels)
        widths = self.encoder.out_channels
        self.head: nn.Module = (
            nn.Conv2d(widths[-1], config.num_classes, 1)
            if self.encoder_only
            else Decoder(widths, config.num_classes)
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``: ``(N, K, H, W)``, or ``(N, K, H/8, W/8)`` with ``encoder_only``."""
        x, switches1, switches2 = self.encoder(images)
        return {"logits": self.head(x) if self.encoder_only else self.head(x, switches1, switches2)}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the one term; the first stage compares at 1/8 with every eighth label."""
        if not self.encoder_only:
            return super().loss(heads, target, criterion)
        return {"logits": criterion(heads["logits"], target[..., ::8, ::8])}

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load the encoder of a network trained with ``encoder_only``: the paper's second stage.

        Raises:
            InputError: no file was given; the authors publish none that can be read safely.
            FileError: the file holds another network, or one for another number of channels.
        """
        if isinstance(source, bool):
            raise InputError(
                "enet has no published encoder weights; train enet with encoder_only=True and "
                "give the file of that run"
            )
        tensors, info = load_weights(Path(source))
        channels = info.settings.get("in_channels")
        if info.model != "enet" or channels != self.config.in_channels:
            raise FileError(
                f"{source} holds {info.model} for {channels} channels; this is enet for "
                f"{self.config.in_channels}; give a file of the same network"
            )
        prefix = "encoder."
        self.encoder.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )

r"""FC-DenseNet (the hundred layers tiramisu): dense blocks down, and only what is new goes up.

Paper:
    Jégou, Drozdzal, Vazquez, Romero, Bengio. "The One Hundred Layers Tiramisu: Fully
    Convolutional DenseNets for Semantic Segmentation." CVPRW 2017. arXiv:1611.09326. Layers
    follow the authors' ``FC-DenseNet.py`` and ``layers.py``.

Shapes (any H, W of 32 or more; g = growth_rate, l = layers of a block, c = channels so far):
    images          (N, C, H, W)
    first           (N, 48, H, W)             3x3, neither normalised nor activated
    dense block     (N, c + g l, h, w)        each layer sees all before it and adds g channels
    down            (N, c, h/2, w/2)          1x1, then a pool that drops an odd last row
    bottleneck      (N, g l, H/32, W/32)      its new channels only
    up              (N, g l, 2h + 1, 2w + 1)  transposed 3x3, cut to the skip's size
    logits          (N, K, H, W)              1x1 on everything the last block sees

Parameters:
    1,376,795 (56), 3,463,243 (67) and 9,322,091 (103) at K = 11. The paper's 9.4 M for 103 counts
    the running averages too; its 1.5 M for 56 does not follow from its own layer list.

Deviations:
    - Running statistics are means and variances; Lasagne averages inverse standard deviations.
    - The paper's table 2 counts 16 channels too few from the bottleneck on, as the authors' README
      says; the layers are those of the code.
    - The ports' name FC-DenseNet57 is the paper's 56.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import UNIT
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.norm import check_batch_norm

POOLS = 5
"""Halvings; there is a dense block before each, one at the bottom and one after each doubling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FCDenseNetConfig(ModelConfig):
    """Settings of :class:`FCDenseNet`."""

    growth_rate: int = 16
    """Channels that each layer adds."""

    layers: tuple[int, ...] = (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4)
    """Layers of each of the eleven dense blocks, from the image down and up again."""

    width: int = 48
    """Channels of the first convolution."""

    dropout: float = 0.2
    """Share of values zeroed after each convolution of the blocks and transitions down."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if len(self.layers) != 2 * POOLS + 1 or min(self.layers) < 1:
            raise InputError(
                f"FCDenseNet takes {2 * POOLS + 1} blocks of at least one layer, "
                f"got layers={self.layers}"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"FCDenseNet takes dropout in [0, 1), got {self.dropout}")


def bn_relu_conv(cin: int, cout: int, kernel: int, dropout: float) -> nn.Sequential:
    """Return normalisation, ReLU, convolution with bias and dropout, in this order."""
    return nn.Sequential(
        nn.BatchNorm2d(cin, eps=1e-4),
        nn.ReLU(),
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2),
        nn.Dropout(dropout),
    )


class DenseBlock(nn.Module):
    """``layers`` layers, each on the input and all layers before it: the new channels only."""

    def __init__(self, cin: int, growth_rate: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            bn_relu_conv(cin + i * growth_rate, growth_rate, 3, dropout) for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, growth_rate * layers, H, W)`` of ``(N, cin, H, W)``."""
        seen = [x]
        for layer in self.layers:
            seen.append(layer(torch.cat(seen, 1)))
        return torch.cat(seen[1:], 1)


FACTS = {
    "paper": "arXiv:1611.09326",
    "year": 2016,
    "idea": "Dense blocks in both paths of a U-Net, of which the way up carries only the new "
    "features.",
    "repository": "https://github.com/SimJeg/FC-DenseNet",
    "paper_size": (360, 480),
    "preprocessing": UNIT,
    "verified": "reference output",
    "small": {"growth_rate": 3, "width": 6, "layers": (1, 2, 1, 1, 1, 2, 1, 1, 1, 2, 1)},
}
SOURCE = "paper, CamVid table"


@register(
    "fc_densenet56",
    FCDenseNetConfig(num_classes=11, growth_rate=12, layers=(4,) * 11),
    title="FC-DenseNet56",
    num_params=1_376_795,
    published=(Published("CamVid test", 58.9, SOURCE),),
    **FACTS,
)
@register(
    "fc_densenet67",
    FCDenseNetConfig(num_classes=11, layers=(5,) * 11),
    title="FC-DenseNet67",
    num_params=3_463_243,
    published=(Published("CamVid test", 65.8, SOURCE),),
    **FACTS,
)
@register(
    "fc_densenet103",
    FCDenseNetConfig(num_classes=11),
    title="FC-DenseNet103",
    num_params=9_322_091,
    published=(Published("CamVid test", 66.9, SOURCE),),
    **FACTS,
)
class FCDenseNet(SegmentationModel):
    """FC-DenseNet as the authors' Lasagne code builds it; see the module docstring."""

    min_size = 2**POOLS

    def __init__(self, config: FCDenseNetConfig) -> None:
        super().__init__(config)
        growth, dropout = config.growth_rate, config.dropout
        before, bottom, after = config.layers[:POOLS], config.layers[POOLS], config.layers[-POOLS:]
        self.first = nn.Conv2d(config.in_channels, config.width, 3, padding=1)
        self.down_blocks, self.downs = nn.ModuleList(), nn.ModuleList()
        channels, skips = config.width, []
        for layers in before:
            self.down_blocks.append(DenseBlock(channels, growth, layers, dropout))
            channels += growth * layers
            skips.append(channels)
            self.downs.append(bn_relu_conv(channels, channels, 1, dropout))
        self.bottom = DenseBlock(channels, growth, bottom, dropout)
        self.ups, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        new = growth * bottom
        for layers, skip in zip(after, reversed(skips), strict=True):
            self.ups.append(nn.ConvTranspose2d(new, new, 3, stride=2))
            channels = new + skip
            self.up_blocks.append(DenseBlock(channels, growth, layers, dropout))
            new = growth * layers
        self.classifier = nn.Conv2d(channels + new, config.num_classes, 1)
        self._initialise()

    def _initialise(self) -> None:
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``."""
        x, skips = self.first(images), []
        for block, down in zip(self.down_blocks, self.downs, strict=True):
            x = torch.cat([x, block(x)], 1)
            skips.append(x)
            x = F.max_pool2d(down(x), 2)
        check_batch_norm(type(self).__name__, x, 1, self.training)
        new = self.bottom(x)
        for up, block, skip in zip(self.ups, self.up_blocks, reversed(skips), strict=True):
            height, width = skip.shape[-2:]
            x = torch.cat([up(new)[..., :height, :width], skip], 1)
            new = block(x)
        return {"logits": self.classifier(torch.cat([x, new], 1))}

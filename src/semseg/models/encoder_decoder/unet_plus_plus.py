r"""UNet++: between encoder and decoder, every scale is filled with nodes that see each other.

Paper:
    Zhou, Siddiquee, Tajbakhsh, Liang. "UNet++: A Nested U-Net Architecture for Medical Image
    Segmentation." DLMIA 2018. arXiv:1807.10165, figure 1 and equation 1. Over a trunk it follows
    ``UnetPlusPlus`` of segmentation_models_pytorch, whose outputs it reproduces.

Shapes (H, W divisible by the trunk's largest stride; c_s = channels of the trunk at stride s):
    images       (N, C,    H,    W)
    row 16       (N, 256,  H/16, W/16)   from c_32, beside c_16
    row 8        (N, 128,  H/8,  W/8)    from row 16; node of c_8 channels from c_16
    row 4        (N, 64,   H/4,  W/4)    from row 8; two nodes of c_4 channels
    row 2        (N, 32,   H/2,  W/2)    from row 4; three nodes of c_2 channels
    row 1        (N, 16,   H,    W)      from row 2
    logits       (N, K,    H,    W)

Each node enlarges the coarser node before it and receives all earlier nodes of its own row, the
trunk's feature the last of them.

Parameters:
    26,078,609 over resnet34 at K = 1, as in segmentation_models_pytorch.

Deviations:
    - The paper's contracting path is a plain one of 32 to 512 channels, and every node has the
      width of its scale; here any trunk, the decoder's own nodes as wide as the community's U-Net
      (256 to 16), the others as wide as the trunk's feature.
    - The authors' code enlarges by 2x2 transposed convolutions; here by nearest neighbour.
    - The grid reaches one scale further than the paper's, because trunks begin at stride 2: the
      last node, at stride 1, has nothing beside it.
    - Deep supervision (a 1x1 head on each node of the finest row, averaged or pruned) is left out,
      as it is in the library.
    - New layers start as the library's do: He-uniform, the classifier Xavier-uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.models.base import ModelConfig, SegmentationModel, register
from semseg.models.encoder_decoder.unet import DECODER
from semseg.nn.conv import conv_bn_relu
from semseg.nn.init import toolbox_init_
from semseg.nn.norm import check_batch_norm


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetPlusPlusConfig(ModelConfig):
    """Settings of :class:`UNetPlusPlus`."""

    encoder: str = "resnet34.tv_in1k"
    """Trunk with features at strides 4 to 32, and 2 where it has one."""


@register(
    "unet_plus_plus",
    UNetPlusPlusConfig(num_classes=1),
    title="UNet++",
    paper="arXiv:1807.10165",
    year=2018,
    idea="Nested and dense copies between encoder and decoder bring what they join closer in "
    "meaning.",
    repository="https://github.com/MrGiovanni/UNetPlusPlus",
    num_params=26_078_609,
    paper_size=(96, 96),
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class UNetPlusPlus(SegmentationModel):
    """UNet++ over any trunk; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, config: UNetPlusPlusConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.multiple_of = max(self.encoder.strides)
        self.decoder = Grid(self.encoder)
        self.head = nn.Conv2d(DECODER[1], config.num_classes, 3, padding=1)
        toolbox_init_(self.decoder, self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``: the output stride is 1."""
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), self.training)
        return {"logits": self.head(self.decoder(self.encoder(images)))}


class Grid(nn.Module):
    """Rows of nodes at strides 16 to 1: an encoder's features to ``(N, 16, H, W)``.

    A row without a feature of the trunk (stride 1, and 2 of trunks that begin at 4) has the
    decoder's own node alone.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        strides = [s for s in DECODER if s >= 4 or (s == 2 and s in encoder.strides)]
        self.places = [encoder.index_of(stride) for stride in (32, *strides)]
        widths = [encoder.channels[place] for place in self.places]
        self.rows = nn.ModuleList()
        own = widths[0]  # channels of the decoder's own node in the row before
        for i, cout in enumerate(DECODER.values()):
            last = i >= len(strides)
            self.rows.append(
                Row([own], 0, cout) if last else Row([own, *[widths[i]] * i], widths[i + 1], cout)
            )
            own = cout

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the decoder's own node of the last row."""
        deepest, *copies = (features[place] for place in self.places)
        above = [deepest]
        for i, row in enumerate(self.rows):
            above = row(above, copies[i] if i < len(copies) else None)
        return above[0]


class Row(nn.Module):
    """Nodes of one stride: the decoder's own, then those from finer and finer features.

    Args:
        cins: channels of what each node enlarges.
        copied: channels of the trunk's feature at this stride, and of every node but the first.
        cout: channels of the first node.
    """

    def __init__(self, cins: list[int], copied: int, cout: int) -> None:
        super().__init__()
        count = len(cins)
        self.nodes = nn.ModuleList(
            node(cin + (count - i) * copied, copied if i else cout) for i, cin in enumerate(cins)
        )

    def forward(self, above: list[Tensor], copy: Tensor | None) -> list[Tensor]:
        """Return the nodes, then ``copy``: what the next row enlarges.

        Args:
            above: what this function returned for the row before.
            copy: the trunk's feature at this stride.
        """
        if copy is None:
            x = F.interpolate(above[0], scale_factor=2.0, mode="nearest")
            return [self.nodes[0](x)]
        done = [copy]  # the node nearest to the trunk comes first, the others see it
        for i in reversed(range(len(self.nodes))):
            x = F.interpolate(above[i], copy.shape[-2:], mode="nearest")
            done.insert(0, self.nodes[i](torch.cat([x, *done], dim=1)))
        return done


def node(cin: int, cout: int) -> nn.Sequential:
    """Two 3x3 convolutions with BatchNorm and ReLU: ``(N, cin, H, W) -> (N, cout, H, W)``."""
    return nn.Sequential(conv_bn_relu(cin, cout, 3), conv_bn_relu(cout, cout, 3))

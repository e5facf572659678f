r"""DeepLab v3 in cascade: the last block of a ResNet again and again, each time more dilated.

Paper:
    Chen, Papandreou, Schroff, Adam. "Rethinking Atrous Convolution for Semantic Image
    Segmentation." 2017. arXiv:1706.05587, section 3.2, figure 3 (b) and Tables 1 to 4.

Shapes (any H, W; s = output_stride; dilations at s = 16, twice that at s = 8):
    images       (N, C,    H,   W)
    block4       (N, 2048, H/s, W/s)   2 times the unit rates 1, 2, 1
    block5       (N, 2048, H/s, W/s)   4 times
    block6       (N, 2048, H/s, W/s)   8 times
    block7       (N, 2048, H/s, W/s)   16 times
    logits       (N, K,    H/s, W/s)

Parameters:
    82,706,517 over ResNet-101 at K = 21: 42,500,160 of the trunk, 13,387,776 of each block and
    43,029 of the classifier. Over ResNet-50 63,714,389. The paper states no count.

Deviations:
    - The authors published no code of this network; their ResNet's block is taken as it is, so a
      copy, which changes no number of channels, has identity shortcuts in all its units.
    - The added blocks start from He's initialisation; the paper does not say how they start.
    - The trunk is timm's ResNet, BatchNorm has PyTorch's momentum: see ``deeplab_v3``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice

from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.dilation import dilate_whole_stages
from semseg.encoders.resnet_caffe import Bottleneck
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.dilated.deeplab_v3 import check_dilation, start_as_slim
from semseg.nn.init import he_normal_
from semseg.nn.norm import check_batch_norm

UNITS = 3
"""Residual units of a block, each with one 3x3 convolution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepLabV3CascadeConfig(ModelConfig):
    """Settings of :class:`DeepLabV3Cascade`."""

    encoder: str = "resnet101.tv_in1k"
    """Trunk whose strides can be dilated; a ResNet, unless ``multi_grid`` is ``None``."""

    output_stride: int = 16
    """Stride of the scores: 16 as the paper trains, or 8 as it evaluates."""

    multi_grid: tuple[int, ...] | None = (1, 2, 1)
    """Unit rates of block4 and all added blocks; ``None`` is 1 in these, and timm's own dilation
    of the trunk."""

    blocks: int = 3
    """Blocks added to the trunk's four: 3 ends in the paper's block7."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        check_dilation("DeepLabV3Cascade", self.output_stride, self.multi_grid)
        if self.blocks < 0:
            raise InputError(f"DeepLabV3Cascade needs blocks >= 0, got {self.blocks}")


@register(
    "deeplab_v3_cascade_resnet101",
    DeepLabV3CascadeConfig(),
    title="DeepLab v3 (cascade, ResNet-101)",
    paper="arXiv:1706.05587",
    year=2017,
    idea="More residual blocks with growing dilation see far without losing resolution.",
    repository="https://github.com/tensorflow/models/tree/master/research/deeplab",
    num_params=82_706_517,
    paper_size=(513, 513),
    published=(
        Published("PASCAL VOC 2012 val", 76.66, "paper, Table 3: output stride 16"),
        Published("PASCAL VOC 2012 val", 79.35, "paper, Table 4: stride 8, six scales, flipped"),
    ),
    verified="arithmetic",
    small={"encoder": "test_resnet"},
)
class DeepLabV3Cascade(SegmentationModel):
    """DeepLab v3's cascade; see the module docstring.

    Raises:
        InputError: the trunk cannot have this output stride, or no unit rates.
    """

    align_corners = True  # of every resize in the authors' code

    def __init__(self, config: DeepLabV3CascadeConfig) -> None:
        super().__init__(config)
        stride = config.output_stride
        self.encoder = build_encoder(config.encoder, config.in_channels, stride)
        if config.multi_grid is not None:
            dilate_whole_stages(self.encoder, stride, config.multi_grid)
        self.output_stride = stride
        self.deep = self.encoder.index_of(stride)
        channels = self.encoder.channels[self.deep]
        # without dilation each block would halve the resolution once more
        rates = [32 // stride * 2 ** (i + 1) for i in range(config.blocks)]
        self.cascade = nn.Sequential(
            *(block(channels, rate, config.multi_grid or (1,)) for rate in rates)
        )
        self.head = nn.Conv2d(channels, config.num_classes, 1)
        he_normal_(self.cascade)
        start_as_slim(self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at the output stride."""
        check_batch_norm(type(self).__name__, images, self.output_stride, self.training)
        return {"logits": self.head(self.cascade(self.encoder(images)[self.deep]))}


def block(channels: int, rate: int, multi_grid: tuple[int, ...]) -> nn.Sequential:
    """Return a copy of block4's layers: ``(N, channels, h, w) -> (N, channels, h, w)``."""
    units = islice(cycle(multi_grid), UNITS)
    return nn.Sequential(
        *(Bottleneck(channels, channels // 4, dilation=rate * unit) for unit in units)
    )

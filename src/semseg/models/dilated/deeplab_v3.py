r"""DeepLab v3: dilated pyramid pooling with the whole image as one of its scales.

Paper:
    Chen, Papandreou, Schroff, Adam. "Rethinking Atrous Convolution for Semantic Image
    Segmentation." 2017. arXiv:1706.05587, sections 3.1 and 3.3. Details that the text leaves open
    follow the authors' TensorFlow code. Section 3.2 is ``deeplab_v3_cascade``.

Shapes (any H, W; s = output_stride; channels of a ResNet-50 or deeper):
    images       (N, C,    H,   W)
    block3       (N, 1024, H/s, W/s)   dilation 1 at s = 16, 2 at s = 8
    block4       (N, 2048, H/s, W/s)   dilations 32/s times the unit rates 1, 2, 4
    aspp         (N, 256,  H/s, W/s)   1x1; 3x3 at 6, 12, 18 (twice that at s = 8); image; joined
    logits       (N, K,    H/s, W/s)
    torchvision's form: s = 8, no unit rates, one more 3x3 to 256 before the classifier, and
    aux          (N, K,    H/8, W/8)   3x3 to 256, norm, ReLU, dropout 0.1, 1x1 on block3

Parameters:
    39,048,533 over ResNet-50 and 58,040,661 over ResNet-101 at K = 21. torchvision's form has
    42,004,074 and 60,996,202: 590,336 of its 3x3 and 2,365,205 of the auxiliary head more.

Deviations:
    - The trunk is timm's ResNet, which halves in the first unit of a block; the authors' halves
      in the last unit of the block before and has three 3x3 convolutions as stem
      (``encoder="resnet101s.gluon_in1k"`` has that stem).
    - Image pooling averages the whole image at any size; the TensorFlow code averages windows of
      the training crop's size, which is the same for one crop.
    - BatchNorm keeps PyTorch's momentum of 0.1; the paper's decay of 0.9997 is one of 0.0003.
    - The networks named ``…_torchvision`` are what that library publishes under the paper's name:
      besides the above, dropout 0.5 instead of 0.1, scores enlarged between pixel centres, and
      new layers that start as PyTorch's do. Their auxiliary head is always there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.dilation import dilate_whole_stages
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Dilations of the pyramid by output stride (section 3.3)."""

DEPTH = 256
"""Channels of the pyramid."""

MULTI_GRID = (1, 2, 4)
"""Unit rates of the last block's three units (section 4.3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepLabV3Config(ModelConfig):
    """Settings of :class:`DeepLabV3`."""

    encoder: str = "resnet101.tv_in1k"
    """Trunk whose strides can be dilated; a ResNet, unless ``multi_grid`` is ``None``."""

    output_stride: int = 16
    """Stride of the scores: 16 as the paper trains, or 8 as it evaluates."""

    multi_grid: tuple[int, ...] | None = MULTI_GRID
    """Unit rates of the last block's units; ``None`` dilates as timm and torchvision do."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        check_dilation("DeepLabV3", self.output_stride, self.multi_grid)


def check_dilation(owner: str, output_stride: int, multi_grid: tuple[int, ...] | None) -> None:
    """Refuse output strides and unit rates that no DeepLab has.

    Raises:
        InputError: an output stride besides 16 and 8, or no or non-positive unit rates.
    """
    if output_stride not in RATES:
        raise InputError(f"{owner} has output_stride 16 or 8, got {output_stride}")
    if multi_grid is not None and (not multi_grid or min(multi_grid) < 1):
        raise InputError(
            f"multi_grid is unit rates of at least 1, e.g. (1, 2, 4), or None; got {multi_grid}"
        )


# ---- the pyramid -------------------------------------------------------------------------------


def dilated_conv(cin: int, cout: int, dilation: int = 1) -> nn.Module:
    """3x3 convolution, BatchNorm, ReLU: ``(N, cin, h, w) -> (N, cout, h, w)``."""
    return conv_bn_relu(cin, cout, 3, dilation)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, image pooling; joined by 1x1.

    Args:
        cin: channels of the deep feature.
        rates: dilations of the 3x3 convolutions.
        conv3x3: makes one of them from ``(cin, cout, dilation)``, norm and ReLU included.
        width: channels of each branch and of the output.
        dropout: rate at the end.

    ``(N, cin, h, w) -> (N, width, h, w)``. Training mode needs at least two images per step:
    image pooling leaves one value per channel and image, which BatchNorm cannot normalise alone.
    """

    def __init__(
        self,
        cin: int,
        rates: tuple[int, ...],
        conv3x3: Callable[[int, int, int], nn.Module] = dilated_conv,
        width: int = DEPTH,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [conv_bn_relu(cin, width, 1), *(conv3x3(cin, width, rate) for rate in rates)]
        )
        self.image = conv_bn_relu(cin, width, 1)
        self.join = conv_bn_relu(width * (len(rates) + 2), width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined branches.

        Raises:
            InputError: one image while the norm of image pooling is in training mode.
        """
        norm = self.image[1]
        # a synchronised norm, another class, sees the images of all devices
        if isinstance(norm, nn.BatchNorm2d) and norm.training and len(x) < 2:
            raise InputError(
                "DeepLab needs at least 2 images per step in training mode: its image-pooling "
                "norm has one value per channel and image; use a batch size of 2 or more and drop "
                "an incomplete last batch"
            )
        image = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        branches = [branch(x) for branch in self.branches]
        joined: Tensor = self.dropout(self.join(torch.cat([*branches, image], dim=1)))
        return joined


def start_as_slim(*parts: nn.Module) -> None:
    """Draw initial weights as the authors' code does: Xavier's, for convolutions without bias.

    Separated convolutions start from truncated normals, classifiers from a narrow one.
    """
    for part in parts:
        for conv in part.modules():
            if not isinstance(conv, nn.Conv2d):
                continue
            if conv.bias is None:
                nn.init.xavier_uniform_(conv.weight)
            else:
                truncated_normal_(conv, 0.01)
                nn.init.zeros_(conv.bias)


def truncated_normal_(conv: nn.Conv2d, std: float) -> None:
    """Draw a kernel from a normal that is cut at two deviations, as TensorFlow cuts it."""
    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)


# ---- the networks ------------------------------------------------------------------------------

PAPER = {
    "paper": "arXiv:1706.05587",
    "year": 2017,
    "idea": "Dilated convolutions of several rates beside the pooled image see all scales at once, "
    "with batch normalisation and full-size labels in training.",
    "verified": "reference output",
    "small": {"encoder": "test_resnet"},
}
AUTHORS = {
    "repository": "https://github.com/tensorflow/models/tree/master/research/deeplab",
    "paper_size": (513, 513),
}


@register(
    "deeplab_v3_resnet50",
    DeepLabV3Config(encoder="resnet50.tv_in1k"),
    title="DeepLab v3 (ResNet-50)",
    num_params=39_048_533,
    **PAPER,
    **AUTHORS,
)
@register(
    "deeplab_v3_resnet101",
    DeepLabV3Config(),
    title="DeepLab v3 (ResNet-101)",
    num_params=58_040_661,
    published=(
        Published("PASCAL VOC 2012 val", 77.21, "paper, Table 5: output stride 16"),
        Published("PASCAL VOC 2012 val", 79.77, "paper, Table 6: stride 8, six scales, flipped"),
        Published("PASCAL VOC 2012 test", 85.7, "paper, Table 7: COCO in training"),
    ),
    **PAPER,
    **AUTHORS,
)
class DeepLabV3(SegmentationModel):
    """DeepLab v3 as the paper has it; see the module docstring.

    Raises:
        InputError: the trunk cannot have this output stride, or no unit rates.
    """

    align_corners = True  # of every resize in the authors' code

    def __init__(self, config: DeepLabV3Config) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, config.output_stride)
        if config.multi_grid is not None:
            dilate_whole_stages(self.encoder, config.output_stride, config.multi_grid)
        self.deep = self.encoder.index_of(config.output_stride)
        self.aspp = ASPP(self.encoder.channels[self.deep], RATES[config.output_stride])
        self.head = nn.Conv2d(DEPTH, config.num_classes, 1)
        start_as_slim(self.aspp, self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at the output stride.

        Raises:
            InputError: one image in training mode.
        """
        return {"logits": self.head(self.aspp(self.encoder(images)[self.deep]))}


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchvisionDeepLabV3Config(ModelConfig):
    """Settings of :class:`TorchvisionDeepLabV3`."""

    encoder: str = "resnet101.tv_in1k"
    """Trunk that can be dilated to output stride 8."""


TORCHVISION = {"repository": "https://github.com/pytorch/vision", "paper_size": (520, 520)}
SOURCE = "torchvision's weights COCO_WITH_VOC_LABELS_V1"
DATASET = "COCO val2017, classes of PASCAL VOC"


@register(
    "deeplab_v3_resnet50_torchvision",
    TorchvisionDeepLabV3Config(encoder="resnet50.tv_in1k"),
    title="DeepLab v3 of torchvision (ResNet-50)",
    num_params=42_004_074,
    published=(Published(DATASET, 66.4, SOURCE),),
    **PAPER,
    **TORCHVISION,
)
@register(
    "deeplab_v3_resnet101_torchvision",
    TorchvisionDeepLabV3Config(),
    title="DeepLab v3 of torchvision (ResNet-101)",
    num_params=60_996_202,
    published=(Published(DATASET, 67.4, SOURCE),),
    **PAPER,
    **TORCHVISION,
)
class TorchvisionDeepLabV3(SegmentationModel):
    """DeepLab v3 as torchvision publishes it; see the module docstring."""

    aux_weights = {"aux": 0.5}  # noqa: RUF012

    def __init__(self, config: TorchvisionDeepLabV3Config) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        *_, third, fourth = self.encoder.channels
        self.head = nn.Sequential(
            ASPP(fourth, RATES[8], dropout=0.5),
            dilated_conv(DEPTH, DEPTH),
            nn.Conv2d(DEPTH, config.num_classes, 1),
        )
        self.aux = nn.Sequential(
            dilated_conv(third, third // 4),
            nn.Dropout(0.1),
            nn.Conv2d(third // 4, config.num_classes, 1),
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, H/8, W/8)``.

        Raises:
            InputError: one image in training mode.
        """
        *_, third, fourth = self.encoder(images)
        heads = {"logits": self.head(fourth)}
        if not self.logits_only:
            heads["aux"] = self.aux(third)
        return heads

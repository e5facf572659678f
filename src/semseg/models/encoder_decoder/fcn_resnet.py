r"""FCN on a dilated ResNet: the reading of "FCN" that most later papers compare with.

Paper:
    None of its own. Long, Shelhamer, Darrell's fully convolutional network (arXiv:1411.4038) on a
    ResNet (arXiv:1512.03385) whose last two stages are dilated instead of strided
    (arXiv:1706.05587), as torchvision publishes it: ``torchvision/models/segmentation/fcn.py``.

Shapes (any H, W; sides are rounded up at each halving; channels of a bottleneck ResNet):
    images       (N, C, H, W)
    layer3       (N, 1024, H/8, W/8)   dilation 2
    layer4       (N, 2048, H/8, W/8)   dilation 4
    aux          (N, K, H/8, W/8)      3x3 to 256, norm, ReLU, dropout 0.1, 1x1 on layer3
    logits       (N, K, H/8, W/8)      3x3 to 512, the same, on layer4

Parameters:
    35,322,218 (ResNet-50) and 54,314,346 (ResNet-101) at K = 21, as torchvision states them with
    its weights: 32,957,013 and 51,949,141 and 2,365,205 of the auxiliary head.

Deviations:
    - The auxiliary head is always there; torchvision leaves it out unless asked.
    - New layers start as torchvision's do: PyTorch's default.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu
from semseg.nn.norm import check_batch_norm


@dataclass(frozen=True, kw_only=True, slots=True)
class FCNResNetConfig(ModelConfig):
    """Settings of :class:`FCNResNet`."""

    encoder: str = "resnet50.tv_in1k"
    """Trunk that can be dilated to output stride 8."""


def fcn_head(channels: int, num_classes: int) -> nn.Sequential:
    """Return torchvision's head: ``(N, channels, h, w) -> (N, K, h, w)``, a quarter in between."""
    return nn.Sequential(
        conv_bn_relu(channels, channels // 4, 3),
        nn.Dropout(0.1),
        nn.Conv2d(channels // 4, num_classes, 1),
    )


FACTS = {
    "paper": "arXiv:1411.4038",
    "year": 2017,
    "idea": "A dilated ResNet with a plain convolutional head, the baseline of pyramid and "
    "attention modules.",
    "repository": "https://github.com/pytorch/vision",
    "paper_size": (520, 520),
    "verified": "reference output",
    "small": {"encoder": "test_resnet"},
}
SOURCE = "torchvision's weights COCO_WITH_VOC_LABELS_V1"
DATASET = "COCO val2017, classes of PASCAL VOC"


@register(
    "fcn",
    FCNResNetConfig(),
    title="FCN (any dilated trunk)",
    num_params=35_322_218,
    **FACTS,
)
@register(
    "fcn_resnet50",
    FCNResNetConfig(),
    title="FCN (dilated ResNet-50)",
    num_params=35_322_218,
    published=(Published(DATASET, 60.5, SOURCE),),
    **FACTS,
)
@register(
    "fcn_resnet101",
    FCNResNetConfig(encoder="resnet101.tv_in1k"),
    title="FCN (dilated ResNet-101)",
    num_params=54_314_346,
    published=(Published(DATASET, 63.7, SOURCE),),
    **FACTS,
)
class FCNResNet(SegmentationModel):
    """torchvision's FCN; see the module docstring."""

    aux_weights = {"aux": 0.5}  # noqa: RUF012

    def __init__(self, config: FCNResNetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        *_, third, fourth = self.encoder.channels
        self.head = fcn_head(fourth, config.num_classes)
        self.aux = fcn_head(third, config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, H/8, W/8)``."""
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), self.training)
        *_, third, fourth = self.encoder(images)
        heads = {"logits": self.head(fourth)}
        if not self.logits_only:
            heads["aux"] = self.aux(third)
        return heads

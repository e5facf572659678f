r"""OCRNet: a pixel asks the regions of all classes, and each region is the mean of its pixels.

Paper:
    Yuan, Chen, Wang. "Object-Contextual Representations for Semantic Segmentation." ECCV 2020.
    arXiv:1909.11065, section 3. What the text leaves open follows the authors' code: over HRNet
    ``lib/models/seg_hrnet_ocr.py`` of HRNet-Semantic-Segmentation (branch HRNet-OCR), over ResNet
    ``lib/models/nets/ocrnet.py`` of openseg.pytorch.

Shapes (s = 4 over HRNet-W48; s = 8 over ResNet-101, which has h + 1 pixels for h = H/8):
    images       (N, C, H, W)
    aux          (N, K, H/s, W/s)   soft regions: 1x1 to 720, 1x1 on HRNet's joined features; 3x3
                                    to 512, 1x1 on layer3 of ResNet
    pixels       (N, 512, H/s, W/s)   3x3 on the joined features or on layer4
    regions      (N, 512, K)   means of pixels, weighted with softmax of aux over the image
    context      (N, 512, H/s, W/s)   attention of pixels to regions with keys of 256 channels
    logits       (N, K, H/s, W/s)   1x1 on 1x1 of context beside pixels

Parameters:
    70,372,678 over HRNet-W48 and 57,988,838 over ResNet-101 at K = 19, as the authors' code has
    them.

Deviations:
    - Over ResNet, norms are BatchNorm with ReLU as the paper says and the authors' later branch
      has; the code of the first results has in-place norms with leaky ReLU in the heads.
    - The auxiliary head is always computed, since it makes the regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.context.hrnet import HRNetConfig, join, trunk_of
from semseg.nn.norm import check_batch_norm

HIDDEN, KEYS = 512, 256
"""Channels of pixels and regions, and of what they are compared by."""

DROPOUT = 0.05
"""Rate of dropped channels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OCRNetConfig(ModelConfig):
    """Settings of :class:`OCRNet`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    encoder: str = "resnet101s.gluon_in1k"
    """Trunk that can be dilated to output stride 8; the paper's has three 3x3 as stem."""


def unit(cin: int, cout: int, kernel: int = 1, bias: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU: ``(N, cin, h, w) -> (N, cout, h, w)``."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


class ObjectContext(nn.Module):
    """Pixels with the context of the regions they resemble.

    Args:
        width: channels of pixels, in and out.
        keys: channels in which pixels and regions are compared.
        bias: whether convolutions before norms have one; they have in openseg.pytorch.

    Shapes:
        - x: ``(N, width, h, w)`` pixels.
        - scores: ``(N, K, h, w)``, of the regions.
        - output: ``(N, width, h, w)``.

    The attention is of h * w pixels to K regions, so memory grows with the image only linearly.
    """

    def __init__(self, width: int, keys: int, bias: bool) -> None:
        super().__init__()
        self.pixel = nn.Sequential(unit(width, keys, bias=bias), unit(keys, keys, bias=bias))
        self.region = nn.Sequential(unit(width, keys, bias=bias), unit(keys, keys, bias=bias))
        self.down = unit(width, keys, bias=bias)
        self.up = unit(keys, width, bias=bias)
        self.join = nn.Sequential(unit(2 * width, width, bias=bias), nn.Dropout2d(DROPOUT))

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return pixels and their context, joined.

        Raises:
            InputError: one region of one image while the norms are in training mode.
        """
        norm = self.down[1]
        # a synchronised norm, another class, sees the images of all devices
        if isinstance(norm, nn.BatchNorm2d) and norm.training and len(x) * scores.shape[1] < 2:
            raise InputError(
                "OCR cannot train on one image with one class: its norms have one region to look "
                "at, and turn that into zeros; take two images per step or more"
            )
        regions = _tokens(x).transpose(1, 2) @ scores.flatten(2).softmax(-1).transpose(1, 2)
        regions = regions[..., None]  # (N, width, K, 1): a convolution's 1x1 works on each
        query, key, value = self.pixel(x), self.region(regions), self.down(regions)
        # one head, in a dimension of its own: ONNX knows no attention without
        q, k, v = (_tokens(part)[:, None] for part in (query, key, value))
        context = F.scaled_dot_product_attention(q, k, v)[:, 0]
        context = context.transpose(1, 2).reshape(len(x), -1, *x.shape[-2:])
        out: Tensor = self.join(torch.cat([self.up(context), x], dim=1))
        return out


def _tokens(x: Tensor) -> Tensor:
    """Return ``(N, C, h, w)`` as ``(N, h * w, C)``."""
    return x.flatten(2).transpose(1, 2)


class OCRHead(nn.Module):
    """Regions, pixels, their context and both classifiers, as over HRNet.

    ``(N, cin, h, w)`` to ``logits`` and ``aux`` ``(N, K, h, w)`` and the ``(N, 512, h, w)`` that
    ``logits`` come from.
    """

    def __init__(self, cin: int, num_classes: int) -> None:
        super().__init__()
        self.pixels = unit(cin, HIDDEN, 3)
        self.context = ObjectContext(HIDDEN, KEYS, bias=False)
        self.classify = nn.Conv2d(HIDDEN, num_classes, 1)
        self.aux = nn.Sequential(unit(cin, cin), nn.Conv2d(cin, num_classes, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, auxiliary logits and what the former come from."""
        aux = self.aux(x)
        features = self.context(self.pixels(x), aux)
        return self.classify(features), aux, features


FACTS = {
    "paper": "arXiv:1909.11065",
    "year": 2020,
    "idea": "The context of a pixel is the object it belongs to: soft regions of all classes are "
    "summed up, and every pixel attends to these few sums.",
    "paper_size": (512, 1024),
    "verified": "reference output",
}
README = "README of HRNet-Semantic-Segmentation, branch HRNet-OCR"


@register(
    "ocrnet_hrnet_w48",
    HRNetConfig(),
    title="OCRNet (HRNet-W48)",
    num_params=70_372_678,
    repository="https://github.com/HRNet/HRNet-Semantic-Segmentation/tree/HRNet-OCR",
    small={"width": 4, "modules": (1, 1, 1), "blocks": 1},
    published=(
        Published("Cityscapes val", 81.6, f"{README}: one scale"),
        Published("Cityscapes test", 82.3, f"{README}: trained on val too, 6 scales, flip"),
        Published("PASCAL-Context val, 59 classes", 56.2, f"{README}: 7 scales, flip"),
        Published("ADE20K val", 44.5, f"{README}: OHEM, one scale"),
    ),
    **FACTS,
)
class OCRNetHRNet(SegmentationModel):
    """OCR over HRNetV2; see the module docstring."""

    align_corners = True
    aux_weights = {"aux": 0.4}  # noqa: RUF012

    def __init__(self, config: HRNetConfig) -> None:
        super().__init__(config)
        self.encoder = trunk_of(config, self.align_corners)
        self.ocr = OCRHead(sum(self.encoder.channels), config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, H/4, W/4)``.

        Raises:
            InputError: one image in training mode that is too small or of one class.
        """
        check_batch_norm(type(self).__name__, images, self.encoder.strides[-1], self.training)
        logits, aux, _ = self.ocr(join(self.encoder(images), self.align_corners))
        return {"logits": logits} if self.logits_only else {"logits": logits, "aux": aux}


@register(
    "ocrnet_resnet101",
    OCRNetConfig(),
    title="OCRNet (ResNet-101)",
    num_params=57_988_838,
    repository="https://github.com/openseg-group/openseg.pytorch",
    small={"encoder": "test_resnet"},
    published=(
        Published("Cityscapes val", 79.63, "MODEL_ZOO of openseg.pytorch: one scale"),
        Published("Cityscapes val", 80.68, "MODEL_ZOO of openseg.pytorch: borders by SegFix"),
    ),
    **FACTS,
)
class OCRNet(SegmentationModel):
    """OCR over a dilated trunk; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated to output stride 8.
    """

    align_corners = True
    aux_weights = {"aux": 0.4}  # noqa: RUF012

    def __init__(self, config: OCRNetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        pool_over_the_border(self.encoder)
        *_, third, fourth = self.encoder.channels
        self.pixels = unit(fourth, HIDDEN, 3)
        self.context = ObjectContext(HIDDEN, KEYS, bias=True)
        self.head = nn.Conv2d(HIDDEN, config.num_classes, 1)
        self.aux = nn.Sequential(
            unit(third, HIDDEN, 3), nn.Dropout2d(DROPOUT), nn.Conv2d(HIDDEN, config.num_classes, 1)
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, h, w)`` at stride 8.

        Raises:
            InputError: one image in training mode that is too small or of one class.
        """
        check_batch_norm(type(self).__name__, images, self.encoder.strides[-1], self.training)
        *_, third, fourth = self.encoder(images)
        aux = self.aux(third)
        logits = self.head(self.context(self.pixels(fourth), aux))
        return {"logits": logits} if self.logits_only else {"logits": logits, "aux": aux}


def pool_over_the_border(trunk: nn.Module) -> None:
    """Let the trunk's max pooling take windows that begin on the last row or column, in place.

    Of an even number of rows it then leaves one more than half, as in the authors' code, so that
    features stand on pixels 8i from the first to one beyond the last.
    """
    for module in trunk.modules():
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = True

r"""FCN: a classifier turned into convolutions, its scores enlarged and fused with finer ones.

Paper:
    Long, Shelhamer, Darrell. "Fully Convolutional Networks for Semantic Segmentation." CVPR 2015,
    arXiv:1411.4038; Shelhamer, Long, Darrell, PAMI 2017, arXiv:1605.06211. Layers follow the
    nets that the authors released (``voc-fcn32s``, ``voc-fcn16s``, ``voc-fcn8s``,
    ``voc-fcn8s-atonce``).

Shapes (any H, W; conv1_1 pads 100 pixels; sizes at H = W = 500, K = 21):
    images       (N, 3,    500, 500)
    pool3        (N, 256,  88,  88)
    pool4        (N, 512,  44,  44)
    pool5        (N, 512,  22,  22)
    fc6, fc7     (N, 4096, 16,  16)
    logits       (N, K,    16,  16) for 32s, (N, K, 34, 34) for 16s, (N, K, 70, 70) for 8s
    full size    (N, K,    500, 500)

Parameters:
    134,346,581 (32s), 134,357,354 (16s) and 134,362,751 (8s, staged or at once) at 21 classes.
    The released nets freeze every deconvolution (``lr_mult: 0``), so none is counted.

Deviations:
    - The CVPR paper's text learns the deconvolutions; the authors' code fixes them and reports
      no difference. Here they are fixed.
    - Published VGG16 weights of torchvision take RGB with ImageNet's mean and deviation; the
      authors' Caffe weights take BGR in 0..255 without the mean.
    - The loss is the recipe's; the paper sums over pixels (with learning rates of 1e-10 and less).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.vgg import VGG16, read_vgg16_weights
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.stages import load_earlier_stage
from semseg.nn.init import he_normal_
from semseg.nn.upsample import BilinearDeconv

CROPS = {32: (19,), 16: (5, 27), 8: (5, 9, 31)}
"""Pixels cut off above and left at each fusion and at the end, by stride of the last scores.

They follow from conv1_1's padding of 100 and the deconvolutions' margins; Caffe's ``crop`` layer
computes them from the layers' coordinate maps.
"""

EARLIER = {16: "fcn_32s_vgg16", 8: "fcn_16s_vgg16"}
"""The stage before, by stride of the last scores."""

AT_ONCE = (0.01, 0.0001)
"""Fixed factors of pool4 and pool3 in the net that is trained at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FCNConfig(ModelConfig):
    """Settings of :class:`FCN`."""

    stride: int = 8
    """Pixels between the finest scores: 32, 16 or 8."""

    width: int = 64
    """Channels of VGG16's first stage; all others are multiples of it."""

    at_once: bool = False
    """Train all streams of FCN-8s from VGG16 in one go: pool4 and pool3 are made small before they
    are scored, so that the coarse stream learns first."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.stride not in CROPS:
            raise InputError(f"FCN has stride 32, 16 or 8, got {self.stride}")
        if self.at_once and self.stride != 8:
            raise InputError(f"only FCN-8s is trained at once, this one has stride {self.stride}")


PAPER = {
    "paper": "arXiv:1411.4038",
    "year": 2015,
    "idea": "A classification network made fully convolutional predicts every pixel, and coarse "
    "scores are fused with those of finer layers.",
    "repository": "https://github.com/shelhamer/fcn.berkeleyvision.org",
    "paper_size": (500, 500),
    "verified": "reference output",
    "small": {"width": 4},
}
SOURCE = "README of the authors' code"


@register(
    "fcn_32s_vgg16",
    FCNConfig(stride=32),
    title="FCN-32s (VGG16)",
    num_params=134_346_581,
    published=(Published("PASCAL VOC 2011 seg11valid", 63.6, SOURCE),),
    **PAPER,
)
@register(
    "fcn_16s_vgg16",
    FCNConfig(stride=16),
    title="FCN-16s (VGG16)",
    num_params=134_357_354,
    published=(Published("PASCAL VOC 2011 seg11valid", 65.0, SOURCE),),
    **PAPER,
)
@register(
    "fcn_8s_vgg16",
    FCNConfig(stride=8),
    title="FCN-8s (VGG16)",
    num_params=134_362_751,
    published=(
        Published("PASCAL VOC 2011 seg11valid", 65.5, SOURCE),
        Published("PASCAL VOC 2012 test", 67.2, SOURCE),
    ),
    **PAPER,
)
@register(
    "fcn_8s_vgg16_at_once",
    FCNConfig(stride=8, at_once=True),
    title="FCN-8s at once (VGG16)",
    num_params=134_362_751,
    published=(Published("PASCAL VOC 2011 seg11valid", 65.4, SOURCE),),
    **PAPER,
)
class FCN(SegmentationModel):
    """FCN-32s, -16s or -8s over VGG16; see the module docstring.

    The paper trains in stages, each from the one before, which :meth:`load_pretrained` takes:
    what a finer net adds starts at zero, so that both give the same scores at first, up to the way
    they are enlarged. ``recipes/folder_fcn_32s_vgg16.yaml`` begins.
    """

    def __init__(self, config: FCNConfig) -> None:
        super().__init__(config)
        w, classes = config.width, config.num_classes
        self.stride = config.stride
        self.crops = CROPS[config.stride]
        self.earlier = None if config.at_once else EARLIER.get(config.stride)
        self.factors = AT_ONCE if config.at_once else (1.0, 1.0)
        self.encoder = VGG16(config.in_channels, w, first_padding=100)
        self.fc6 = nn.Conv2d(8 * w, 64 * w, 7)
        self.fc7 = nn.Conv2d(64 * w, 64 * w, 1)
        self.dropout = nn.Dropout(0.5)
        he_normal_(self.fc6)
        he_normal_(self.fc7)
        # Caffe's default filler is the constant 0, and the released nets name none here
        self.score_fr = _zero_conv(64 * w, classes)
        if config.stride <= 16:
            self.score_pool4 = _zero_conv(8 * w, classes)
        if config.stride == 8:
            self.score_pool3 = _zero_conv(4 * w, classes)
        self.upscore2 = BilinearDeconv(2)
        self.upscore = BilinearDeconv(config.stride)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` before the last deconvolution: they cover the padded image."""
        *_, conv3, conv4, _, pool5 = self.encoder(images)
        x = self.dropout(F.relu(self.fc6(pool5)))  # (N, 64w, h - 6, w - 6)
        x = self.dropout(F.relu(self.fc7(x)))
        scores: Tensor = self.score_fr(x)
        # the encoder gives stages before their pools; pooling two of them again is cheap
        if self.stride <= 16:
            pool4 = self.score_pool4(self.factors[0] * self.encoder.pool(conv4))
            scores = _fuse(self.upscore2(scores), pool4, self.crops[0])
        if self.stride == 8:
            pool3 = self.score_pool3(self.factors[1] * self.encoder.pool(conv3))
            scores = _fuse(self.upscore2(scores), pool3, self.crops[1])
        return {"logits": scores}

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits at ``size`` by the last deconvolution, the margin cut off."""
        start = self.crops[-1]
        height, width = size
        scores: Tensor = self.upscore(logits)
        return scores[..., start : start + height, start : start + width]

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load VGG16 with its two hidden layers, which become fc6 and fc7; or an earlier stage.

        Args:
            source: see :func:`semseg.encoders.vgg.read_vgg16_weights`; or a weights file or run of
                ``fcn_32s_vgg16`` for FCN-16s, of ``fcn_16s_vgg16`` for FCN-8s.

        Raises:
            FileError: the weights cannot be had or do not fit.
            InputError: this network does not have the paper's width.
        """
        if self.earlier and load_earlier_stage(self, source, (self.earlier,)):
            return
        weights = read_vgg16_weights(source)
        self.encoder.copy_weights(weights)
        for name, layer in (("fc6", self.fc6), ("fc7", self.fc7)):
            layer.load_state_dict({k: weights[f"{name}.{k}"] for k in ("weight", "bias")})

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return VGG16 with fc6 and fc7 as ``"encoder"``, the score layers as ``"head"``."""
        head = [p for name, p in self.named_parameters() if name.startswith("score_")]
        inside = {id(p) for p in head}
        return {"encoder": [p for p in self.parameters() if id(p) not in inside], "head": head}


def _zero_conv(cin: int, cout: int) -> nn.Conv2d:
    conv = nn.Conv2d(cin, cout, 1)
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _fuse(coarse: Tensor, fine: Tensor, start: int) -> Tensor:
    """Add the part of ``fine`` that ``coarse`` covers."""
    height, width = coarse.shape[-2:]
    return coarse + fine[..., start : start + height, start : start + width]

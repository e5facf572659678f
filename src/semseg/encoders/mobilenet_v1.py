"""MobileNet v1 as RTSeg has it: with TensorFlow's padding and constants, every layer a feature.

Paper:
    Howard et al. "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications." 2017. arXiv:1704.04861, Table 1. Layers follow ``models/encoders/mobilenet.py``
    of https://github.com/MSiam/TFSegmentation.

timm's ``mobilenetv1_100`` pads on both sides where it halves, has other constants and no biases
before its norms, and gives the last layer of each stride, where SkipNet takes the first.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import Preprocessing
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.shufflenet_v1 import norm, xavier_
from semseg.encoders.timm import TimmEncoder

WIDTH = 32
"""Channels of the paper's first convolution."""

LAYERS = (
    (2, 1),
    (4, 2),
    (4, 1),
    (8, 2),
    (8, 1),
    (16, 2),
    *[(16, 1)] * 5,
    (32, 2),
    (32, 1),
)
"""Channels of each separable convolution as a multiple of the first's, and its stride."""

PUBLISHED = "mobilenetv1_100.ra4_e3600_r224_in1k"
"""Name at timm of the weights that :meth:`MobileNetV1.load_pretrained` fetches."""


def convolution(cin: int, cout: int, stride: int, groups: int = 1) -> list[nn.Module]:
    """3x3 with bias and norm; where it halves, zeros stand below and right only."""
    if stride == 1:
        return [nn.Conv2d(cin, cout, 3, padding=1, groups=groups), norm(cout)]
    return [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(cin, cout, 3, 2, groups=groups), norm(cout)]


def separable(
    cin: int, cout: int, stride: int = 1, activation: type[nn.Module] = nn.ReLU6
) -> nn.Sequential:
    """3x3 per channel and 1x1 across them, each normalised and activated."""
    return nn.Sequential(
        *convolution(cin, cin, stride, groups=cin),
        activation(),
        nn.Conv2d(cin, cout, 1),
        norm(cout),
        activation(),
    )


class MobileNetV1(Encoder):
    """Images to the outputs of the first ``depth`` layers.

    Args:
        in_channels: channels of the images.
        width: w, channels of the first convolution; the paper's is 32.
        depth: layers that are built, at most 14.

    Shapes (H, W divisible by the deepest stride):
        - features: ``(N, w, H/2, W/2)``, ``(N, 2w, H/2, W/2)``, two of ``(N, 4w, H/4, W/4)``, two
          of ``(N, 8w, H/8, W/8)``, six of ``(N, 16w, H/16, W/16)``, two of
          ``(N, 32w, H/32, W/32)``.
    """

    preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def __init__(self, in_channels: int = 3, width: int = WIDTH, depth: int = 14) -> None:
        super().__init__()
        self.in_channels = in_channels
        first = nn.Sequential(*convolution(in_channels, width, stride=2), nn.ReLU6())
        layers, channels, strides = [first], [width], [2]
        for factor, stride in LAYERS[: depth - 1]:
            layers.append(separable(channels[-1], factor * width, stride))
            channels.append(factor * width)
            strides.append(strides[-1] * stride)
        self.layers = nn.ModuleList(layers)
        self.channels, self.strides = tuple(channels), tuple(strides)
        xavier_(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the output of every layer."""
        x, features = images, []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features

    @torch.no_grad()
    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load timm's MobileNet v1; in eval mode each layer then is timm's, but for its padding.

        Biases become zero, and scales make up for the norms' larger constant.

        Args:
            source: see :meth:`semseg.encoders.timm.TimmEncoder.load_pretrained`.

        Raises:
            InputError: this trunk does not have the paper's width.
            FileError: the weights cannot be had or do not fit.
        """
        donor = TimmEncoder(PUBLISHED, self.in_channels)
        donor.load_pretrained(source)
        if self.channels[0] != WIDTH:
            raise InputError(
                f"published MobileNet v1 weights have width {WIDTH}, this trunk has "
                f"{self.channels[0]}; create it with the paper's width or without pretrained"
            )
        kinds = (nn.Conv2d, nn.BatchNorm2d)
        theirs = (m for m in donor.modules() if isinstance(m, kinds))
        for own in self.modules():
            if not isinstance(own, kinds):
                continue
            other = next(theirs)
            for name, tensor in other.state_dict().items():
                own.state_dict()[name].copy_(tensor)
            if isinstance(own, nn.BatchNorm2d):
                assert isinstance(other, nn.BatchNorm2d)
                assert own.running_var is not None
                variance = own.running_var
                own.weight.mul_(((variance + own.eps) / (variance + other.eps)).sqrt())
            elif own.bias is not None:
                nn.init.zeros_(own.bias)


def _build(in_channels: int, output_stride: int) -> MobileNetV1:
    if output_stride != 32:
        raise InputError(
            f"encoder 'mobilenet_v1' cannot have output_stride {output_stride}; use 32, or a trunk "
            "whose strides can be dilated, e.g. 'resnet18'"
        )
    return MobileNetV1(in_channels)


ENCODERS.add("mobilenet_v1", _build)

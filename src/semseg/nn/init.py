"""Initial values that more than one network states."""

from __future__ import annotations

import math

import torch
from torch import nn


def he_normal_(module: nn.Module) -> None:
    """Draw every convolution in ``module`` from N(0, sqrt(2 / n)) and zero its bias, in place.

    n is the number of incoming nodes of one output pixel (He et al., arXiv:1502.01852, equation
    10): channels times kernel area, and for a transposed convolution that area over the stride's
    square, because each output pixel meets only so many of the kernel's taps.
    """
    for conv in module.modules():
        if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            continue
        incoming = conv.in_channels / conv.groups * math.prod(conv.kernel_size)
        if isinstance(conv, nn.ConvTranspose2d):
            incoming /= math.prod(conv.stride)
        nn.init.normal_(conv.weight, std=math.sqrt(2 / incoming))
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)


def gaussian_(module: nn.Module, std: float) -> None:
    """Draw every convolution in ``module`` from N(0, std) and zero its bias, in place.

    Caffe's ``gaussian`` filler: networks finetuned from a trunk start their new layers so, mostly
    with 0.01.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(conv.weight, std=std)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def toolbox_init_(decoder: nn.Module, head: nn.Conv2d) -> None:
    """Draw initial weights as segmentation_models_pytorch does over a trunk, in place.

    Convolutions of the decoder He-uniformly, the classifier Xavier-uniformly, biases zero;
    transposed convolutions keep PyTorch's default.
    """
    for conv in decoder.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
    nn.init.xavier_uniform_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def bilinear_(deconv: nn.ConvTranspose2d) -> None:
    """Let a transposed convolution start as bilinear enlarging of each channel by itself, in place.

    Caffe's ``bilinear`` filler, for kernels of twice the stride. The border fades, because beyond
    it are zeros.
    """
    side = deconv.kernel_size[0]
    factor = (side + 1) // 2
    center = (2 * factor - 1 - factor % 2) / (2 * factor)
    tent = 1 - (torch.arange(side) / factor - center).abs()
    nn.init.zeros_(deconv.weight)
    with torch.no_grad():
        for channel in range(min(deconv.in_channels, deconv.out_channels)):
            deconv.weight[channel, channel] = tent[:, None] * tent[None, :]
    if deconv.bias is not None:
        nn.init.zeros_(deconv.bias)

"""Convolutions with their norm and activation, as most networks since 2015 stack them."""

from __future__ import annotations

from torch import nn


def conv_bn_relu(cin: int, cout: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias, BatchNorm, ReLU: ``(N, cin, H, W) -> (N, cout, H, W)``."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


def separable_conv_bn_relu(cin: int, cout: int, dilation: int = 1) -> nn.Sequential:
    """3x3 per channel, then 1x1 across channels, BatchNorm and ReLU after **both**.

    That is how DeepLab's ASPP and decoder separate a convolution; Xception and MobileNet differ
    in the activation between the two. ``(N, cin, H, W) -> (N, cout, H, W)``.
    """
    return nn.Sequential(
        nn.Conv2d(cin, cin, 3, padding=dilation, dilation=dilation, groups=cin, bias=False),
        nn.BatchNorm2d(cin),
        nn.ReLU(inplace=True),
        nn.Conv2d(cin, cout, 1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )

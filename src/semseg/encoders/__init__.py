"""Trunks: one contract, timm behind it, and the paper-faithful ones timm lacks."""

from __future__ import annotations

from pathlib import Path

from semseg.core.checks import InputError
from semseg.encoders.base import ENCODERS, OUTPUT_STRIDES, Encoder

__all__ = ["Encoder", "build_encoder"]


def build_encoder(
    name: str,
    in_channels: int = 3,
    output_stride: int = 32,
    pretrained: bool | str | Path = False,
) -> Encoder:
    """Build a trunk.

    Args:
        name: one of this package's (``"vgg16"``), or any timm name that gives features,
            with or without a tag (``"resnet34"``, ``"convnext_tiny.fb_in22k"``).
        in_channels: channels of the images; published weights are adapted to it.
        output_stride: stride of the deepest feature: 8, 16 or 32. The smaller ones replace
            strides by dilation, which not every trunk can.
        pretrained: ``True`` loads published weights, a path loads them from that file.

    Raises:
        UnknownNameError: no trunk of that name; the nearest are shown.
        InputError: the trunk cannot have this ``output_stride``, or has no features.
        FileError: weights that cannot be read or do not fit.

    Example:
        >>> encoder = build_encoder("resnet18", in_channels=1)
        >>> encoder.channels, encoder.strides
        ((64, 64, 128, 256, 512), (2, 4, 8, 16, 32))
    """
    from semseg.encoders.timm import TimmEncoder

    if output_stride not in OUTPUT_STRIDES:
        raise InputError(f"output_stride must be 8, 16 or 32, got {output_stride}")
    if in_channels < 1:
        raise InputError(f"in_channels must be at least 1, got {in_channels}")
    encoder: Encoder
    if name in ENCODERS:
        encoder = ENCODERS[name](in_channels, output_stride)
    else:
        encoder = TimmEncoder(name, in_channels, output_stride)
    if pretrained:
        encoder.load_pretrained(pretrained)
    return encoder

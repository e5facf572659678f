"""Dilation of a ResNet's stages, unit by unit, where ``output_stride`` does not say enough.

A stage that is dilated instead of strided can keep its first convolution as it was (timm,
torchvision) or dilate it too (DeepLab, segmentation_models_pytorch). The weights are the same, the
outputs are not: a network that takes over trained weights has to take over the rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

from torch import nn

from semseg.core.checks import InputError
from semseg.encoders.base import Encoder
from semseg.encoders.resnet_caffe import CaffeResNet
from semseg.encoders.timm import TimmEncoder


def resnet_stages(encoder: Encoder) -> tuple[nn.Module, nn.Module] | None:
    """Return the last two stages of a ResNet of timm or Caffe, ``None`` of any other trunk."""
    trunk = encoder.trunk if isinstance(encoder, TimmEncoder) else encoder
    if not isinstance(encoder, TimmEncoder | CaffeResNet) or hasattr(trunk, "layer5"):
        return None  # others, such as a DRN, have dilations of their own
    third, fourth = getattr(trunk, "layer3", None), getattr(trunk, "layer4", None)
    if isinstance(third, nn.Module) and isinstance(fourth, nn.Module):
        return third, fourth
    return None


def set_rates(stage: nn.Module, rates: Iterable[int]) -> None:
    """Dilate a stage in place, one rate for each of its units; they repeat in longer stages."""
    for unit, rate in zip(stage.children(), cycle(rates), strict=False):
        for conv in unit.modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1):
                conv.dilation = (rate, rate)
                conv.padding = tuple(rate * (side // 2) for side in conv.kernel_size)


def dilate_whole_stages(
    encoder: Encoder, output_stride: int, multi_grid: Iterable[int] = (1,)
) -> None:
    """Dilate every unit of a ResNet's dilated stages in place, the first one as well.

    timm and torchvision leave a stage's first 3x3 at the rate of the stage before, because there
    the stride was. The authors' stride is one unit earlier, so all of the stage has the new rate.

    Args:
        encoder: a ResNet built with this output stride.
        output_stride: 16 dilates the last stage by 2; 8 the last two, by 2 and 4.
        multi_grid: factors of the last stage's rate, by unit.

    Raises:
        InputError: the trunk is no ResNet.
    """
    stages = resnet_stages(encoder)
    if stages is None:
        name = getattr(encoder, "name", type(encoder).__name__)
        raise InputError(
            f"multi_grid sets the dilation of a ResNet's last units, and {name!r} is none; "
            "choose a ResNet, or multi_grid=None"
        )
    third, fourth = stages
    set_rates(fourth, [32 // output_stride * unit for unit in multi_grid])
    if output_stride == 8:
        set_rates(third, (2,))

"""Where the dilation of a ResNet's stage begins: in its second block or in its first.

A stage that is dilated instead of strided can keep its first convolution as it was (timm,
torchvision, most papers) or dilate it too (segmentation_models_pytorch). The weights are the same,
the outputs are not: a network that takes over trained weights has to take over the rule.
"""

from __future__ import annotations

from torch import nn

from semseg.encoders.base import Encoder

STAGES = {16: "layer3", 32: "layer4"}
"""Stages that a smaller output stride dilates, by their own stride without it."""


def dilate_first_blocks(encoder: Encoder, output_stride: int) -> bool:
    """Dilate the first block of each dilated stage like the blocks after it, in place.

    Every convolution larger than 1x1 of a stage whose own stride is s then has the dilation
    ``s / output_stride``, and a padding that keeps the size.

    Args:
        encoder: a trunk built for ``output_stride``.
        output_stride: stride of its deepest feature: 8, 16 or 32.

    Returns:
        Whether the trunk is a ResNet of timm (ResNeXt, Res2Net, ... included). Trunks of other
        kinds are left as they are.

    Example:
        >>> from semseg.encoders import build_encoder
        >>> encoder = build_encoder("resnet18", output_stride=16)
        >>> encoder.trunk.layer4[0].conv1.dilation
        (1, 1)
        >>> dilate_first_blocks(encoder, 16), encoder.trunk.layer4[0].conv1.dilation
        (True, (2, 2))
    """
    trunk = getattr(encoder, "trunk", None)
    if not all(isinstance(getattr(trunk, name, None), nn.Sequential) for name in STAGES.values()):
        return False
    for stride, name in STAGES.items():
        rate = stride // output_stride
        stage = getattr(trunk, name)
        for conv in stage.modules() if rate > 1 else ():
            if isinstance(conv, nn.Conv2d) and max(conv.kernel_size) > 1:
                conv.dilation = (rate, rate)
                conv.padding = tuple(rate * (side // 2) for side in conv.kernel_size)
    return True

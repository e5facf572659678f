"""Which units of a ResNet's stages are dilated."""

from __future__ import annotations

import pytest
from torch import nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.dilation import dilate_whole_stages, resnet_stages
from tests.models import support


def dilations(stage: nn.Module) -> list[int]:
    return [
        c.dilation[0] for c in stage.modules() if isinstance(c, nn.Conv2d) if c.kernel_size[0] > 1
    ]


@pytest.mark.parametrize(
    ("stride", "before", "after"),
    [
        (32, ([1, 1, 1, 1], [1, 1, 1, 1]), ([1, 1, 1, 1], [1, 1, 1, 1])),
        (16, ([1, 1, 1, 1], [1, 2, 2, 2]), ([1, 1, 1, 1], [2, 2, 2, 2])),
        (8, ([1, 2, 2, 2], [2, 4, 4, 4]), ([2, 2, 2, 2], [4, 4, 4, 4])),
    ],
)
def test_whole_stages_are_dilated(stride: int, before: tuple, after: tuple) -> None:
    encoder = build_encoder("resnet18", output_stride=stride)
    stages = encoder.trunk.layer3, encoder.trunk.layer4
    assert tuple(dilations(stage) for stage in stages) == before
    sizes = [f.shape for f in encoder(support.image(1, 3, 65, 97))]
    dilate_whole_stages(encoder, stride)
    assert tuple(dilations(stage) for stage in stages) == after
    assert [f.shape for f in encoder(support.image(1, 3, 65, 97))] == sizes


@pytest.mark.parametrize("trunk", ["mobilenetv3_small_100", "test_convnext"])
def test_other_trunks_are_left_as_they_are(trunk: str) -> None:
    encoder = build_encoder(trunk, output_stride=16)
    kept = [(m.dilation, m.padding) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert resnet_stages(encoder) is None
    with pytest.raises(InputError, match=f"and {trunk!r} is none; choose a ResNet"):
        dilate_whole_stages(encoder, 16)
    assert kept == [(m.dilation, m.padding) for m in encoder.modules() if isinstance(m, nn.Conv2d)]

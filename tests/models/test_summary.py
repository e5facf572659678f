"""What a network costs, against counts made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semseg.core.checks import SettingError
from semseg.models import create_model
from semseg.models.summary import summarize


def convolution_flops(model: nn.Module, images: Tensor) -> int:
    """Count two per multiplication in every convolution of a real forward pass."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        # each weight meets every position: of the output, or of the input of a transposed one
        places = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        total += 2 * layer.weight.numel() * places.shape[-2] * places.shape[-1]

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        model.eval()(images)
    return total


@pytest.mark.parametrize("name", ["unet", "enet", "segnet_basic"])
def test_flops_are_those_of_the_convolutions(name: str) -> None:
    settings = {"num_classes": 5, "in_channels": 3}
    summary = summarize(name, size=(64, 96), **settings)
    model = create_model(name, **settings)
    assert summary.flops == convolution_flops(model, torch.rand(1, 3, 64, 96))
    assert summary.parameters == sum(p.numel() for p in model.parameters())


def test_heads_and_stride() -> None:
    summary = summarize("fcn_resnet50", size=(64, 96), num_classes=5)
    assert summary.heads == {"logits": (5, 8, 12), "aux": (5, 8, 12)}
    assert summary.output_stride == 8


def test_size_is_padded() -> None:
    assert summarize("unet", size=(50, 70), width=4).heads["logits"][1:] == (64, 80)


def test_unknown_setting() -> None:
    with pytest.raises(SettingError, match="unet has no setting 'widht'"):
        summarize("unet", widht=3)

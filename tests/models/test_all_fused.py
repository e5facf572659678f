"""Every registered network in its form for prediction."""

from __future__ import annotations

import torch
from torch import nn

from semseg.models.base import SegmentationModel
from tests.models.conftest import Build
from tests.models.support import images_for


def norms(model: SegmentationModel) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def test_the_fused_network_is_equal(build: Build) -> None:
    model = build().double()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    fused = model.fuse()
    images = images_for(model, height=63).double()
    with torch.no_grad():
        wanted, got = model(images), fused(images)
        heads = fused.forward_heads(fused.pad(images))
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert heads.keys() == {"logits"}
    assert not fused.training
    # the network itself stays as it was
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert norms(fused) <= norms(model)

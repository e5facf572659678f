"""GCN: large separable kernels, residual refinement, learned enlarging."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.encoder_decoder.gcn import BoundaryRefinement, GlobalConv, enlarging
from tests.models import support


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("gcn_resnet152")
    parts = {
        "trunk": model.encoder,
        "global": model.global_convs,
        "refine": nn.ModuleList([model.refine, model.refine_enlarged]),
        "enlarge": model.enlargements,
    }
    got = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    k, classes = 15, 21
    first = k * (2048 + 1024 + 512 + 256) * classes + 4 * classes
    second = 4 * (k * classes * classes + classes)
    assert got == {
        "trunk": 60_192_808 - (2048 * 1000 + 1000),  # torchvision's, less its classifier
        "global": 2 * (first + second),
        "refine": 9 * 2 * (9 * classes * classes + classes),
        "enlarge": 5 * 16 * classes * classes,
    }


def test_one_kernel_reaches_all_of_a_square() -> None:
    conv = GlobalConv(1, 1, kernel=5)
    for parameter in conv.parameters():
        nn.init.ones_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    out = conv(point)[0, 0]
    assert out[2:7, 2:7].eq(2).all(), "both paths, each a full 5 x 5"
    assert out.count_nonzero() == 25


def test_refinement_is_a_residual() -> None:
    refine = BoundaryRefinement(3)
    nn.init.zeros_(refine.conv2.weight)
    nn.init.zeros_(refine.conv2.bias)
    scores = support.image(1, 3, 4, 5)
    assert torch.equal(refine(scores), scores)


def test_scores_are_first_enlarged_bilinearly() -> None:
    scores = support.image(1, 3, 5, 6)
    want = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
    got = enlarging(3)(scores)
    assert got.shape == want.shape
    torch.testing.assert_close(got[..., 1:-1, 1:-1], want[..., 1:-1, 1:-1])
    assert not torch.allclose(got[..., 0, :], want[..., 0, :]), "the border meets zeros"


def test_new_layers_start_small() -> None:
    model = create_model("gcn_resnet50", encoder="test_resnet")
    weights = [p for p in model.global_convs.parameters() if p.dim() > 1]
    std = torch.cat([w.flatten() for w in weights]).std().item()
    assert std == pytest.approx(0.01, rel=0.02)


def test_refusals() -> None:
    with pytest.raises(InputError, match="GCN takes an odd kernel, got 14"):
        create_model("gcn_resnet50", kernel=14)
    model = create_model("gcn_resnet50", encoder="test_resnet").train()
    with pytest.raises(InputError, match="GCN cannot train on one image of this size"):
        model(support.image(1, 3, 20, 32))
    with pytest.raises(InputError, match="the decoder needs a feature at stride 32"):
        create_model("gcn_resnet50", encoder="test_vit")

"""DUC and HDC: the authors' dilations, the layout of a cell, and labels taken by cell."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.dilated.duc_hdc import DenseUpsampling
from tests.models import support

NAME = "duc_hdc_resnet101"
SMALL = {"width": 4, "res4_rates": (2, 5), "res5_rates": (5,), "num_classes": 5}


# ---- the trunk ---------------------------------------------------------------------------------


def test_dilations_are_the_authors() -> None:
    with torch.device("meta"):
        trunk = create_model(NAME).encoder
    assert [u.conv2.dilation[0] for u in trunk.layer3] == [2, 2, 5, 9] + [1, 2, 5, 9] * 4 + [
        1,
        2,
        5,
    ]
    assert [u.conv2.dilation[0] for u in trunk.layer4] == [5, 9, 17]
    for stage, depth in ((trunk.layer1, 3), (trunk.layer2, 4)):
        assert [u.conv2.dilation[0] for u in stage] == [1] * depth
    assert trunk.layer2[0].conv1.stride == (2, 2), "a unit halves in its first 1x1"


def test_shapes_layer_by_layer() -> None:
    """At 480 x 640, as the authors' ``network_duc_hdc.py`` draws it: 240, 119, 60 rows."""
    with torch.device("meta"):
        model = create_model(NAME).eval()
        trunk, x = model.encoder, torch.empty(1, 3, 480, 640)
        shapes = []
        for part in (trunk.stem, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            x = part(x)
            shapes.append(tuple(x.shape[1:]))
        shapes.append(tuple(model.duc(x).shape[1:]))
    assert shapes == [
        (128, 119, 159),
        (256, 119, 159),
        (512, 60, 80),
        (1024, 60, 80),
        (2048, 60, 80),
        (19, 240, 320),
    ]


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model(NAME)
        plain = create_model(NAME, cell=1)
    got = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    # a 7x7 stem of 64 channels has 3 * 49 * 64 and a norm, and feeds the first unit 64 channels
    stem = 27 * 64 + 9 * 64 * 64 + 9 * 64 * 128 + 2 * (64 + 64 + 128)
    torchvisions = 44_549_160 - (2048 * 1000 + 1000)
    more = stem - (147 * 64 + 2 * 64) + 64 * (64 + 256)
    assert got["encoder"] == torchvisions + more
    assert got["duc"] == 4 * (9 * 2048 * 19 * 16 + 19 * 16)
    assert sum(p.numel() for p in plain.parameters()) == 132_282_048


def test_norms_are_those_of_the_symbol() -> None:
    norms = [m for m in create_model(NAME, **SMALL).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {1e-6}
    assert {round(m.momentum, 9) for m in norms} == {0.0005}


def test_a_trunk_of_timm_gets_the_same_dilations() -> None:
    with torch.device("meta"):
        model = create_model(NAME, encoder="resnet101")
        own = create_model(NAME).encoder
    for name in ("layer3", "layer4"):
        taken, wanted = getattr(model.encoder.trunk, name), getattr(own, name)
        assert [u.conv2.dilation for u in taken] == [u.conv2.dilation for u in wanted]
        assert [u.conv2.padding for u in taken] == [u.conv2.padding for u in wanted]
    assert model.parameter_groups()["encoder"]


def test_frozen_norms_keep_their_statistics_and_train_their_scale() -> None:
    model = create_model(NAME, freeze_norm=True, **SMALL).train()
    before = {k: v.clone() for k, v in model.named_buffers()}
    images = support.image(1, 3, 32, 40)
    model(images).square().mean().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.named_buffers())
    norm = model.encoder.layer4[0].bn1
    assert norm.weight.grad is not None
    assert not norm.training
    assert create_model(NAME, **SMALL).train().encoder.layer4[0].bn1.training


# ---- dense upsampling --------------------------------------------------------------------------


def test_a_channel_is_a_pixel_of_its_cell() -> None:
    duc = DenseUpsampling(1, num_classes=2, factor=3)
    for branch in duc.branches:
        nn.init.zeros_(branch.weight)
        nn.init.zeros_(branch.bias)
    with torch.no_grad():
        duc.branches[0].bias.copy_(torch.arange(18.0))
    scores = duc(torch.zeros(1, 1, 2, 2))
    assert scores.shape == (1, 2, 6, 6)
    cell = torch.arange(9.0).reshape(3, 3)
    assert torch.equal(scores[0, 0], cell.repeat(2, 2))
    assert torch.equal(scores[0, 1], cell.repeat(2, 2) + 9)


def test_dilated_classifiers_are_summed() -> None:
    duc = support.fill(DenseUpsampling(3, num_classes=2, factor=1))
    x = support.image(1, 3, 30, 31)
    want = sum(
        F.conv2d(x, conv.weight, conv.bias, padding=rate, dilation=rate)
        for conv, rate in zip(duc.branches, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(duc(x), want)


@pytest.mark.parametrize("cell", [1, 2, 4, 8])
def test_the_cell_decides_the_stride_of_the_scores(cell: int) -> None:
    model = create_model(NAME, cell=cell, **SMALL).eval()
    with torch.no_grad():
        logits = model.forward_heads(support.image(1, 3, 32, 40))["logits"]
    assert logits.shape == (1, 5, 32 // cell, 40 // cell)


# ---- training ----------------------------------------------------------------------------------


def test_scores_meet_the_first_label_of_their_cell() -> None:
    model = create_model(NAME, **SMALL).eval()
    target = torch.full((1, 13, 21), 255)
    target[:, ::2, ::2] = support.target_for(torch.empty(1, 1, 7, 11), 5)
    heads = model.forward_heads(model.pad(support.image(1, 3, 13, 21)))
    assert heads["logits"].shape[-2:] == (8, 12)
    terms = model.loss(heads, target, support.criterion)
    want = F.cross_entropy(heads["logits"][..., :7, :11], target[:, ::2, ::2], ignore_index=255)
    torch.testing.assert_close(terms["logits"], want)


@pytest.mark.parametrize(("encoder", "fresh"), [(None, "layer1.0.conv2"), ("test_resnet", None)])
def test_initial_weights_are_mxnets(encoder: str | None, fresh: str | None) -> None:
    model = create_model(NAME, encoder=encoder, **SMALL)
    convs = [*model.duc.branches]
    convs += [] if fresh is None else [model.encoder.get_submodule(fresh)]
    for conv in convs:
        bound = (2.34 / conv.weight[0].numel()) ** 0.5
        assert conv.weight.abs().max().item() == pytest.approx(bound, rel=0.05)
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert conv.bias is None or not conv.bias.any()


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": 3}, "DUCHDC has cell 1, 2, 4 or 8, got 3"),
        ({"res5_rates": (0,)}, "res5_rates are dilations of at least 1, one per unit; got (0,)"),
        (
            {"encoder": "test_convnext"},
            "duc_hdc sets the dilation of a ResNet's last units, and 'test_convnext' is none; "
            "choose a ResNet",
        ),
        (
            {"pretrained": True},
            "DUCHDC's own ResNet has no trunk with published weights; choose one of timm",
        ),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model(NAME, **(SMALL | settings))

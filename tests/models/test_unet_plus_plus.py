"""UNet++: rows of nodes, each seeing those before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from tests.models import support


def test_every_node_has_the_channels_of_the_grid() -> None:
    with torch.device("meta"):
        decoder = create_model("unet_plus_plus").decoder
    c32, c16, c8, c4, c2 = 512, 256, 128, 64, 64  # ResNet-34
    want = [
        [(c32 + c16, 256)],
        [(256 + 2 * c8, 128), (c16 + c8, c8)],
        [(128 + 3 * c4, 64), (c8 + 2 * c4, c4), (c8 + c4, c4)],
        [(64 + 4 * c2, 32), (c4 + 3 * c2, c2), (c4 + 2 * c2, c2), (c4 + c2, c2)],
        [(32, 16)],
    ]
    got = [
        [(node[0][0].in_channels, node[0][0].out_channels) for node in row.nodes]
        for row in decoder.rows
    ]
    assert got == want


def test_a_node_sees_what_the_paper_joins() -> None:
    """Gradients tell which features a node of the finest rows depends on."""
    model = support.fill(create_model("unet_plus_plus", encoder="test_resnet")).double()
    encoder = model.encoder
    features = [
        support.image(1, c, 64 // s, 64 // s).double().requires_grad_()
        for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]
    decoder = model.decoder
    deepest, *copies = (features[place] for place in decoder.places)
    above, seen = [deepest], []
    for row, copy in zip(decoder.rows, [*copies, None], strict=True):
        above = row(above, copy)
        seen.append([_reach(node, features) for node in above])
    assert seen == [
        [{16, 32}, {16}],
        [{8, 16, 32}, {8, 16}, {8}],
        [{4, 8, 16, 32}, {4, 8, 16}, {4, 8}, {4}],
        [{2, 4, 8, 16, 32}, {2, 4, 8, 16}, {2, 4, 8}, {2, 4}, {2}],
        [{2, 4, 8, 16, 32}],
    ]


def _reach(node: torch.Tensor, features: list[torch.Tensor]) -> set[int]:
    gradients = torch.autograd.grad(node.sum(), features, retain_graph=True, allow_unused=True)
    strides = (2, 4, 8, 16, 32)
    return {s for s, g in zip(strides, gradients, strict=True) if g is not None and g.any()}


def test_latest_node_of_a_row_is_joined_first() -> None:
    model = support.fill(create_model("unet_plus_plus", encoder="test_resnet"))
    row = model.decoder.rows[1]
    met = []
    for node in row.nodes:
        node.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    copy = support.image(1, 48, 8, 8)
    with torch.inference_mode():
        above = [support.image(1, 256, 4, 4), support.image(1, 192, 4, 4)]
        own, other, _ = row(above, copy)
    assert own.shape == (1, 128, 8, 8)
    late = met[-1]  # the decoder's own node comes last
    assert torch.equal(late[:, :256], above[0].repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(late[:, 256 : 256 + 48], other)
    assert torch.equal(late[:, 256 + 48 :], copy)


@pytest.mark.parametrize(
    ("encoder", "nodes"),
    [
        ("test_resnet", [1, 2, 3, 4, 1]),
        ("test_convnext", [1, 2, 3, 1, 1]),  # its finest feature has stride 4
        ("vgg16", [1, 2, 3, 4, 1]),  # its feature at stride 1 is not used
    ],
)
def test_rows_without_a_feature_have_one_node(encoder: str, nodes: list[int]) -> None:
    with torch.device("meta"):
        model = create_model("unet_plus_plus", encoder=encoder)
    assert [len(row.nodes) for row in model.decoder.rows] == nodes


def test_copies_of_unpadded_trunks_are_met() -> None:
    model = create_model("unet_plus_plus", encoder="legacy_xception").eval()
    with torch.inference_mode():
        assert model(support.image(1, 3, 96, 128)).shape == (1, 1, 96, 128)


def test_initial_values_and_refusals() -> None:
    model = create_model("unet_plus_plus", encoder="test_resnet").train()
    convs = [m for m in model.decoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 2 * (1 + 2 + 3 + 4 + 1)
    for conv in convs:
        assert conv.bias is None
        bound = (6 / (9 * conv.in_channels)) ** 0.5
        # the bound itself is rounded to float32
        assert bound * 0.95 < conv.weight.abs().max().item() <= bound * (1 + 1e-6)
    assert not model.head.bias.any()
    with pytest.raises(InputError, match="UNetPlusPlus cannot train on one image of this size"):
        model(support.image(1, 3, 32, 20))
    with pytest.raises(InputError, match="the decoder needs a feature at stride 32"):
        create_model("unet_plus_plus", encoder="test_vit")

"""FC-DenseNet against the authors' layer list."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from tests.models import support

SMALL = {"growth_rate": 3, "width": 6, "layers": (1,) * 11, "num_classes": 5}


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        # channels that the classifier and each block's first layer see: 48, then by hand
        ("fc_densenet56", [48, 96, 144, 192, 240, 288, 336, 288, 240, 192, 144]),
        ("fc_densenet67", [48, 128, 208, 288, 368, 448, 528, 448, 368, 288, 208]),
        ("fc_densenet103", [48, 112, 192, 304, 464, 656, 896, 656, 464, 304, 192]),
    ],
)
def test_widths_of_the_blocks(name: str, seen: list[int]) -> None:
    with torch.device("meta"):
        model = create_model(name)
    blocks = [*model.down_blocks, model.bottom, *model.up_blocks]
    assert [block.layers[0][0].num_features for block in blocks] == seen
    assert [up.in_channels for up in model.ups] == [up.out_channels for up in model.ups]


def test_only_new_features_go_up() -> None:
    with torch.device("meta"):
        model = create_model("fc_densenet103")
    # growth 16 times the layers of the block below
    assert [up.in_channels for up in model.ups] == [240, 192, 160, 112, 80]
    assert {up.kernel_size for up in model.ups} == {(3, 3)}
    assert {up.stride for up in model.ups} == {(2, 2)}


def test_order_inside_a_layer_and_where_dropout_is() -> None:
    with torch.device("meta"):
        model = create_model("fc_densenet56")
    kinds = [type(m) for m in model.down_blocks[0].layers[0]]
    assert kinds == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.Dropout]
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.2] * (11 * 4 + 5), "each layer and each transition down"
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(rates)
    assert {norm.eps for norm in norms} == {1e-4}


def test_weights_start_he_uniform() -> None:
    model = create_model("fc_densenet56")
    for conv in (model.first, model.down_blocks[2].layers[1][2], model.ups[0], model.classifier):
        bound = math.sqrt(6 / conv.weight[0].numel())
        assert 0.97 * bound < conv.weight.abs().max() <= bound
        assert not conv.bias.any()


def test_training_on_one_pixel_is_refused() -> None:
    model = create_model("fc_densenet56", **SMALL).train()
    with pytest.raises(InputError, match="FCDenseNet cannot train on one image of this size"):
        model(support.image(1, 3, 32, 63))
    assert model(support.image(2, 3, 32, 63)).shape == (2, 5, 32, 63)
    assert model(support.image(1, 3, 32, 64)).shape == (1, 5, 32, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (4,) * 9}, "11 blocks of at least one layer, got layers="),
        ({"layers": (4,) * 10 + (0,)}, "at least one layer"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model("fc_densenet56", **settings)

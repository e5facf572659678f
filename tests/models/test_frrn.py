"""FRRN against the authors' builders."""

from __future__ import annotations

import math

import pytest
import torch

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.encoder_decoder.frrn import FRRU, double
from tests.models import support

SMALL = {"width": 4, "lanes": 4, "num_classes": 5}


@pytest.mark.parametrize(
    ("name", "down", "up"),
    [
        (
            "frrn_a",
            [(2, 96, 3), (4, 192, 4), (8, 384, 2), (16, 384, 2)],
            [(8, 192, 2), (4, 192, 2), (2, 96, 2)],
        ),
        (
            "frrn_b",
            [(2, 96, 3), (4, 192, 4), (8, 384, 2), (16, 384, 2), (32, 384, 2)],
            [(16, 192, 2), (8, 192, 2), (4, 192, 2), (2, 96, 2)],
        ),
    ],
)
def test_stages_of_the_builders(name: str, down: list, up: list) -> None:
    with torch.device("meta"):
        model = create_model(name)
    for stages, wanted in ((model.down, down), (model.up, up)):
        found = [(s.units[0].scale, s.units[0].residual.in_channels, len(s.units)) for s in stages]
        assert found == wanted
    assert model.split[0].out_channels == 32
    assert model.multiple_of == down[-1][0]


def test_doubling_is_theanos() -> None:
    x = support.image(1, 2, 3, 4)
    y = double(x)
    assert y.shape == (1, 2, 6, 8)
    torch.testing.assert_close(y[..., ::2, ::2], x)
    torch.testing.assert_close(y[..., 1:-1:2, ::2], (x[..., 1:, :] + x[..., :-1, :]) / 2)
    torch.testing.assert_close(y[..., ::2, 1:-1:2], (x[..., 1:] + x[..., :-1]) / 2)
    torch.testing.assert_close(y[..., -1, ::2], x[..., -1, :])  # beyond the border it is repeated


def test_a_unit_adds_the_same_residual_to_each_block_of_pixels() -> None:
    unit = support.fill(FRRU(cin=3, cout=6, lanes=2, scale=4))
    pooling, residual = support.image(1, 3, 2, 3), support.image(1, 2, 8, 12)
    with torch.no_grad():
        out, after = unit(pooling, residual)
        added = unit.residual(out)
    assert out.shape == (1, 6, 2, 3)
    want = added.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(after - residual, want, rtol=1e-4, atol=1e-5)


def test_weights_start_he_uniform_with_and_without_relu() -> None:
    model = create_model("frrn_a")
    unit = model.down[0].units[0]
    activated, linear = unit.convs[0][0].weight, model.split[0].weight
    for weight, gain in ((activated, 6), (linear, 3), (unit.residual.weight, 3)):
        bound = math.sqrt(gain / weight[0].numel())
        assert 0.97 * bound < weight.abs().max() <= bound
    assert not unit.residual.bias.any()


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"deepest=16 \(A\) or 32 \(B\), got 8"):
        create_model("frrn_a", deepest=8)
    model = create_model("frrn_b", **SMALL).train()
    with pytest.raises(InputError, match="FRRN cannot train on one image of this size"):
        model(support.image(1, 3, 32, 32))
    assert model(support.image(2, 3, 32, 32)).shape == (2, 5, 32, 32)

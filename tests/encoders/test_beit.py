"""BEiT: its bias of relative positions at its own size and at others."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.models.beit import Beit

from semseg.encoders.beit import relative_bias, set_grid, take_any_size
from tests.models.support import fill, image


def tiny(size: tuple[int, int] = (64, 96)) -> Beit:
    return fill(
        Beit(
            img_size=size,
            embed_dim=16,
            depth=4,
            num_heads=2,
            num_classes=0,
            use_abs_pos_emb=False,
            use_rel_pos_bias=True,
            init_values=0.1,
        )
    )


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (16, 48)])
def test_the_bias_at_its_own_size_is_timms(size: tuple[int, int]) -> None:
    attention = tiny(size).blocks[1].attn
    with torch.no_grad():
        want = attention._get_rel_pos_bias()[0]
        table = attention.relative_position_bias_table
        grid = (size[0] // 16, size[1] // 16)
        assert torch.equal(relative_bias(table, grid, grid), want)


def test_a_larger_grid_has_the_bias_in_between() -> None:
    table = torch.zeros(3 * 5 + 3, 1)  # of 2 x 3 patches
    table[:15, 0] = torch.arange(5.0).repeat(3)  # rises with the columns apart, -2 to 2
    table[15:, 0] = torch.tensor([20.0, 30.0, 40.0])
    bias = relative_bias(table, (2, 3), (2, 6))[0]
    assert bias.shape == (13, 13)
    assert (bias[0, 0], bias[0, 5], bias[5, 0]) == (40, 20, 30), "of the class token, as it was"
    inside = bias[1:, 1:].view(2, 6, 2, 6)
    row = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 3, 5)
    want = F.interpolate(row, (3, 11), mode="bicubic")[0, 0, 0]
    assert want[5] == pytest.approx(2), "no columns apart"
    for i in range(6):
        for j in range(6):
            place = torch.full((2, 2), want[i - j + 5].item())  # rows make no difference here
            torch.testing.assert_close(inside[:, i, :, j], place)


def test_any_size_is_taken_and_learned_with_the_one_table() -> None:
    model = tiny()
    plain = copy.deepcopy(model)
    take_any_size(model)
    with torch.no_grad():
        images = image(2, 3, 64, 96)
        torch.testing.assert_close(model.forward_features(images), plain.forward_features(images))
    set_grid(model, (3, 5))
    model.train().forward_features(image(2, 3, 48, 80)).square().mean().backward()
    table = model.blocks[2].attn.relative_position_bias_table
    assert table.shape == plain.blocks[2].attn.relative_position_bias_table.shape
    assert table.grad.any()


def test_a_copy_has_a_size_of_its_own() -> None:
    model = tiny()
    take_any_size(model)
    other = copy.deepcopy(model)
    set_grid(other, (2, 2))
    with torch.no_grad():
        assert other.forward_features(image(1, 3, 32, 32)).shape == (1, 5, 16)
        assert model.forward_features(image(1, 3, 64, 96)).shape == (1, 25, 16)

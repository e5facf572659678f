"""Blocks of transformers: attention by its formula, in bounded memory; stochastic depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from semseg.encoders.attention import Attention, Block, DropPath, to_map, to_tokens
from tests.models import support


def test_maps_and_tokens_are_each_others_inverse() -> None:
    x = support.image(2, 3, 4, 5)
    tokens = to_tokens(x)
    assert tokens.shape == (2, 20, 3)
    assert torch.equal(tokens[1, 7], x[1, :, 1, 2]), "row by row"
    assert torch.equal(to_map(tokens, (4, 5)), x)


def test_attention_is_its_formula() -> None:
    attention = support.fill(Attention(12, heads=3)).double()
    x = support.image(1, 2, 5, 12)[0].double()
    query, key, value = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for i in range(3):
        part = slice(4 * i, 4 * i + 4)
        weights = (query[..., part] @ key[..., part].transpose(1, 2) / 2).softmax(dim=-1)
        heads.append(weights @ value[..., part])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, dim=-1)))


class _Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, (list, tuple)) else (made,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return made


def test_all_pairs_of_tokens_are_never_held() -> None:
    tokens = 4096  # patches of 16 in 1024 x 1024
    block, x = Block(8, heads=1, hidden=16), torch.zeros(1, tokens, 8)
    with _Largest() as largest, torch.no_grad():
        block(x)
    assert largest.numel <= 24 * tokens, "queries, keys and values are the largest"


def test_a_block_normalises_before_both_branches() -> None:
    block = support.fill(Block(8, heads=2, hidden=12))
    x = support.image(1, 2, 5, 8)[0]
    middle = x + block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.mlp(block.norm2(middle)))


def test_stochastic_depth_leaves_out_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    assert torch.equal(drop.eval()(x), x)
    out = drop.train()(x)
    assert set(out.flatten().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(out.amin(dim=(1, 2)), out.amax(dim=(1, 2))), "an image as a whole"
    assert abs(out.mean().item() - 1) < 0.05

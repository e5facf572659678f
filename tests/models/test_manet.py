"""MA-Net: attention between positions, and weights for channels of two scales."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.encoder_decoder.manet import ChannelWeights, Fusion, PositionAttention
from tests.models import support


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        decoder = create_model("manet").decoder
    assert count(decoder.attention) == 2 * (512 * 64 + 64) + 2 * (9 * 512 * 512 + 512)
    c, skip, out = 512, 256, 256
    reduce = 9 * c * c + 2 * c + c * skip + 2 * skip
    weights = 2 * (skip * 16 + 16 + 16 * skip + skip)
    convs = 9 * 2 * skip * out + 2 * out + 9 * out * out + 2 * out
    assert count(decoder.blocks[0]) == reduce + weights + convs


def test_attention_by_its_formula() -> None:
    """One softmax over all pairs, and rows of positions laid out as rows of channels."""
    attention = support.fill(PositionAttention(6)).double()
    x = support.image(2, 6, 2, 3).double()
    with torch.inference_mode():
        got = attention(x)
        for image, result in zip(x, got, strict=True):
            query, key, value = (
                layer(image[None])[0].flatten(1)
                for layer in (attention.query, attention.key, attention.value)
            )
            pairs = torch.stack([(query[:, i, None] * key).sum(0) for i in range(6)])
            weights = pairs.exp() / pairs.exp().sum()
            rows = torch.stack([(weights[i] * value).sum(1) for i in range(6)])  # (hw, c)
            want = attention.out((image + rows.reshape(6, 2, 3))[None])[0]
            torch.testing.assert_close(result, want)


def test_channel_weights_narrow_to_a_sixteenth_and_at_least_one() -> None:
    assert [ChannelWeights(c)[1].out_channels for c in (256, 40, 8)] == [16, 2, 1]


def test_only_the_coarse_feature_is_weighted_by_both() -> None:
    block = support.fill(Fusion(8, 4, 5)).double()
    met = []
    block.convs.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    x, copy = support.image(1, 8, 3, 4).double(), support.image(1, 4, 6, 8).double()
    with torch.inference_mode():
        assert block(x, copy).shape == (1, 5, 6, 8)
        coarse = block.reduce(x).repeat_interleave(2, 2).repeat_interleave(2, 3)
        weights = block.coarse(coarse) + block.fine(copy)
    assert torch.equal(met[0][:, 4:], copy)
    torch.testing.assert_close(met[0][:, :4], coarse * weights)


@pytest.mark.parametrize(("encoder", "fused"), [("test_resnet", 4), ("test_convnext", 3)])
def test_every_stride_of_the_trunk_is_fused(encoder: str, fused: int) -> None:
    with torch.device("meta"):
        model = create_model("manet", encoder=encoder)
    kinds = [isinstance(block, Fusion) for block in model.decoder.blocks]
    assert kinds == [True] * fused + [False] * (5 - fused)


def test_copies_of_unpadded_trunks_are_met() -> None:
    model = create_model("manet", encoder="legacy_xception").eval()
    with torch.inference_mode():
        assert model(support.image(1, 3, 96, 128)).shape == (1, 1, 96, 128)


def test_initial_values_and_refusals() -> None:
    model = create_model("manet", encoder="test_resnet").train()
    attention = model.decoder.attention
    for conv in (attention.query, attention.out):
        bound = (6 / (conv.in_channels * conv.kernel_size[0] ** 2)) ** 0.5
        assert bound * 0.95 < conv.weight.abs().max().item() <= bound
        assert not conv.bias.any()
    with pytest.raises(InputError, match="MANet cannot train on one image of this size"):
        model(support.image(1, 3, 32, 20))
    with pytest.raises(InputError, match="the decoder needs a feature at stride 32"):
        create_model("manet", encoder="test_vit")

"""Swin: windows on maps they do not divide, shifted windows, timm's weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from semseg.core.checks import FileError, InputError
from semseg.encoders import build_encoder
from semseg.encoders.swin import DROP_PATH, Block, Merge
from semseg.encoders.windows import WindowAttention, apart, whole, windows
from tests.models.support import fill, image


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 160), (224, 32)])
def test_features_at_any_size_that_32_divides(size: tuple[int, int]) -> None:
    encoder = build_encoder("swin_smallest", in_channels=2).eval()
    with torch.no_grad():
        features = encoder(image(1, 2, *size))
    assert encoder.channels == (16, 32, 64, 128)
    assert [tuple(f.shape) for f in features] == [
        (1, c, size[0] // s, size[1] // s)
        for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]


def test_features_are_normed() -> None:
    encoder = build_encoder("swin_smallest").eval()
    with torch.no_grad():
        for feature in encoder(image(1, 3, 64, 96)):
            zero = torch.zeros(feature.shape[2:])
            torch.testing.assert_close(feature.mean(dim=1)[0], zero, atol=1e-5, rtol=0)
    assert encoder.normalised


# ---- windows -----------------------------------------------------------------------------------


def test_windows_are_cut_row_by_row_and_put_together_again() -> None:
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    held = windows(x, 2)
    assert held.shape == (2 * 6, 4, 1)
    assert held[1, :, 0].tolist() == [2, 3, 8, 9]
    assert held[6, :, 0].tolist() == [24, 25, 30, 31], "windows of the second image"
    assert torch.equal(whole(held, (4, 6), 2), x)


def test_what_a_shift_brought_together_is_kept_apart() -> None:
    mask = apart((4, 4), 2, 1, torch.zeros(1))
    assert mask.shape == (4, 4, 4)
    assert not mask[0].any(), "the first window lies as it did"
    assert (mask[1] < 0).tolist() == [[i % 2 != j % 2 for j in range(4)] for i in range(4)]
    assert (mask[3] < 0).tolist() == [[i != j for j in range(4)] for i in range(4)]


def test_a_pixel_sees_its_window_and_where_in_it_another_lies() -> None:
    attention = WindowAttention(4, 2, 2)
    table = attention.relative_position_bias_table
    with torch.no_grad():
        attention.qkv.weight[:8] = 0  # all look alike, only places count
        attention.qkv.weight[8:] = torch.eye(4)
        attention.proj.weight.copy_(torch.eye(4))
        for bias in (attention.qkv.bias, attention.proj.bias):
            bias.zero_()
        table.zero_()
        table[0 * 3 + 1] = 50.0  # rows -1 + 1, columns 0 + 1: the other lies right below
        x = image(1, 1, 4, 4)[0]
        got = attention(x, None)
    torch.testing.assert_close(got[0, :2], x[0, 2:])
    torch.testing.assert_close(got[0, 2], x[0].mean(dim=0))


def test_padding_stands_right_and_below_before_the_shift() -> None:
    block = fill(Block(8, 2, 3, 1, 0.0)).double()
    x = image(1, 4, 5, 8).double()
    with torch.no_grad():
        padded = torch.zeros(1, 6, 6, 8, dtype=torch.float64)
        padded[:, :4, :5] = x
        rolled = torch.roll(padded, (-1, -1), (1, 2))
        seen = block.attn(windows(rolled, 3), apart((6, 6), 3, 1, x))
        want = torch.roll(whole(seen, (6, 6), 3), (1, 1), (1, 2))[:, :4, :5]
        torch.testing.assert_close(block.windowed(x), want)


def test_a_map_that_fits_one_window_is_shifted_all_the_same() -> None:
    plain, shifted = fill(Block(8, 2, 3, 0, 0.0)), fill(Block(8, 2, 3, 1, 0.0))
    x = image(1, 3, 3, 8)
    with torch.no_grad():
        assert not torch.allclose(plain(x), shifted(x), atol=1e-3)


def test_every_second_block_is_shifted_and_the_last_dropped_most() -> None:
    encoder = build_encoder("swin_tiny")
    blocks = [m for m in encoder.modules() if isinstance(m, Block)]
    assert [b.shift for b in blocks] == [0, 3] * 6
    rates = [b.drop_path.drop_prob for b in blocks]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(DROP_PATH)
    assert rates == sorted(rates)


def test_neighbours_are_merged_column_by_column() -> None:
    merge = fill(Merge(1))
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 2, 2, 1)
    with torch.no_grad():
        want = merge.reduction(merge.norm(torch.tensor([1.0, 3.0, 2.0, 4.0])))
        torch.testing.assert_close(merge(x)[0, 0, 0], want)


# ---- weights -----------------------------------------------------------------------------------


def test_timms_weights_give_timms_features(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    theirs = fill(timm.create_model(name, num_classes=0)).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    ours = build_encoder("swin_tiny", pretrained=tmp_path / "w.safetensors").eval()
    images = image(1, 3, 224, 224)
    with torch.no_grad():
        want = theirs.forward_intermediates(images, intermediates_only=True)
        # before the norms; the last stage's windows are not shifted there
        x = ours.patch_norm(ours.patch_embed(images).permute(0, 2, 3, 1))
        for stage, feature in list(zip(ours.stages, want, strict=True))[:3]:
            x = stage(x)
            torch.testing.assert_close(x.permute(0, 3, 1, 2), feature, rtol=1e-4, atol=1e-4)
    last = "layers.3.blocks.1.mlp.fc2.weight"
    assert torch.equal(ours.stages[3][2].mlp.fc2.weight, theirs.state_dict()[last])
    assert torch.equal(ours.norms[3].weight, torch.ones(768)), "none is published"


def test_refusals(tmp_path: Path) -> None:
    wrong = "encoder 'swin_tiny' cannot have output_stride 16; use 32, or a trunk whose strides can"
    with pytest.raises(InputError, match=re.escape(wrong)):
        build_encoder("swin_tiny", output_stride=16)
    wrong = "swin_smallest is no trunk with published weights; create it without pretrained, or"
    with pytest.raises(InputError, match=wrong):
        build_encoder("swin_smallest", pretrained=True)
    with pytest.raises(FileError, match=r"none\.safetensors do not exist"):
        build_encoder("swin_tiny", pretrained=tmp_path / "none.safetensors")

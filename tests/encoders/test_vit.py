"""Plain vision transformers: tokens of chosen blocks, positions at any size, timm's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from semseg.core.checks import FileError, InputError, UnknownNameError
from semseg.encoders.vit import VisionTransformer, resize_positions
from tests.models import support


def made(**settings: object) -> VisionTransformer:
    return VisionTransformer("test_vit", 3, 64, (2, 6), **settings).eval()


def test_tokens_are_taken_after_blocks() -> None:
    trunk = support.fill(made())
    images = support.image(2, 3, 64, 64)
    with torch.no_grad():
        second, last = trunk.tokens(images)
        assert second.shape == last.shape == (2, 1 + 16, 64)
        x = second
        for block in trunk.blocks[2:]:
            x = block(x)
        assert torch.equal(x, last)
        maps = trunk(images)
    assert [tuple(m.shape) for m in maps] == [(2, 64, 4, 4)] * 2
    assert torch.equal(maps[1][0, :, 1, 2], last[0, 1 + 6]), "the class token is left out"


def test_later_blocks_are_not_built() -> None:
    trunk = VisionTransformer("test_vit", 3, 64, (1, 3))
    assert len(trunk.blocks) == 3
    assert trunk.norm is None


def test_positions_of_other_sizes_are_bilinear_and_spare_the_class_token() -> None:
    trunk = support.fill(made())
    assert torch.equal(trunk.positions((4, 4)), trunk.pos_embed)
    got = trunk.positions((2, 6))
    grid = trunk.pos_embed[:, 1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    want = F.interpolate(grid, (2, 6), mode="bilinear", align_corners=False)
    assert torch.equal(got[:, 0], trunk.pos_embed[:, 0])
    torch.testing.assert_close(got[:, 1:], want.flatten(2).transpose(1, 2))
    without = resize_positions(trunk.pos_embed[:, 1:], 4, (2, 6), class_token=False)
    torch.testing.assert_close(without, got[:, 1:])


def test_initial_weights_and_stochastic_depth() -> None:
    trunk = VisionTransformer("vit_tiny_patch16_384", 3, 384, (12,), drop_path=0.11)
    assert [b.drop_path.drop_prob for b in trunk.blocks] == pytest.approx(
        [0.01 * i for i in range(12)]
    )
    for tensor in (trunk.pos_embed, trunk.cls_token, trunk.blocks[3].attn.qkv.weight):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.15)
    assert not trunk.blocks[0].mlp.fc1.bias.any()


@pytest.mark.parametrize("class_token", [True, False])
def test_timms_weights_are_taken(class_token: bool, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = support.fill(timm.create_model("test_vit", img_size=64))
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    ours = made(class_token=class_token, final_norm=True)
    ours.load_pretrained(tmp_path / "vit.safetensors")
    images = support.image(1, 3, 64, 64)
    if not class_token:
        with torch.no_grad():
            theirs.cls_token = None
            theirs.pos_embed.data = theirs.pos_embed[:, 1:]
            theirs.num_prefix_tokens = 0
    with torch.no_grad():
        want = theirs.forward_features(images)
        torch.testing.assert_close(ours.tokens(images)[-1], want, rtol=1e-4, atol=1e-4)


def test_timms_weights_are_adapted_to_size_and_channels(tmp_path: Path) -> None:
    large = support.fill(VisionTransformer("test_vit", 3, 160, (6,))).state_dict()
    save_file({k.replace("embed.", "embed.proj.", 1) if "patch" in k else k: v.contiguous()
               for k, v in large.items()}, tmp_path / "vit.safetensors")  # fmt: skip
    small = VisionTransformer("test_vit", 1, 64, (2,))
    small.load_pretrained(tmp_path / "vit.safetensors")
    stem = large["patch_embed.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(small.patch_embed.weight.data, stem)
    positions = resize_positions(large["pos_embed"], 10, (4, 4), class_token=True)
    torch.testing.assert_close(small.pos_embed.data, positions)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="vit_large_patch16_384"):
        VisionTransformer("vit_large_patch16_385", 3, 64, (1,))
    with pytest.raises(InputError, match="image_size must be a multiple of 16, got 100"):
        VisionTransformer("test_vit", 3, 100, (1,))
    save_file({"pos_embed": torch.zeros(1, 17, 64)}, tmp_path / "part.safetensors")
    with pytest.raises(FileError, match=r"holds another network than test_vit: \d+ tensors m"):
        made().load_pretrained(tmp_path / "part.safetensors")

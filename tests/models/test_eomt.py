"""EoMT: queries between the blocks of a trunk, masks that fade, the trunk's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from semseg.core.checks import FileError, InputError, UnknownNameError
from semseg.encoders.dinov2 import DinoV2, resample_patches
from semseg.models import create_model
from tests.models import support

SMALL = {
    "trunk": "tiny_dinov2",
    "image_size": 64,
    "queries": 12,
    "points": 64,
    "num_classes": 5,
}


def test_heads_and_their_sizes() -> None:
    model = create_model("eomt", **SMALL).eval()
    with torch.no_grad():
        heads = model.forward_heads(support.image(1, 3, 64, 96))
    shapes = {key: tuple(head.shape) for key, head in heads.items()}
    assert shapes.pop("logits") == (1, 5, 16, 24)
    for i in ("", 1, 2, 3, 4):
        assert shapes.pop(f"masks{i}") == (1, 12, 16, 24)
        assert shapes.pop(f"classes{i}") == (1, 12, 6)
    assert not shapes


def test_queries_join_before_the_last_blocks() -> None:
    model = create_model("eomt", **SMALL, blocks=2).eval()
    counts = []
    for block in model.encoder.blocks:
        block.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1]))
    with torch.no_grad():
        heads = model.forward_heads(support.image(1, 3, 64, 64))
    assert counts == [5 + 16] * 3 + [12 + 5 + 16] * 2
    assert "masks2" in heads
    assert "masks3" not in heads


def test_queries_look_inside_their_masks() -> None:
    model = create_model("eomt", **SMALL)
    masks = support.image(1, 12, 16, 16)
    masks[:, 0] = -1
    allowed = model.allowed(masks, (4, 4), share=1.0)
    assert allowed.shape == (1, 33, 33)
    inside = F.interpolate(masks, (4, 4), mode="bilinear").flatten(2) > 0
    assert torch.equal(allowed[:, :12, 17:], inside)
    assert not allowed[0, 0, 17:].any()
    assert allowed[:, :, :17].all(), "queries, class token and registers are always seen"
    assert allowed[:, 12:].all(), "patches see everything"
    assert model.allowed(masks, (4, 4), share=0.0).all()


def test_masks_fade_block_by_block() -> None:
    model = create_model("eomt", **SMALL, fade_steps=100)
    shares = {}
    for step in (0, 20, 30, 40, 50, 79, 80, 100, 1000):
        model.steps.fill_(step)
        shares[step] = [model.masked_share(i) for i in range(4)]
    assert shares[0] == shares[20] == [1, 1, 1, 1]
    assert shares[30] == pytest.approx([0.5**0.9, 1, 1, 1])
    assert shares[40] == [0, 1, 1, 1]
    assert shares[50] == pytest.approx([0, 0.5**0.9, 1, 1])
    assert shares[79] == pytest.approx([0, 0, (1 / 20) ** 0.9, 1])
    assert shares[80] == [0, 0, 0, 1]
    assert shares[100] == shares[1000] == [0, 0, 0, 0]


def test_steps_are_counted_in_training_and_saved() -> None:
    model = create_model("eomt", **SMALL)
    images = support.image(2, 3, 64, 64)
    with torch.no_grad():
        model.train()(images)
        model(images)
        model.eval()(images)
    assert model.state_dict()["steps"] == 2


def test_masks_act_in_training_alone_and_not_after_they_have_faded() -> None:
    model = support.fill(create_model("eomt", **SMALL)).double()
    images = support.image(1, 3, 64, 64).double()
    with torch.no_grad():
        plain = model.eval().forward_heads(images)
        masked = model.train().forward_heads(images)
        model.steps.fill_(32600)
        faded = model.forward_heads(images)
    assert torch.equal(plain["masks1"], masked["masks1"])
    assert not torch.allclose(plain["masks"], masked["masks"])
    torch.testing.assert_close(plain["masks"], faded["masks"])


def test_the_loss_is_over_every_prediction() -> None:
    torch.manual_seed(0)
    model = support.fill(create_model("eomt", **SMALL))
    images = support.image(2, 3, 61, 64)
    with torch.no_grad():
        heads = model.train().forward_heads(model.pad(images))
        target = support.target_for(images, 5)
        terms = model.loss(heads, target, support.criterion)
        heads["classes3"][:] = 0
        heads["classes3"][..., 0] = 1e3
        worse = model.loss(heads, target, support.criterion)
    assert terms.keys() == {"classes", "masks", "dice"}
    assert worse["classes"] > terms["classes"] + 100


def test_prediction_leaves_the_other_masks_out() -> None:
    model = create_model("eomt", **SMALL).fuse()
    calls = []
    model.mask_head.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(support.image(1, 3, 64, 64))
    assert len(calls) == 1


# ---- the trunk ---------------------------------------------------------------------------------


def test_larger_patches_see_the_same() -> None:
    weight = support.image(4, 3, 7, 7)
    larger = resample_patches(weight, 8)
    patch = support.image(1, 3, 7, 7)
    resized = F.interpolate(patch, (8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(
        F.conv2d(resized, larger), F.conv2d(patch, weight), rtol=1e-4, atol=1e-4
    )
    assert resample_patches(weight, 7) is weight


def test_timms_weights_are_taken(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    settings = {"embed_dim": 32, "depth": 5, "num_heads": 2, "num_classes": 0}
    theirs = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=70, **settings)
    support.fill(theirs)
    save_file({**theirs.state_dict(), "mask_token": torch.zeros(1, 32)}, tmp_path / "w.safetensors")
    ours = DinoV2("tiny_dinov2", 1, 64).eval()
    ours.load_pretrained(tmp_path / "w.safetensors")
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    stem = resample_patch_embed(theirs.patch_embed.proj.weight.detach(), [16, 16])
    torch.testing.assert_close(
        ours.patch_embed.weight.detach(), stem.sum(1, keepdim=True), rtol=1e-4, atol=1e-4
    )
    positions = resample_abs_pos_embed(theirs.pos_embed.detach(), [4, 4], num_prefix_tokens=0)
    torch.testing.assert_close(ours.pos_embed.detach(), positions)
    x = support.image(1, 1, 9, 32)[:, 0]
    with torch.no_grad():
        torch.testing.assert_close(
            ours.norm(ours.blocks[3](x)), theirs.norm(theirs.blocks[3](x)), rtol=1e-4, atol=1e-4
        )


def test_the_trunk_alone_gives_a_map() -> None:
    trunk = support.fill(DinoV2("tiny_dinov2", 3, 64))
    with torch.no_grad():
        (feature,) = trunk(support.image(2, 3, 64, 96))
        tokens = trunk.embed(support.image(2, 3, 64, 96))
    assert feature.shape == (2, 32, 4, 6)
    assert tokens.shape == (2, 5 + 24, 32)
    assert torch.equal(tokens[0, 0], trunk.cls_token[0, 0]), "without a position"


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="EoMT over tiny_dinov2 takes 1 to 5 blocks, got 6"):
        create_model("eomt", **SMALL, blocks=6)
    wrong = "needs queries >= 1, fade_steps >= 0 and points >= 4, got 0, 32600 and 64"
    with pytest.raises(InputError, match=wrong):
        create_model("eomt", **{**SMALL, "queries": 0})
    with pytest.raises(UnknownNameError, match="vit_large_patch14_reg4_dinov2"):
        create_model("eomt", trunk="vit_large_patch14_reg_dinov2")
    save_file({"cls_token": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(FileError, match="holds another network than tiny_dinov2: no patch_embed"):
        create_model("eomt", **SMALL).load_pretrained(tmp_path / "w.safetensors")

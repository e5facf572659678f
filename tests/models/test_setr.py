"""SETR: which blocks the three decoders look at, their auxiliary heads, other image sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semseg.core.checks import InputError, UnknownNameError
from semseg.models import create_model
from semseg.models.transformer.setr import Aggregation, places, quarters
from tests.models import support

NAMES = ("setr_naive", "setr_pup", "setr_mla")
SMALL = {"trunk": "test_vit", "image_size": 64, "num_classes": 5}


def test_blocks_that_are_looked_at() -> None:
    assert places(24) == (10, 15, 20, 24), "the authors' settings, counted from 1"
    assert quarters(24) == (6, 12, 18, 24)
    with torch.device("meta"):
        layers = {name: create_model(name).encoder.layers for name in NAMES}
    assert layers == dict(zip(NAMES, (places(24), places(24), quarters(24)), strict=True))
    assert places(12) == (3, 6, 9, 12)


@pytest.mark.parametrize(
    ("name", "logits", "aux", "count"),
    [("setr_naive", 16, 16, 3), ("setr_pup", 2, 4, 4), ("setr_mla", 4, 16, 4)],
)
def test_heads_and_their_strides(name: str, logits: int, aux: int, count: int) -> None:
    model = create_model(name, **SMALL).eval()
    with torch.no_grad():
        heads = model.forward_heads(support.image(1, 3, 64, 96))
    shapes = {key: tuple(head.shape) for key, head in heads.items()}
    assert shapes.pop("logits") == (1, 5, 64 // logits, 96 // logits)
    assert shapes == {f"aux{i}": (1, 5, 64 // aux, 96 // aux) for i in range(1, count + 1)}
    assert model.aux_weights == dict.fromkeys(shapes, 0.4)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_adds_every_auxiliary_head(name: str) -> None:
    model = support.fill(create_model(name, **SMALL))
    images = support.image(1, 3, 61, 64)
    with torch.no_grad():
        heads = model.forward_heads(model.pad(images))
        target = support.target_for(images, 5)
        terms = model.loss(heads, target, support.criterion)
    assert terms.keys() == heads.keys()
    full = F.interpolate(heads["aux2"], (64, 64), mode="bilinear", align_corners=False)[..., :61, :]
    torch.testing.assert_close(terms["aux2"], 0.4 * support.criterion(full, target))


@pytest.mark.parametrize("name", NAMES)
def test_another_size_resizes_the_position_embedding(name: str) -> None:
    model = support.fill(create_model(name, **SMALL)).double()
    large = create_model(name, **{**SMALL, "image_size": 128}).double().eval()
    positions = model.encoder.positions((8, 8))
    assert positions.shape == large.encoder.pos_embed.shape
    large.load_state_dict({**model.state_dict(), "encoder.pos_embed": positions})
    images = support.image(1, 3, 128, 128).double()
    with torch.no_grad():
        want = large(images)
        torch.testing.assert_close(model(images), want)
        model.encoder.pos_embed.zero_()
        assert not torch.allclose(model(images), want), "positions reach the scores"


def test_only_mla_leaves_the_class_token_out() -> None:
    tokens = {name: create_model(name, **SMALL).encoder.cls_token is None for name in NAMES}
    assert tokens == {"setr_naive": False, "setr_pup": False, "setr_mla": True}


def test_levels_are_summed_from_the_last_block_down() -> None:
    part = support.fill(Aggregation(8))
    tokens = [support.image(1, 4, 6, 8)[:, i] for i in range(4)]
    with torch.no_grad():
        base = part(tokens, (2, 3))
        for changed in range(4):
            moved = [
                x + support.image(1, 5, 6, 8)[:, 4] if i == changed else x
                for i, x in enumerate(tokens)
            ]
            after = part(moved, (2, 3))
            differs = [not torch.equal(a, b) for a, b in zip(after, base, strict=True)]
            assert differs == [i <= changed for i in range(4)]


def test_the_trunk_and_its_tokens_are_kept_out_of_weight_decay() -> None:
    assert create_model("setr_pup", **SMALL).no_weight_decay() == {
        "encoder.cls_token",
        "encoder.pos_embed",
    }
    assert create_model("setr_mla", **SMALL).no_weight_decay() == {"encoder.pos_embed"}


def test_refusals() -> None:
    with pytest.raises(UnknownNameError, match="vit_large_patch16_384"):
        create_model("setr_pup", trunk="vit_large_patch16_38")
    with pytest.raises(InputError, match="image_size must be a multiple of 16, got 72"):
        create_model("setr_naive", image_size=72)
    model = create_model("setr_naive", **SMALL).train()
    with pytest.raises(InputError, match="SETRNaive cannot train on one image of this size"):
        model(support.image(1, 3, 16, 16))

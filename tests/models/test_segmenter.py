"""Segmenter: class tokens that become classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.transformer.segmenter import MaskTransformer
from tests.models import support

SMALL = {"trunk": "test_vit", "image_size": 64, "num_classes": 5}


def test_scores_are_normalised_cosines() -> None:
    decoder = support.fill(MaskTransformer(64, 1, 5)).double()
    patches = support.image(2, 1, 6, 64)[:, 0].double()
    with torch.no_grad():
        x = torch.cat([decoder.project(patches), decoder.classes.expand(2, -1, -1)], dim=1)
        x = decoder.norm(decoder.blocks[0](x))
        one, other = x[:, :6] @ decoder.project_patches, x[:, 6:] @ decoder.project_classes
        cosines = F.cosine_similarity(one[:, :, None], other[:, None], dim=-1)
        want = F.layer_norm(cosines, (5,), decoder.mask_norm.weight, decoder.mask_norm.bias)
        torch.testing.assert_close(decoder(patches), want)


def test_every_class_sees_every_patch() -> None:
    decoder = support.fill(MaskTransformer(64, 2, 5))
    patches = support.image(1, 1, 6, 64)[:, 0]
    with torch.no_grad():
        base = decoder(patches)
        patches[:, 0] += 1
        assert (decoder(patches) != base).all()


def test_one_class_is_a_cosine_with_a_learned_scale() -> None:
    decoder = MaskTransformer(64, 1, 1)
    assert isinstance(decoder.mask_norm, nn.Linear)
    with torch.no_grad():
        scores = decoder(support.image(1, 1, 6, 64)[:, 0])
    assert scores.std() > 0, "a norm over one class would leave zeros"
    assert scores.abs().max() <= 1 + 1e-6


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("segmenter")
    d, k = 1024, 150
    block = 4 * d * d + 4 * d + 8 * d * d + 5 * d + 4 * d
    trunk = 3 * 256 * d + d + d + (40 * 40 + 1) * d + 24 * block + 2 * d
    decoder = d * d + d + k * d + 2 * block + 2 * d + 2 * d * d + 2 * k
    assert sum(p.numel() for p in model.encoder.parameters()) == trunk == 304_739_328
    assert sum(p.numel() for p in model.decoder.parameters()) == decoder == 28_495_148


def test_norms_dropout_and_initial_weights() -> None:
    model = create_model("segmenter", **SMALL)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}
    block = model.decoder.blocks[0]
    assert (block.attn.drop.p, block.mlp.drop.p, block.drop_path.drop_prob) == (0.1, 0.1, 0.0)
    assert model.encoder.blocks[0].attn.drop.p == 0
    assert model.encoder.blocks[-1].drop_path.drop_prob == pytest.approx(0.1)
    decoder = model.decoder
    assert decoder.project_patches.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert decoder.classes.std().item() == pytest.approx(0.02, rel=0.2)
    assert decoder.project.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_tokens_are_kept_out_of_weight_decay() -> None:
    assert create_model("segmenter", **SMALL).no_weight_decay() == {
        "encoder.cls_token",
        "encoder.pos_embed",
        "decoder.classes",
    }


def test_refusals() -> None:
    with pytest.raises(InputError, match="Segmenter needs layers >= 1, got 0"):
        create_model("segmenter", layers=0)
    with pytest.raises(InputError, match="image_size must be a multiple of 16, got 0"):
        create_model("segmenter", image_size=0)

"""MaskFormer: the pyramid under its masks, its decoder, focal and Dice losses over whole masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.transformer.maskformer import (
    WEIGHTS,
    WHOLE,
    DecoderLayer,
    PixelDecoder,
    focal,
    whole_costs,
    whole_terms,
)
from semseg.models.transformer.matching import (
    Segments,
    assign,
    matched,
    segments_of,
    total_loss,
)
from tests.models import support

SMALL = {"encoder": "test_resnet", "width": 64, "queries": 12, "layers": 3, "num_classes": 5}


def test_heads_and_their_sizes() -> None:
    model = create_model("maskformer", **SMALL).eval()
    with torch.no_grad():
        heads = model.forward_heads(support.image(1, 3, 64, 96))
    shapes = {key: tuple(head.shape) for key, head in heads.items()}
    assert shapes.pop("logits") == (1, 5, 16, 24)
    for i in ("", 1, 2):
        assert shapes.pop(f"masks{i}") == (1, 12, 16, 24)
        assert shapes.pop(f"classes{i}") == (1, 12, 6)
    assert not shapes


def test_prediction_leaves_the_other_masks_out() -> None:
    model = create_model("maskformer", **SMALL).fuse()
    calls = []
    model.mask_head.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(support.image(1, 3, 64, 64))
    assert len(calls) == 1


# ---- parts -------------------------------------------------------------------------------------


def test_a_level_is_the_smoothed_sum_of_its_side_and_the_level_above() -> None:
    decoder = support.fill(PixelDecoder([8, 12], 32))
    fine, coarse = support.image(1, 8, 4, 6), support.image(1, 12, 2, 3)
    with torch.no_grad():
        top = F.conv2d(coarse, decoder.top[0].weight, padding=1)
        top = F.relu(F.group_norm(top, 32, decoder.top[1].weight, decoder.top[1].bias))
        conv, norm = decoder.lateral[0]
        side = F.group_norm(F.conv2d(fine, conv.weight), 32, norm.weight, norm.bias)
        doubled = top.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        conv, norm, _ = decoder.smooth[0]
        level = F.conv2d(side + doubled, conv.weight, padding=1)
        level = F.relu(F.group_norm(level, 32, norm.weight, norm.bias))
        want = F.conv2d(level, decoder.out.weight, decoder.out.bias, padding=1)
        torch.testing.assert_close(decoder([fine, coarse]), want)


def test_a_layer_is_pytorchs_with_positions_added_where_it_looks() -> None:
    ours = support.without_dropout(support.fill(DecoderLayer(16)))
    theirs = {}
    for name in ("own", "cross"):
        held = getattr(ours, name)
        theirs[name] = nn.MultiheadAttention(16, 8, batch_first=True)
        theirs[name].in_proj_weight, theirs[name].in_proj_bias = held.qkv.weight, held.qkv.bias
        theirs[name].out_proj = held.out
    x, places = support.image(2, 1, 6, 16).split(1)[0][0], support.image(1, 1, 6, 16)[0]
    tokens, positions = support.image(1, 2, 9, 16)[0].split(1)
    with torch.no_grad():
        look = x + places
        y = ours.norm1(x + theirs["own"](look, look, x)[0])
        y = ours.norm2(y + theirs["cross"](y + places, tokens + positions, tokens)[0])
        want = ours.norm3(y + ours.ffn[2](F.relu(ours.ffn[0](y))))
        torch.testing.assert_close(ours(x, places, tokens, positions), want)


def test_dropout_is_the_authors() -> None:
    layer = create_model("maskformer", **SMALL).layers[0]
    rates = {name: m.p for name, m in layer.named_modules() if isinstance(m, nn.Dropout)}
    assert rates == {"own.drop": 0.1, "cross.drop": 0.1, "ffn.1.1": 0.1, "drop": 0.1}
    x = support.image(1, 2, 6, 64)[0]
    got = [layer.own(x, x, x) for _ in range(2)]
    assert not torch.equal(*got), "attention itself drops in training"
    calls = []
    layer.drop.register_forward_hook(lambda *_: calls.append(1))
    layer(x, x, x, x)
    assert len(calls) == 3, "every branch drops"
    layer.eval()
    assert torch.equal(layer.own(x, x, x), layer.own(x, x, x))


def test_the_image_is_not_projected_where_its_width_fits() -> None:
    model = create_model("maskformer", **{**SMALL, "width": 96})
    assert model.encoder.channels[-1] == 96
    assert isinstance(model.project, nn.Identity)
    other = create_model("maskformer", **SMALL)
    assert other.project.weight.shape == (64, 96, 1, 1)
    assert not other.project.bias.any()


# ---- the loss ----------------------------------------------------------------------------------


def test_focal_loss_by_hand() -> None:
    share = 1 / (1 + math.exp(-2.0))
    got = focal(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]))
    want = [-0.25 * (1 - share) ** 2 * math.log(share), -0.75 * share**2 * math.log(1 - share)]
    torch.testing.assert_close(got, torch.tensor(want))


def test_costs_of_all_pairs_are_those_of_each_pair() -> None:
    masks = 3 * support.image(1, 4, 4, 6)[0]
    small = (support.image(1, 3, 4, 6)[0] > 0).float()
    truth = small.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)  # read at its pixels
    mask, dice = whole_costs(masks, truth, WEIGHTS)
    assert mask.shape == dice.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            one = whole_terms(masks[i : i + 1], small[j : j + 1], WEIGHTS)
            torch.testing.assert_close((mask[i, j], dice[i, j]), one)


def test_masks_are_enlarged_to_the_segments() -> None:
    masks, truth = support.image(1, 2, 4, 6)[0], (support.image(1, 2, 16, 24)[0] > 0).float()
    large = F.interpolate(masks[None], (16, 24), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(whole_terms(masks, truth, WEIGHTS), whole_terms(large, truth, None))


def test_segments_are_read_at_one_pixel_for_the_costs() -> None:
    masks = support.image(1, 1, 2, 3)[0]
    truth = torch.zeros(1, 8, 12)
    truth[:, ::4, ::4] = 1  # the only pixels that are read
    got = whole_costs(masks, truth, WEIGHTS)
    want = whole_terms(masks, torch.ones(1, 2, 3), WEIGHTS)
    torch.testing.assert_close([part.item() for part in got], [part.item() for part in want])


def test_the_whole_loss_is_that_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
    monkeypatch.setattr(theirs, "requires_backends", lambda *_: None)
    monkeypatch.setattr(theirs, "linear_sum_assignment", assigned, raising=False)  # is of scipy
    matcher = theirs.MaskFormerHungarianMatcher(1.0, 20.0, 1.0)
    criterion = theirs.MaskFormerLoss(5, matcher, {}, 0.1).double()
    masks = 3 * support.image(2, 12, 16, 24).double()
    classes = 2 * support.image(2, 1, 12, 6)[:, 0].double()
    target = support.target_for(support.image(2, 3, 64, 96), 5)
    held = segments_of(target, 5, torch.float64)
    want = criterion(masks, classes, [s.masks for s in held], [s.classes for s in held])
    got = total_loss([(classes, masks)], target, 5, (64, 96), WEIGHTS, WHOLE)
    torch.testing.assert_close(got["classes"], want["loss_cross_entropy"])
    torch.testing.assert_close(got["masks"], 20 * want["loss_mask"])
    torch.testing.assert_close(got["dice"], want["loss_dice"])


def assigned(cost: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the cheapest assignment, as scipy does."""
    columns = assign(cost.numpy().T)  # one query for each segment
    order = np.argsort(columns)
    return columns[order], order


def test_matching_weighs_masks_most() -> None:
    """Of two queries, one has the class and the other the mask: the mask decides."""
    truth = torch.zeros(1, 8, 8)
    truth[:, :, 4:] = 1
    classes, masks = torch.zeros(2, 3), torch.full((2, 8, 8), -8.0)
    classes[0, 1] = 9
    masks[1] = 16 * truth[0] - 8
    segments = Segments(torch.tensor([1]), truth)
    assert matched(classes, masks, segments, WEIGHTS, WHOLE).tolist() == [1]
    light = WEIGHTS._replace(masks=0.01, dice=0.01)
    assert matched(classes, masks, segments, light, WHOLE).tolist() == [0]


def test_the_loss_is_over_every_prediction() -> None:
    model = support.fill(create_model("maskformer", **SMALL))
    images = support.image(2, 3, 61, 64)
    with torch.no_grad():
        heads = model.train().forward_heads(model.pad(images))
        target = support.target_for(images, 5)
        terms = model.loss(heads, target, support.criterion)
        assert terms.keys() == {"classes", "masks", "dice"}
        again = model.loss(heads, target, support.criterion)
        assert all(torch.equal(again[k], term) for k, term in terms.items()), "no point is drawn"
        for name in ("classes", "classes1", "classes2"):
            worse = {**heads, name: torch.zeros_like(heads[name])}
            worse[name][..., 0] = 1e3
            assert model.loss(worse, target, support.criterion)["classes"] > terms["classes"] + 100


# ---- start and refusals ------------------------------------------------------------------------


def test_initial_weights() -> None:
    model = create_model("maskformer", **SMALL)
    decoder = model.pixel_decoder
    for conv in (decoder.top[0], decoder.smooth[0][0], decoder.out):
        limit = (3 / (conv.in_channels * 9)) ** 0.5
        assert conv.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert not decoder.out.bias.any()
    assert model.places.std().item() == pytest.approx(1, rel=0.2)
    for name, fans in {"own.qkv": 4 * 64, "cross.out": 2 * 64, "ffn.0": 64 + 2048}.items():
        weight = model.layers[0].get_submodule(name).weight
        assert weight.abs().max().item() == pytest.approx((6 / fans) ** 0.5, rel=0.01)
    assert not model.layers[0].own.qkv.bias.any()


def test_queries_and_tables_are_kept_from_weight_decay() -> None:
    assert create_model("maskformer", **SMALL).no_weight_decay() == {"places"}
    over_swin = create_model("maskformer", **{**SMALL, "encoder": "swin_smallest"})
    kept = over_swin.no_weight_decay()
    assert "encoder.stages.1.1.attn.relative_position_bias_table" in kept
    assert len(kept) == 1 + 6


def test_refusals() -> None:
    with pytest.raises(InputError, match="MaskFormer needs a multiple of 32 as width, got 40"):
        create_model("maskformer", width=40)
    with pytest.raises(InputError, match="needs at least 1 query and 1 layer, got 0 and 6"):
        create_model("maskformer", queries=0)
    with pytest.raises(InputError, match="the decoder needs a feature at stride 4"):
        create_model("maskformer", encoder="test_vit")

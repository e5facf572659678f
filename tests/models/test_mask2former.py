"""Mask2Former: deformable attention by its formula, masked attention, heads of every layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.transformer import queries
from semseg.models.transformer.mask2former import DeformableAttention, centres, inside
from semseg.models.transformer.matching import POINTS
from semseg.models.transformer.queries import QueryAttention, sine_positions
from tests.models import support

SMALL = {
    "encoder": "test_resnet",
    "width": 32,
    "queries": 12,
    "pixel_layers": 1,
    "query_layers": 4,
    "points": 64,
    "num_classes": 5,
}


def test_heads_and_their_sizes() -> None:
    model = create_model("mask2former", **SMALL).eval()
    with torch.no_grad():
        heads = model.forward_heads(support.image(1, 3, 64, 96))
    shapes = {key: tuple(head.shape) for key, head in heads.items()}
    assert shapes.pop("logits") == (1, 5, 16, 24)
    for i in ("", 1, 2, 3, 4):
        assert shapes.pop(f"masks{i}") == (1, 12, 16, 24)
        assert shapes.pop(f"classes{i}") == (1, 12, 6)
    assert not shapes


def test_layers_take_the_scales_in_turn_from_the_coarsest() -> None:
    model = create_model("mask2former", **SMALL).eval()
    counts = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[2].shape[1]))
    with torch.no_grad():
        model(support.image(1, 3, 64, 96))
    assert counts == [2 * 3, 4 * 6, 8 * 12, 2 * 3]


# ---- deformable attention ----------------------------------------------------------------------


def test_a_pixel_reads_a_few_points_of_every_scale() -> None:
    attention = support.fill(DeformableAttention(16)).double()
    sizes = [(2, 3), (3, 4), (5, 6)]
    count = sum(h * w for h, w in sizes)
    x, positions = support.image(1, 2, count, 16)[0].double().split(1)
    places = torch.cat([centres(size, x) for size in sizes])
    asked = 7
    offsets = attention.offsets(x + positions)[0, asked].view(8, 3, 4, 2)
    shares = attention.shares(x + positions)[0, asked].view(8, 12).softmax(-1).view(8, 3, 4)
    values = torch.split(attention.values(x)[0], [h * w for h, w in sizes])
    read = torch.zeros(8, 2, dtype=torch.float64)
    for head in range(8):
        for i, (height, width) in enumerate(sizes):
            grid = values[i].view(height, width, 8, 2)[:, :, head]
            for share, (dx, dy) in zip(shares[head, i], offsets[head, i], strict=True):
                column = places[asked, 0] * width + dx - 0.5
                row = places[asked, 1] * height + dy - 0.5
                read[head] += share * bilinear(grid, row.item(), column.item())
    got = attention(x, positions, places, sizes)[0, asked]
    torch.testing.assert_close(got, attention.out(read.flatten()))


def bilinear(grid: torch.Tensor, row: float, column: float) -> torch.Tensor:
    """Return the value between four pixels; outside are zeros."""
    total = torch.zeros(grid.shape[2], dtype=grid.dtype)
    for y in (math.floor(row), math.floor(row) + 1):
        for x in (math.floor(column), math.floor(column) + 1):
            if 0 <= y < grid.shape[0] and 0 <= x < grid.shape[1]:
                total += (1 - abs(row - y)) * (1 - abs(column - x)) * grid[y, x]
    return total


def test_heads_start_by_looking_to_eight_sides() -> None:
    attention = DeformableAttention(16)
    start = attention.offsets.bias.detach().view(8, 3, 4, 2)
    torch.testing.assert_close(start[0, 1, 2], torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(start[1, 0, 0], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(start[2, 2, 3], torch.tensor([0.0, 4.0]), atol=1e-6, rtol=0)
    assert not attention.offsets.weight.any()
    assert not attention.shares.weight.any()
    limit = (6 / (16 + 16)) ** 0.5
    for layer in (attention.values, attention.out):
        assert layer.weight.abs().max().item() == pytest.approx(limit, rel=0.05)
        assert not layer.bias.any()


def test_positions_are_those_of_the_first_transformer() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    got = sine_positions((3, 5), 8, like).view(3, 5, 8)
    angle = 2 / (3 + 1e-6) * 2 * math.pi  # of the second row
    want = [math.sin(angle), math.cos(angle), math.sin(angle / 100), math.cos(angle / 100)]
    torch.testing.assert_close(got[1, 4, :4], torch.tensor(want, dtype=torch.float64))
    angle = 4 / (5 + 1e-6) * 2 * math.pi  # of the fourth column
    want = [math.sin(angle), math.cos(angle), math.sin(angle / 100), math.cos(angle / 100)]
    torch.testing.assert_close(got[1, 3, 4:], torch.tensor(want, dtype=torch.float64))


# ---- queries -----------------------------------------------------------------------------------


def test_queries_look_inside_their_masks_and_everywhere_without_one() -> None:
    masks = torch.full((1, 2, 4, 4), -1.0)
    masks[0, 0, :2, :2] = 1
    allowed = inside(masks, (2, 2))
    assert allowed.tolist() == [[[True, False, False, False], [True] * 4]]


def test_query_attention_is_pytorchs() -> None:
    ours = support.fill(QueryAttention(16))
    theirs = nn.MultiheadAttention(16, 8, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    query, key, value = support.image(3, 1, 6, 16)
    allowed = support.image(1, 1, 6, 6)[0] > -0.5
    with torch.no_grad():
        want = theirs(query, key, value, attn_mask=~allowed[0])[0]
        torch.testing.assert_close(ours(query, key, value, allowed), want)


def test_the_loss_is_over_every_prediction() -> None:
    torch.manual_seed(0)
    model = support.fill(create_model("mask2former", **SMALL))
    images = support.image(2, 3, 61, 64)
    with torch.no_grad():
        heads = model.train().forward_heads(model.pad(images))
        target = support.target_for(images, 5)
        terms = model.loss(heads, target, support.criterion)
        heads["classes4"][:] = 0
        heads["classes4"][..., 0] = 1e3
        worse = model.loss(heads, target, support.criterion)
    assert terms.keys() == {"classes", "masks", "dice"}
    assert worse["classes"] > terms["classes"] + 100


def test_masks_belong_to_the_padded_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("mask2former", **SMALL)
    images = support.image(2, 3, 61, 40)
    seen = []
    plain = queries.total_loss
    monkeypatch.setattr(queries, "total_loss", lambda *a: (seen.append(a), plain(*a))[1])
    with torch.no_grad():
        heads = model.forward_heads(model.pad(images))
        model.loss(heads, support.target_for(images, 5), support.criterion)
    predictions, _, num_classes, size, weights, comparison = seen[0]
    assert (len(predictions), num_classes, size) == (5, 5, (64, 64))
    assert weights == (2.0, 5.0, 5.0, 0.1, 64)
    assert comparison is POINTS


def test_what_is_kept_from_weight_decay() -> None:
    model = create_model("mask2former", **SMALL)
    assert model.no_weight_decay() == {"queries", "query_places", "scale"}
    over_swin = create_model("mask2former", **{**SMALL, "encoder": "swin_smallest"})
    assert "encoder.stages.0.0.attn.relative_position_bias_table" in over_swin.no_weight_decay()


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("mask2former")
    w = 256
    deformable = w * (192 + 96) + 192 + 96 + 2 * (w * w + w)
    layer = deformable + 2 * w * 1024 + 1024 + w + 4 * w
    ends = (512 + 1024 + 2048) * w + 3 * 3 * w + 256 * w + 9 * w * w + 4 * w + w * w + w
    counted = sum(p.numel() for p in model.pixel_decoder.parameters())
    assert counted == 6 * layer + ends + 3 * w
    layer = 2 * (4 * w * w + 4 * w) + 2 * w * 2048 + 2048 + w + 6 * w
    assert sum(p.numel() for p in model.layers.parameters()) == 9 * layer


def test_initial_weights() -> None:
    model = create_model("mask2former", **SMALL)
    decoder = model.pixel_decoder
    first = decoder.project[0][0].weight
    limit = (6 / sum(first.shape[:2])) ** 0.5
    assert first.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert not decoder.out.bias.any()
    assert model.queries.std().item() == pytest.approx(1, rel=0.2)
    limit = (6 / (32 + 2048)) ** 0.5
    assert model.layers[0].ffn[0].weight.abs().max().item() == pytest.approx(limit, rel=0.01)


def test_refusals() -> None:
    with pytest.raises(InputError, match="Mask2Former needs a multiple of 32 as width, got 40"):
        create_model("mask2former", width=40)
    wrong = "at least 1 query and layer of each kind and 4 points, got 100, 0, 9 and 12544"
    with pytest.raises(InputError, match=wrong):
        create_model("mask2former", pixel_layers=0)
    with pytest.raises(InputError, match="the decoder needs a feature at stride 4"):
        create_model("mask2former", encoder="test_vit")

"""GSCNN: Canny's edges, the gated stream, the four losses."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.gscnn import (
    GSCNN,
    Gate,
    ShapeStream,
    balanced_cross_entropy,
    borders,
    canny,
    dual_task,
    steepness,
)
from tests.models import support


def small(**settings: int) -> GSCNN:
    model = support.fill(create_model("gscnn", **({"width": 4, "num_classes": 5} | settings)))
    assert isinstance(model, GSCNN)
    return model


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_counts_by_hand() -> None:
    with torch.device("meta"):
        model = create_model("gscnn")
    assert count(model.encoder) == 105_062_720
    blocks = sum(2 * 9 * w * w + 4 * w for w in (64, 32, 16))
    narrow = sum(a * b + b for a, b in ((64, 32), (32, 16), (16, 8)))
    gates = sum(w * w + 2 * (w + 1) + (w + 1) ** 2 + 2 * (w + 1) + 1 + 2 for w in (32, 16, 8))
    sides = 256 + 512 + 4096 + 3
    assert count(model.stream) == blocks + narrow + gates + sides + 8
    assert count(model.pyramid) == 256 * (2 * 4096 + 1 + 3 * 9 * 4096) + 6 * 512
    assert count(model.coarse) + count(model.fine) == 1536 * 256 + 128 * 48
    assert count(model.head) == 9 * 256 * (304 + 256) + 4 * 256 + 256 * 19


def test_the_trunk_is_wider_resnet_of_model_a2() -> None:
    encoder = small().encoder
    assert encoder.pools
    assert encoder.bn_out is None
    assert encoder.strides == (1, 2, 4, 8, 8, 8, 8)


# ---- Canny -------------------------------------------------------------------------------------


def drawn(*channels: list[list[int]]) -> list[list[int]]:
    edges = canny(torch.tensor([channels]).float())
    assert edges.shape[:2] == (1, 1)
    assert edges.unique().tolist() in ([0], [255], [0, 255])
    return (edges[0, 0] / 255).int().tolist()


def test_an_edge_is_one_pixel_wide_and_left_of_equals() -> None:
    step = [[0, 0, 0, 50, 50, 50]] * 4  # both sides of the step have the same derivative
    assert drawn(step) == [[0, 0, 1, 0, 0, 0]] * 4
    upright = [list(row) for row in zip(*step, strict=True)]
    assert drawn(upright) == [[0] * 4] * 2 + [[1] * 4] + [[0] * 4] * 3


def test_the_strongest_channel_counts() -> None:
    weak, strong = [[0, 0, 0, 0, 20, 20]] * 4, [[0, 90, 90, 90, 90, 90]] * 4
    got = drawn(weak, strong)
    assert got == drawn(strong, weak)
    assert got == [[1, 0, 0, 0, 0, 0]] * 4


def test_faint_edges_last_where_they_touch_strong_ones() -> None:
    faint = [[0, 0, 0, 20, 20, 20]] * 4  # derivative 80, between the thresholds
    assert drawn(faint) == [[0] * 6] * 4
    fading = [[0, 0, 0, *[height] * 3] for height in range(30, 10, -2)]
    assert [row[3] for row in drawn(fading)] == [1] * 10
    assert [row[3] for row in drawn(fading[6:])] == [0] * 4, "the lower end by itself"
    below = [[0, 0, 0, 2, 2, 2]] * 6  # derivative 8
    assert drawn(below) == [[0] * 6] * 6


def test_diagonals_are_followed_pixel_by_pixel() -> None:
    falling = [[200 * (x > y) for x in range(8)] for y in range(8)]
    rows = [(y, row) for y, row in enumerate(drawn(falling))][1:-1]
    assert all([x for x, on in enumerate(row) if on] == [y, y + 1] for y, row in rows)
    rising = [row[::-1] for row in falling]
    rows = [(y, row[::-1]) for y, row in enumerate(drawn(rising))][1:-1]
    assert all([x for x, on in enumerate(row) if on] == [y, y + 1] for y, row in rows)


def test_the_network_hands_over_values_modulo_256() -> None:
    model = small()
    seen: list[Tensor] = []
    model.with_canny.register_forward_pre_hook(lambda _, x: seen.append(x[0][:, 1]))
    images = torch.full((1, 3, 16, 24), 0.9)
    images[..., 12:] = -0.9
    model.forward_heads(images)
    assert not seen[0].any(), "both are cut to 0"
    images[..., 12:] = -1.2
    model.forward_heads(images)
    assert seen[1].any(dim=1).nonzero()[:, 1].tolist() == [11], "0 beside 255"


# ---- stream ------------------------------------------------------------------------------------


def test_a_gate_weighs_between_once_and_twice() -> None:
    gate = support.fill(Gate(4))
    x, side = support.image(1, 4, 5, 6), support.image(1, 1, 5, 6)
    nn.init.zeros_(gate.share[4].weight)
    for bias, factor in ((-50.0, 1), (50.0, 2), (0.0, 1.5)):
        nn.init.constant_(gate.share[4].bias, bias)
        torch.testing.assert_close(gate(x, side), factor * gate.conv(x))


def test_the_stream_stays_at_full_resolution_and_narrows() -> None:
    stream = support.fill(ShapeStream(4, (16, 32, 256)))
    seen = []
    for gate in stream.gates:
        gate.register_forward_hook(lambda _, x, y: seen.append(tuple(y.shape[1:])))
    features = [support.image(1, c, 8 // s, 12 // s) for c, s in ((16, 1), (32, 2), (256, 2))]
    assert stream(support.image(1, 4, 32, 48), features).shape == (1, 1, 32, 48)
    assert seen == [(32, 32, 48), (16, 32, 48), (8, 32, 48)]


@pytest.mark.parametrize(("size", "scores"), [((64, 96), (32, 48)), ((67, 91), (34, 46))])
def test_scores_stand_at_half_and_edges_at_full_size(
    size: tuple[int, int], scores: tuple[int, int]
) -> None:
    heads = small().forward_heads(support.image(1, 3, *size))
    assert heads["logits"].shape == (1, 5, *scores)
    assert heads["edges"].shape == (1, 1, *size)
    rates = [conv[0].dilation[0] for conv in small().pyramid.convs]
    assert rates == [1, 12, 24, 36]


def test_initial_weights_are_the_authors() -> None:
    torch.manual_seed(0)
    model = create_model("gscnn", width=16)
    assert model.head[0][0].weight.std().item() == pytest.approx((2 / (9 * 304)) ** 0.5, rel=0.02)
    block = model.stream.blocks[1].conv1
    assert block.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    assert model.stream.gates[0].conv.weight.std().item() == pytest.approx((1 / 32) ** 0.5, rel=0.1)


# ---- losses ------------------------------------------------------------------------------------


def test_borders_reach_two_pixels_to_either_side() -> None:
    target = torch.zeros(1, 7, 12, dtype=torch.long)
    target[..., 6:] = 3
    want = [0] * 4 + [1] * 4 + [0] * 2 + [1] * 2  # beyond the image is the first class
    assert borders(target, 255)[0, 3].int().tolist() == want
    assert borders(target, 255)[0, 0].int().tolist() == [0] * 4 + [1] * 8
    target[..., 6:] = 255
    assert not borders(target, 255).any(), "nor is there a border to what is ignored"
    target[:] = 0
    target[0, 3, 6] = 1
    assert borders(target, 255).sum() == 13, "a disk of radius 2"


def test_edges_weigh_as_much_as_the_rest() -> None:
    truth = torch.zeros(1, 4, 5)
    truth[0, 0, 0] = 1
    scores = support.image(1, 1, 4, 5)[:, 0]
    entropy = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    want = (entropy[truth == 1].sum() * 19 / 20 + entropy[truth == 0].sum() / 20) / 20
    torch.testing.assert_close(balanced_cross_entropy(scores, truth), want)


def test_steepness_of_a_ramp_is_even_and_of_a_step_local() -> None:
    ramp = torch.arange(40.0).expand(1, 1, 30, 40)
    got = steepness(ramp)
    assert got[..., 6:-6].sub(1).abs().max() < 1e-4
    step = (torch.arange(40) >= 20).float().expand(1, 1, 30, 40)
    got = steepness(step)
    assert got.argmax(dim=-1).unique().tolist() in ([19], [20])
    assert got[..., :14].max() < 0.03
    assert got[..., 26:].max() < 0.03
    torch.testing.assert_close(steepness(step.mT), got.mT)


def test_dual_task_falls_with_a_result_like_the_mask() -> None:
    target = torch.zeros(2, 24, 32, dtype=torch.long)
    target[..., 16:] = 2
    right = 40 * F.one_hot(target, 3).movedim(-1, 1).float()
    torch.manual_seed(0)
    assert dual_task(right, target, 255) < 1e-4
    assert dual_task(right.flip(-1)[..., :8, :], target[:, :8], 255) < 1e-4, "borders, not classes"
    assert dual_task(right.roll(6, -1), target, 255) > 0.02
    ignored = target.clone()
    ignored[..., :16] = 255
    assert dual_task(right, ignored, 255) > dual_task(right, target, 255)
    one = dual_task(right[:, 2:] - 20, target.clamp(max=1), 255)
    assert one < 1e-4, "one sigmoid channel"


def test_the_four_terms() -> None:
    model = small()
    images = support.image(2, 3, 40, 48)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    heads["edges"] = heads["edges"] - heads["edges"].mean()
    terms = model.loss(heads, target, support.criterion)
    assert terms.keys() == {"logits", "edges", "near_edges", "dual"}
    full = F.interpolate(heads["logits"], (40, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(terms["logits"], support.criterion(full, target))
    edges = balanced_cross_entropy(heads["edges"][:, 0], borders(target, 255))
    torch.testing.assert_close(terms["edges"], 20 * edges)
    near = target.masked_fill(heads["edges"][:, 0].sigmoid() <= 0.8, 255)
    torch.testing.assert_close(terms["near_edges"], support.criterion(full, near))
    none = heads | {"edges": heads["edges"] - 1e4}
    assert model.loss(none, target, support.criterion)["near_edges"] == 0


def test_one_image_in_training_is_refused_with_the_reason() -> None:
    message = (
        "GSCNN needs at least 2 images per step in training mode: its average of the whole image "
        "is one value per channel and image, which batch normalisation turns into zero; use a "
        "batch size of 2 or more and drop an incomplete last batch"
    )
    model = small().train()
    with pytest.raises(InputError, match=re.escape(message)):
        model(support.image(1, 3, 32, 32))
    assert model(support.image(2, 3, 32, 32)).isfinite().all()
    with pytest.raises(InputError, match="wider_resnet38 has no published weights that can be fet"):
        model.load_pretrained()

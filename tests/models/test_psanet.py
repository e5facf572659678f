"""PSANet: weights by offset become weights by place, pixels collect and distribute."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.encoders.resnet_deep import DeepResNet
from semseg.models import create_model
from semseg.models.context.psanet import PointwiseAttention, by_place
from tests.models import support

SMALL = {"encoder": "test_resnet", "num_classes": 5, "mask": 9}


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "mask", "predicting"),
    # counted from the authors' code, which has no auxiliary head in prediction
    [
        ("psanet_resnet50", 150, 59, 50_875_478),
        ("psanet_resnet101", 21, 59, 69_801_429),
        ("psanet_resnet101", 19, 89, 74_346_963),
    ],
)
def test_counts_of_the_authors_networks(
    name: str, classes: int, mask: int, predicting: int
) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=classes, mask=mask)
    assert count(model) - count(model.aux) == predicting
    assert isinstance(model.encoder, DeepResNet)
    assert count(model.attention) == (
        2 * (2048 * 512 + 1024 + 512 * 512 + 1024 + 512 * mask**2) + 1024 * 2048 + 2 * 2048
    )


# ---- attention ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "mask"), [(2, 3, 5), (4, 3, 3), (5, 6, 5), (1, 1, 3)])
def test_weights_by_place_are_those_of_the_offset(height: int, width: int, mask: int) -> None:
    weights = support.noise(2 * mask**2 * height * width, 3).view(2, mask**2, height, width)
    got = by_place(weights, mask).view(2, height, width, height, width)
    for row in range(height):
        for column in range(width):
            for y in range(height):
                for x in range(width):
                    down, right = y - row + mask // 2, x - column + mask // 2
                    if 0 <= down < mask and 0 <= right < mask:
                        want = weights[:, down * mask + right, row, column]
                    else:
                        want = torch.zeros(2).double()
                    assert torch.equal(got[:, y, x, row, column], want)


def attention_to_the_right() -> PointwiseAttention:
    """Attention whose every pixel weighs the next one to the right alone; nothing else changes."""
    attention = PointwiseAttention(2, mask=9).double().eval()
    for branch in (attention.collect_weights, attention.distribute_weights):
        last = branch[-1]
        nn.init.zeros_(last.weight)
        nn.init.ones_(branch[0].weight)
        last.weight.data[4 * 9 + 5] = 1e3  # offset 0 down, 1 right
    for reduce in (attention.collect, attention.distribute):
        nn.init.ones_(reduce[0].weight)
    return attention


def test_collecting_takes_and_distributing_gives() -> None:
    attention = attention_to_the_right()
    x = torch.zeros(1, 2, 1, 9).double()
    x[0, 0, 0] = torch.tensor([1.0, 0, 2, 0, 3, 0, 4, 0, 5])
    with torch.inference_mode():
        seen = []
        hook = attention.project.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        assert attention(x).shape == x.shape
        hook.remove()
    (both,) = seen
    assert both.shape == (1, 1024, 1, 5), "every second pixel"
    scale = both[0, 0, 0, 0].item() / 2
    taken, given = both[0, 0, 0] / scale, both[0, 512, 0] / scale
    # whom nobody weighs receives from all alike; the last pixel has nobody to its right
    torch.testing.assert_close(taken, torch.tensor([2.0, 3, 4, 5, 3]).double())
    torch.testing.assert_close(given, torch.tensor([3.0, 1, 2, 3, 4]).double())


def test_a_megapixel_is_predicted_in_bounded_memory() -> None:
    attention = support.fill(PointwiseAttention(4, mask=3))
    with torch.inference_mode():  # 4,225 pixels: maps of 71 MB
        assert attention(support.image(1, 4, 129, 129)).isfinite().all()


# ---- network -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "scores"), [((65, 97), (9, 13)), ((50, 80), (9, 11))])
def test_scores_stand_on_every_eighth_pixel(size: tuple[int, int], scores: tuple[int, int]) -> None:
    model = support.fill(create_model("psanet_resnet50", **SMALL))
    images = support.image(1, 3, *size)
    with torch.inference_mode():
        heads = model.forward_heads(images)
        assert heads["logits"].shape == heads["aux"].shape == (1, 5, *scores)
        dense = model(images)[..., ::8, ::8]
    torch.testing.assert_close(dense, heads["logits"][..., : dense.shape[-2], : dense.shape[-1]])


def test_heads_and_their_weights() -> None:
    model = create_model("psanet_resnet50", **SMALL)
    images = support.image(2, 3, 40, 48)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    terms = model.loss(heads, target, support.criterion)
    full = model.enlarge(heads["aux"], (40, 48))
    torch.testing.assert_close(terms["aux"], 0.4 * support.criterion(full, target))
    assert terms.keys() == {"logits", "aux"}
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.1, 0.1]


def test_refusals() -> None:
    wanted = (
        "PSANet takes an odd mask of at least 3, got 60; of a crop of 16a + 1 pixels 2a + 1 "
        "reaches everywhere"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        create_model("psanet_resnet50", mask=60)
    model = create_model("psanet_resnet50", **SMALL).train()
    with pytest.raises(InputError, match="PSANet cannot train on one image of this size"):
        model(support.image(1, 3, 1, 1))
    assert model(support.image(1, 3, 2, 2)).isfinite().all()
    wanted = (
        "PSANet needs a trunk with a feature on every eighth pixel, the image's corners included; "
        "this one gives (8, 12) for (65, 97). Choose a ResNet"
    )
    model = create_model("psanet_resnet50", num_classes=5, encoder="test_convnext")
    with pytest.raises(InputError, match=re.escape(wanted)):
        model.eval()(support.image(1, 3, 65, 97))
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("psanet_resnet50", encoder="densenet121")

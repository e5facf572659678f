"""CCNet: attention along row and column, and its two rounds."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.encoders.resnet_deep import DeepResNet
from semseg.models import create_model
from semseg.models.context.ccnet import CCNet, CrissCrossAttention
from tests.models import support


def small(**settings: int) -> CCNet:
    model = create_model("ccnet", **({"encoder": "test_resnet", "num_classes": 5} | settings))
    assert isinstance(model, CCNet)
    return support.fill(model)


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_counts_by_hand() -> None:
    with torch.device("meta"):
        model = create_model("ccnet")
    assert count(model) - count(model.aux) == 66_558_036
    assert count(model.aux) == 9 * 1024 * 512 + 512 + 2 * 512 + 513 * 19 == 4_729_875
    assert count(model.attention) == 2 * (512 * 64 + 64) + 513 * 512 + 1
    assert count(model.head) == 9 * 2560 * 512 + 2 * 512 + 513 * 19
    assert isinstance(model.encoder, DeepResNet)
    assert model.encoder.strides == (2, 4, 8, 8, 8)


def test_a_pixel_sees_its_row_and_column_and_itself_once() -> None:
    attention = support.fill(CrissCrossAttention(6, 4)).double()
    nn.init.constant_(attention.gamma, 0.7)
    x = 3 * support.image(2, 6, 3, 5).double()
    got = attention(x)
    query, key, value = attention.query(x), attention.key(x), attention.value(x)
    for n in range(2):
        for row in range(3):
            for column in range(5):
                seen = [(y, column) for y in range(3) if y != row]
                seen += [(row, x) for x in range(5)]
                keys = torch.stack([key[n, :, y, x] for y, x in seen])
                values = torch.stack([value[n, :, y, x] for y, x in seen])
                share = (keys @ query[n, :, row, column]).softmax(0)  # without a scale
                want = 0.7 * share @ values + x[n, :, row, column]
                torch.testing.assert_close(got[n, :, row, column], want)


def test_attention_starts_at_nothing() -> None:
    x = support.image(1, 16, 4, 5)
    assert torch.equal(CrissCrossAttention(16, 2)(x), x)


@pytest.mark.parametrize(("recurrence", "reached"), [(1, 4 + 6 - 1), (2, 4 * 6)])
def test_two_rounds_reach_every_pixel(recurrence: int, reached: int) -> None:
    attention = support.fill(CrissCrossAttention(6, 4)).double()
    x = support.image(1, 6, 4, 6).double().requires_grad_()
    out = x
    for _ in range(recurrence):
        out = attention(out)
    out[..., 1, 2].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum(1).gt(0).sum() == reached


def test_the_rounds_share_their_weights() -> None:
    one, two = small(recurrence=1), small()
    assert one.state_dict().keys() == two.state_dict().keys()
    calls = []
    two.attention.register_forward_hook(lambda *_: calls.append(1))
    images = support.image(1, 3, 64, 64)
    assert not torch.allclose(one(images), two(images))
    assert len(calls) == 2


def test_a_megapixel_is_no_burden() -> None:
    attention = support.fill(CrissCrossAttention(16, 4))
    with torch.inference_mode():
        assert attention(support.image(1, 16, 129, 129)).isfinite().all()


def test_scores_stand_at_stride_8_with_one_pixel_more() -> None:
    model = small()
    images = support.image(2, 3, 64, 96)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    assert heads["logits"].shape == heads["aux"].shape == (2, 5, 9, 13)
    terms = model.loss(heads, target, support.criterion)
    full = F.interpolate(heads["aux"], (64, 96), mode="bilinear", align_corners=True)
    torch.testing.assert_close(terms["aux"], 0.4 * support.criterion(full, target))
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.1, 0.1]
    slopes = [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.01] * 4


def test_refusals() -> None:
    with pytest.raises(InputError, match="CCNet takes a recurrence of at least 1, got 0"):
        create_model("ccnet", recurrence=0)
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("ccnet", encoder="densenet121")
    wanted = (
        "CCNet cannot train on one image of this size: its deepest features are a single pixel, "
        "which batch normalisation turns into zeros; take two images or larger ones"
    )
    model = create_model("ccnet", encoder="test_resnet").train()
    with pytest.raises(InputError, match=re.escape(wanted)):
        model(support.image(1, 3, 8, 8))
    assert model(support.image(2, 3, 16, 16)).isfinite().all()

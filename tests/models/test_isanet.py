"""ISANet: which pixels attend to each other in the two steps."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.isanet import InterlacedAttention, ISANet, SelfAttention
from tests.models import support


def small(**settings: object) -> ISANet:
    model = create_model("isanet", **({"encoder": "test_resnet", "num_classes": 5} | settings))
    assert isinstance(model, ISANet)
    return support.fill(model)


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def test_counts_of_the_authors_network() -> None:
    with torch.device("meta"):
        model = create_model("isanet")
    assert count(model) == 59_167_718
    assert count(model.aux) == 9 * 1024 * 512 + 2 * 512 + 513 * 19 == 4_729_363
    keys = 512 * 256 + 256 * 256 + 4 * 256
    assert count(model.attention) == 2 * (2 * keys + 2 * 512 * 512 + 2 * 512)


def test_attention_by_hand() -> None:
    attention = support.fill(SelfAttention(8, 4)).double()
    x = 0.3 * support.image(2, 8, 3, 5).double()
    got = attention(x)
    for n in range(2):
        query, key, value = (
            conv(x)[n].flatten(1) for conv in (attention.query, attention.key, attention.value)
        )
        share = (query.T @ key / 4**0.5).softmax(dim=1)
        want = attention.out((value @ share.T).view(1, 8, 3, 5))[0]
        torch.testing.assert_close(got[n], want)


def interlaced(partition: int) -> InterlacedAttention:
    """Attention without ReLU, which would hide from the gradient what it silences."""
    attention = support.fill(InterlacedAttention(4, 2, partition)).double()
    for part in list(attention.modules()):
        if isinstance(part, nn.Sequential) and isinstance(part[-1], nn.ReLU):
            part[-1] = nn.Identity()
    return attention


def pixels_seen(size: tuple[int, int], partition: int, place: tuple[int, int], step: str) -> set:
    """Pixels on which the output at ``place`` depends when the other step does nothing."""
    attention = interlaced(partition)
    other = "near" if step == "far" else "far"
    setattr(attention, other, nn.Identity())
    x = (0.3 * support.image(1, 4, *size).double()).requires_grad_()
    attention(x)[0, :, place[0], place[1]].sum().backward()
    assert x.grad is not None
    return {tuple(p) for p in x.grad[0].abs().sum(dim=0).nonzero().tolist()}


@pytest.mark.parametrize(
    ("size", "place", "start"),
    [((9, 12), (4, 5), (1, 2)), ((8, 10), (0, 0), (0, 0)), ((7, 11), (6, 10), (0, 1))],
)
def test_the_first_step_sees_every_third_pixel(
    size: tuple[int, int], place: tuple[int, int], start: tuple[int, int]
) -> None:
    want = {(y, x) for y in range(start[0], size[0], 3) for x in range(start[1], size[1], 3)}
    assert pixels_seen(size, 3, place, "far") == want


def test_the_second_step_sees_a_region() -> None:
    want = {(y, x) for y in (3, 4, 5) for x in (6, 7, 8)}
    assert pixels_seen((9, 12), 3, (5, 6), "near") == want
    # 7 x 11 pixels get one row above and one below; of the one column more, none is on the left
    want = {(y, x) for y in (0, 1) for x in (9, 10)}
    assert pixels_seen((7, 11), 3, (1, 10), "near") == want


def test_both_steps_see_all_pixels() -> None:
    attention = interlaced(3)
    x = (0.3 * support.image(1, 4, 7, 8).double()).requires_grad_()
    attention(x)[0, :, 2, 3].sum().backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum(dim=0).ne(0).all()


def test_a_megapixel_is_no_burden() -> None:
    attention = support.fill(InterlacedAttention(16, 4, 8))
    with torch.inference_mode():
        assert attention(support.image(1, 16, 129, 129)).isfinite().all()


def test_scores_stand_at_stride_8_with_one_pixel_more() -> None:
    model = small(partition=4)
    images = support.image(2, 3, 64, 96)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    assert heads["logits"].shape == heads["aux"].shape == (2, 5, 9, 13)
    terms = model.loss(heads, target, support.criterion)
    full = F.interpolate(heads["aux"], (64, 96), mode="bilinear", align_corners=True)
    torch.testing.assert_close(terms["aux"], 0.4 * support.criterion(full, target))
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.05, 0.05]


def test_refusals() -> None:
    with pytest.raises(InputError, match="ISANet takes a partition of at least 1, got 0"):
        create_model("isanet", partition=0)
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("isanet", encoder="densenet121")
    wanted = (
        "ISANet cannot train on one image of this size: its deepest features are a single pixel, "
        "which batch normalisation turns into zeros; take two images or larger ones"
    )
    model = small().train()
    with pytest.raises(InputError, match=re.escape(wanted)):
        model(support.image(1, 3, 8, 8))
    assert model(support.image(2, 3, 16, 16)).isfinite().all()

"""STDC-Seg: BiSeNet's decoder on one trunk, and the loss on borders."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.realtime.stdc import STDCSeg, borders, detail_loss
from tests.models import support


@pytest.fixture
def small() -> STDCSeg:
    return create_model("stdc1", num_classes=5, encoder="test_resnet")


@pytest.mark.parametrize(("name", "trunk"), [("stdc1", 5_318_304), ("stdc2", 9_348_768)])
def test_count_of_the_parts(name: str, trunk: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    got = {k: sum(p.numel() for p in part.parameters()) for k, part in model.named_children()}
    assert got == {
        "encoder": trunk,
        "context": 606_720 + 1_196_544 + 2 * 147_712 + 131_328,
        "fusion": 131_584,
        "head": 595_200,
        "aux16": 75_072,
        "aux8": 75_072,
        "detail": 147_648,
    }
    assert not [
        k for k, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None
    ]


def test_heads_at_any_size(small: STDCSeg) -> None:
    heads = small.eval().forward_heads(support.image(2, 3, 72, 104))
    assert {k: tuple(v.shape[1:]) for k, v in heads.items()} == {
        "logits": (5, 9, 13),
        "aux16": (5, 5, 7),
        "aux8": (5, 9, 13),
        "detail": (1, 9, 13),
    }


def test_details_come_from_the_trunk_alone(small: STDCSeg) -> None:
    heads = small.train().forward_heads(support.image(2, 3, 64, 64))
    heads["detail"].sum().backward()
    reached = {k.split(".")[0] for k, p in small.named_parameters() if p.grad is not None}
    assert reached == {"encoder", "detail"}


def test_initial_weights(small: STDCSeg) -> None:
    weight = small.head[0][0].weight
    assert weight.std().item() == pytest.approx((1 / (9 * 256)) ** 0.5, rel=0.02), "gain 1"


def test_borders_of_a_step() -> None:
    """Ids 1 and 3, the step between columns 5 and 6; the image ends at 8 x 12."""
    target = torch.ones(1, 8, 12).long()
    target[..., 6:] = 3
    want = torch.zeros(8, 12)
    want[:, 6] = 1  # the higher side of the step
    want[0], want[-1], want[:, 0], want[:, -1] = 1, 1, 1, 1  # zeros lie beyond
    want[1], want[:, 1] = 1, 1  # what stride 2 finds in row and column 0, and ...
    want[:, 7] = 1  # ... in column 6 fills two pixels
    want[7, 5] = 0  # its two neighbours of 3 outweigh the zeros beyond
    # row 7 and column 11 are odd: stride 2 does not look there, and row 6 stays clear; stride 4,
    # which would fill rows 0 to 3, counts only where another sees a border
    assert torch.equal(borders(target)[0, 0], want)


def test_background_and_flat_images_have_no_border() -> None:
    assert not borders(torch.zeros(2, 8, 8).long()).any()
    point = torch.zeros(1, 9, 9).long()
    point[0, 3, 5] = 1  # odd: strides 2 and 4 see it only as a neighbour
    assert borders(point).nonzero().tolist() == [[0, 0, 3, 5]]


def test_detail_loss_by_hand() -> None:
    truth = torch.zeros(2, 1, 2, 2)
    truth[0, 0, 0] = 1
    logits = torch.zeros(2, 1, 2, 2)  # probabilities 1/2
    dice = [1 - (2 * 1 + 1) / (2 + 2 + 1), 1 - 1 / (2 + 0 + 1)]
    want = math.log(2) + sum(dice) / 2
    assert detail_loss(logits, truth).item() == pytest.approx(want, rel=1e-6)


def test_the_loss_has_four_terms(small: STDCSeg) -> None:
    images = support.image(2, 3, 61, 90)
    target = support.target_for(images, 5)
    heads = small.train().forward_heads(small.pad(images))
    terms = small.loss(heads, target, support.criterion)
    assert list(terms) == ["logits", "aux16", "aux8", "detail"]
    full = small.full_size(heads["detail"], (61, 90))
    torch.testing.assert_close(terms["detail"], detail_loss(full, borders(target)))
    for name in ("logits", "aux16", "aux8"):
        want = support.criterion(small.full_size(heads[name], (61, 90)), target)
        torch.testing.assert_close(terms[name], want)


def test_refusals(small: STDCSeg) -> None:
    wanted = (
        "STDCSeg needs at least 2 images per step in training mode: the norm after its global "
        "pooling has one value per channel and image; use a batch size of 2 or more and drop an "
        "incomplete last batch"
    )
    with pytest.raises(InputError, match=wanted):
        small.train()(support.image(1, 3, 64, 64))
    with pytest.raises(InputError, match="the decoder needs a feature at stride 8"):
        create_model("stdc1", encoder="test_vit")

"""The label refinement network, by the paper's arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from tests.models import support


def test_six_maps_of_the_paper() -> None:
    with torch.device("meta"):
        model = create_model("lrn").eval()
        heads = model.forward_heads(torch.empty(1, 3, 360, 480))
    assert {name: tuple(logits.shape[1:]) for name, logits in heads.items()} == {
        "logits": (11, 360, 480),
        "map1": (11, 180, 240),
        "map2": (11, 90, 120),
        "map3": (11, 45, 60),
        "map4": (11, 23, 30),
        "map5": (11, 12, 15),
    }


def test_count_at_21_classes() -> None:
    with torch.device("meta"):
        model = create_model("lrn", num_classes=21)
    vgg = 14_714_688 + 2 * 4_224  # thirteen convolutions, a scale and a shift per channel
    coarsest = 9 * 512 * 21 + 21
    skips = 9 * (512 + 512 + 256 + 128 + 64) * 21 + 5 * (21 + 2 * 21)
    refinements = 5 * (9 * 42 * 21 + 21)
    assert vgg + coarsest + skips + refinements == 15_138_243
    assert sum(p.numel() for p in model.parameters()) == 15_138_243


def test_a_refinement_reads_skip_and_coarse_map() -> None:
    model = support.fill(create_model("lrn", width=4, num_classes=3))
    refinement = model.refinements[0]
    conv, norm, relu = refinement.skip
    assert (conv.stride, conv.out_channels, type(relu)) == ((1, 1), 3, nn.ReLU)
    coarse, features = support.image(1, 3, 4, 5), support.image(1, 32, 7, 10)
    skip = F.relu(norm(conv(features)))
    large = F.interpolate(coarse, (7, 10), mode="bilinear", align_corners=False)
    want = refinement.refine(torch.cat([skip, large], 1))
    torch.testing.assert_close(refinement(coarse, features), want)


def test_every_map_learns_the_truth_at_its_own_size() -> None:
    model = create_model("lrn", width=4, num_classes=3)
    images = support.image(2, 3, 48, 70)
    target = support.target_for(images, 3)
    seen = {}

    def criterion(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        assert logits.shape[-2:] == truth.shape[-2:]
        seen[tuple(truth.shape[-2:])] = truth
        return logits.mean() * 0 + truth.shape[-1]

    terms = model.loss(model.forward_heads(images), target, criterion)
    widths = {"logits": 70, "map1": 35, "map2": 18, "map3": 9, "map4": 5, "map5": 3}
    assert {name: term.item() for name, term in terms.items()} == widths, "all weigh 1"
    assert torch.equal(seen[48, 70], target)
    # the pixel in the middle of each cell, ignored pixels too
    assert torch.equal(seen[24, 35], target[:, 1::2, 1::2])
    assert all(truth.dtype == torch.int64 for truth in seen.values())


def test_training_on_one_pixel_is_refused() -> None:
    model = create_model("lrn", width=4).train()
    with pytest.raises(InputError, match="SegNet's encoder cannot train on one image of this size"):
        model(support.image(1, 3, 16, 16))
    assert model(support.image(1, 3, 16, 17)).shape[-2:] == (16, 17)

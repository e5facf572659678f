"""SegFormer: a head that fuses features at their own size, and its form for prediction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.transformer.segformer import MLPHead
from tests.models import support

CHANNELS = (4, 6, 8, 10)


def features() -> list[torch.Tensor]:
    """Four features of 32 x 64 pixels' sizes, each with other noise."""
    sizes = ((16, 24), (8, 12), (4, 6), (2, 3))
    noise = support.image(2, sum(CHANNELS), 16, 24).split(CHANNELS, dim=1)
    return [x[..., :h, :w].double() for x, (h, w) in zip(noise, sizes, strict=True)]


def head() -> MLPHead:
    return support.fill(MLPHead(CHANNELS, 12, 5)).double()


def concatenated(model: MLPHead, maps: list[torch.Tensor]) -> torch.Tensor:
    """Compute the head as the paper's figure has it."""
    projected = []
    for x, project in zip(maps, model.project, strict=True):
        y = project(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        projected.append(F.interpolate(y, (16, 24), mode="bilinear", align_corners=False))
    fused = model.fuse(torch.cat(projected[::-1], dim=1))  # the authors' order: coarsest first
    return model.classify(F.relu(model.norm(fused)))


@pytest.mark.parametrize("training", [False, True])
def test_the_head_equals_fusing_a_concatenation(training: bool) -> None:
    model = support.without_dropout(head()).train(training)
    want = concatenated(model, features())
    torch.testing.assert_close(model(features()), want, rtol=1e-10, atol=1e-10)


def test_the_merged_head_has_one_convolution_per_feature() -> None:
    model = head()
    merged = model.merged()
    assert [type(m) for m in merged.modules()].count(nn.Conv2d) == 5
    assert not any(isinstance(m, nn.BatchNorm2d | nn.Linear) for m in merged.modules())
    torch.testing.assert_close(merged(features()), model(features()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "width"), [("segformer_b1", 256), ("segformer_b5", 768)])
def test_count_of_the_head(name: str, width: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    project = (64 + 128 + 320 + 512) * width + 4 * width
    fuse, classify = 4 * width * width + 2 * width, width * 21 + 21
    assert sum(p.numel() for p in model.head.parameters()) == project + fuse + classify


def test_logits_are_at_a_quarter_of_the_size() -> None:
    model = create_model("segformer_b0", width=16).eval()
    with torch.no_grad():
        assert model.forward_heads(support.image(1, 3, 64, 96))["logits"].shape == (1, 21, 16, 24)


def test_dropout_leaves_out_whole_channels() -> None:
    assert isinstance(head().dropout, nn.Dropout2d)
    assert head().dropout.p == 0.1


def test_the_fusion_starts_as_the_toolbox_starts_it() -> None:
    model = create_model("segformer_b2", encoder="mit_b0")
    assert model.head.fuse.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.02)


def test_refusals() -> None:
    with pytest.raises(InputError, match="SegFormer needs width >= 1, got 0"):
        create_model("segformer_b0", width=0)
    with pytest.raises(InputError, match="the decoder needs a feature at stride 4"):
        create_model("segformer_b0", encoder="test_vit")

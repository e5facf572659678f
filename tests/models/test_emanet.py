"""EMANet: rounds of expectation and maximisation, their running mean, and the trunk's dilations."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.emanet import EMAttention
from tests.models import support

SMALL = {"encoder": "test_resnet", "num_classes": 5}


def attention(rounds: int = 3) -> EMAttention:
    return support.fill(EMAttention(6, 4, rounds)).double()


def by_hand(part: EMAttention, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return output and bases of one image ``(C, h, w)``, pixel by pixel as the paper has it."""
    pixels = part.before(image[None])[0].flatten(1).T
    bases = part.bases_mean[0].T.double()
    for _ in range(part.rounds):
        share = torch.stack([(bases @ pixel).softmax(dim=0) for pixel in pixels])
        means = [
            (share[:, k, None] * pixels).sum(dim=0) / (1e-6 + share[:, k].sum()) for k in range(4)
        ]
        bases = torch.stack([mean / (1e-6 + mean.norm()) for mean in means])
    rebuilt = (share @ bases).T.reshape(1, *image.shape).clamp(min=0)
    return (part.after(rebuilt) + image).clamp(min=0)[0], bases


def test_counts_by_hand() -> None:
    with torch.device("meta"):
        model = create_model("emanet")
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == 513 * 512 == 262_656
    head = sum(p.numel() for p in model.parameter_groups()["head"]) - frozen
    attended = 512 * 512 + 2 * 512
    assert head == 9 * 2048 * 512 + 1024 + attended + 9 * 512 * 256 + 512 + 257 * 21
    assert model.attention.bases_mean.shape == (1, 512, 64)


def test_the_last_stage_is_dilated_by_2_8_and_16() -> None:
    with torch.device("meta"):
        trunk = create_model("emanet").encoder.trunk
    rates = [[unit.conv2.dilation[0] for unit in stage] for stage in (trunk.layer3, trunk.layer4)]
    assert rates == [[1] + [2] * 22, [2, 8, 16]]
    assert [unit.conv2.padding[0] for unit in trunk.layer4] == [2, 8, 16]


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_by_hand(rounds: int) -> None:
    part = attention(rounds)
    x = support.image(2, 6, 3, 5).double()
    got = part(x)
    for image, out in zip(x, got, strict=True):
        torch.testing.assert_close(out, by_hand(part, image)[0])


def test_training_moves_the_running_mean_by_a_tenth() -> None:
    part = attention()
    x = support.image(2, 6, 3, 5).double()
    start = part.bases_mean.clone()
    part(x)
    assert torch.equal(part.bases_mean, start), "prediction leaves it as it is"
    mean = torch.stack([by_hand(part, image)[1].T for image in x]).mean(dim=0)
    part.train()(x)
    torch.testing.assert_close(part.bases_mean, 0.9 * start + 0.1 * mean)
    assert "bases_mean" in part.state_dict()


def test_bases_start_with_length_one() -> None:
    torch.manual_seed(0)
    part = EMAttention(512, 64, 3)
    torch.testing.assert_close(part.bases_mean.norm(dim=1), torch.ones(1, 64))
    for conv in (part.before, part.after[0]):
        assert conv.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)


def test_no_gradient_passes_the_rounds() -> None:
    part = attention().train()
    x = support.image(1, 6, 3, 5).double().requires_grad_()
    part(x).sum().backward()
    assert part.before.weight.grad is None
    assert part.after[0].weight.grad is not None
    # what remains is the way around: one for each pixel that is not silenced
    assert x.grad is not None
    assert set(x.grad.unique().tolist()) <= {0.0, 1.0}


def test_a_megapixel_needs_no_map_of_pixels_to_pixels() -> None:
    part = support.fill(EMAttention(16, 64, 3))
    with torch.inference_mode():
        assert part(support.image(1, 16, 128, 128)).isfinite().all()


def test_scores_stand_at_stride_8() -> None:
    model = support.fill(create_model("emanet", bases=8, **SMALL))
    heads = model.forward_heads(support.image(1, 3, 67, 90))
    assert heads.keys() == {"logits"}
    assert heads["logits"].shape == (1, 5, 9, 12)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.1]
    assert [type(layer) for layer in model.head[0]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


def test_refusals() -> None:
    with pytest.raises(InputError, match="EMANet takes at least one base and one round, got 0 and"):
        create_model("emanet", bases=0)
    with pytest.raises(InputError, match="at least one base and one round, got 64 and 0"):
        create_model("emanet", rounds=0)
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("emanet", encoder="densenet121")
    wanted = (
        "EMANet cannot train on one image of this size: its deepest features are a single pixel, "
        "which batch normalisation turns into zeros; take two images or larger ones"
    )
    model = create_model("emanet", **SMALL).train()
    with pytest.raises(InputError, match=re.escape(wanted)):
        model(support.image(1, 3, 8, 8))
    assert model(support.image(1, 3, 16, 8)).isfinite().all()

"""CGNet: the authors' counts, stages, blocks and initial values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model, model_entry
from semseg.models.realtime.cgnet import Block, Context, Gate, halving_block
from tests.models import support


@pytest.mark.parametrize(
    ("settings", "count"),
    [({}, 496_306), ({"num_classes": 11}, 494_258), ({"n": 15}, 423_682)],
)
def test_counts_of_the_authors_code(settings: dict[str, int], count: int) -> None:
    with torch.device("meta"):
        model = create_model("cgnet", **settings)
    assert sum(p.numel() for p in model.parameters()) == count


def test_shapes_of_the_stages_of_an_odd_image() -> None:
    model = create_model("cgnet", in_channels=4, num_classes=7, m=2, n=3).eval()
    seen = {}
    for name in ("stage1", "join1", "down2", "stage2", "join2", "down3", "stage3", "join3"):
        model.get_submodule(name).register_forward_hook(
            lambda _part, _args, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
    with torch.inference_mode():
        heads = model.forward_heads(support.image(1, 4, 61, 90))
        output = model(support.image(1, 4, 61, 90))
    half, quarter, eighth = (31, 45), (16, 23), (8, 12)
    assert seen == {
        "stage1": (32, *half),
        "join1": (36, *half),
        "down2": (64, *quarter),
        "stage2": (64, *quarter),
        "join2": (132, *quarter),
        "down3": (128, *eighth),
        "stage3": (128, *eighth),
        "join3": (256, *eighth),
    }
    assert heads["logits"].shape == (1, 7, *eighth)
    want = F.interpolate(heads["logits"], (61, 90), mode="bilinear", align_corners=False)
    torch.testing.assert_close(output, want)


def test_blocks_of_the_stages() -> None:
    model = create_model("cgnet")
    assert (len(model.stage2), len(model.stage3)) == (2, 20)
    for part, dilation, narrow in (
        (nn.ModuleList([model.down2, model.stage2]), 2, 8),
        (nn.ModuleList([model.down3, model.stage3]), 4, 8),
    ):
        contexts = [m for m in part.modules() if isinstance(m, Context)]
        gates = [m for m in part.modules() if isinstance(m, Gate)]
        assert len(contexts) == len(gates)
        assert {c.around.dilation[0] for c in contexts} == {dilation}
        assert {c.near.dilation[0] for c in contexts} == {1}
        assert {g.weights[0].out_features for g in gates} == {narrow}
        assert all(conv.groups == conv.in_channels for c in contexts for conv in (c.near, c.around))
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.bias is None for conv in convs)


def test_the_input_is_added_outside_the_gate() -> None:
    block = Block(16, dilation=2, reduction=8).eval()
    nn.init.zeros_(block.gate.weights[2].weight)
    nn.init.constant_(block.gate.weights[2].bias, -1e9)  # every weight is 0
    x = support.image(1, 16, 5, 6)
    with torch.no_grad():
        assert torch.equal(block(x), x)
        halved = halving_block(16, 8, dilation=2, reduction=8).eval()
        nn.init.constant_(halved[-1].weights[2].bias, -1e9)
        assert not halved(x).any(), "no residual where it halves"


def test_a_gate_weighs_channels_by_the_means_of_the_image() -> None:
    gate = Gate(8, reduction=8)
    with torch.no_grad():
        gate.weights[0].weight.fill_(1)
        gate.weights[0].bias.zero_()
        gate.weights[2].weight.copy_(torch.arange(8.0)[:, None])
        gate.weights[2].bias.zero_()
        x = torch.rand(2, 8, 3, 4)
        want = (
            x * torch.sigmoid(x.mean((2, 3)).sum(1)[:, None] * torch.arange(8.0))[..., None, None]
        )
        torch.testing.assert_close(gate(x), want)


def test_initial_values_are_hes() -> None:
    model = create_model("cgnet")
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            want = math.sqrt(2 / conv.weight[0].numel())
            error = 5 / math.sqrt(2 * conv.weight.numel())
            assert conv.weight.std().item() == pytest.approx(want, rel=error)
        if isinstance(conv, nn.Linear):
            assert conv.weight.abs().max().item() <= 1.001 / math.sqrt(conv.in_features)
            assert conv.bias.any()


def test_images_keep_their_range() -> None:
    rule = model_entry("cgnet").preprocessing
    image = torch.full((3, 1, 1), 200, dtype=torch.uint8)
    want = [200 - 73.158, 200 - 82.909, 200 - 72.392]
    assert rule(image).flatten().tolist() == pytest.approx(want, rel=1e-4)


def test_refusals() -> None:
    wanted = (
        r"^CGNet needs m and n of at least 2, got 1 and 21; a stage joins its first block with its "
        r"last$"
    )
    with pytest.raises(InputError, match=wanted):
        create_model("cgnet", m=1)
    model = create_model("cgnet", m=2, n=2).train()
    with pytest.raises(InputError, match="CGNet cannot train on one image of this size"):
        model(torch.rand(1, 3, 8, 5))
    assert model(torch.rand(1, 3, 8, 9)).isfinite().all()

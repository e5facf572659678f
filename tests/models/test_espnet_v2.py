"""ESPNetv2: the authors' counts and widths, units, decoder and loss."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.realtime.espnet_v2 import EESP, Down, Pyramid
from tests.models import support


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("scale", "authors", "widths"),
    [
        (0.5, 99_222, (16, 32, 64, 128)),
        (1.0, 340_474, (32, 64, 128, 256)),
        (1.25, 514_682, (32, 80, 160, 320)),
        (1.5, 724_762, (32, 96, 192, 384)),
        (2.0, 1_252_538, (32, 128, 256, 512)),
    ],
)
def test_counts_and_widths_of_the_authors_code(
    scale: float, authors: int, widths: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model = create_model("espnet_v2", scale=scale)
    assert model.encoder.out_channels == widths
    unused = sum(m.pyramid.expand[2].out_channels for m in model.modules() if isinstance(m, Down))
    assert count(model) == authors - unused, "all but the activations that nothing uses"


def test_readme_rounds_the_count_of_twenty_classes() -> None:
    with torch.device("meta"):
        assert round(count(create_model("espnet_v2", num_classes=20)) / 1e3) == 725
        assert round(count(create_model("espnet_v2", num_classes=20, scale=0.5)) / 1e3) == 99


def test_shapes_of_the_parts() -> None:
    model = create_model("espnet_v2", in_channels=4, num_classes=7).eval()
    seen = {}
    for name in ("project4", "context.0", "context.1", "norm_act3", "merge2"):
        model.get_submodule(name).register_forward_hook(
            lambda _part, _args, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
    images = support.image(1, 4, 64, 96)
    with torch.inference_mode():
        features = model.encoder(images)
        heads = model.forward_heads(images)
    assert [tuple(f.shape[1:]) for f in features] == [
        (32, 32, 48), (96, 16, 24), (192, 8, 12), (384, 4, 6)
    ]  # fmt: skip
    assert seen == {
        "project4": (192, 4, 6),
        "context.0": (192, 8, 12),
        "context.1": (192, 8, 12),
        "norm_act3": (7, 8, 12),
        "merge2": (7, 16, 24),
    }
    assert heads["logits"].shape == (1, 7, 32, 48)
    assert heads["aux"].shape == (1, 7, 8, 12)


def test_dilations_by_level() -> None:
    encoder = create_model("espnet_v2").encoder

    def dilations(part: nn.Module) -> set[tuple[int, ...]]:
        pyramids = [m for m in part.modules() if isinstance(m, Pyramid)]
        return {tuple(branch.dilation[0] for branch in p.branches) for p in pyramids}

    fine = nn.ModuleList([encoder.down2, encoder.down3, encoder.level3, encoder.down4])
    assert dilations(fine) == {(1, 2, 3, 4)}
    assert dilations(encoder.level4) == {(1, 1, 2, 3)}
    assert dilations(create_model("espnet_v2").context) == {(1, 1, 2, 3)}
    assert (len(encoder.level3), len(encoder.level4)) == (3, 7)


def test_all_branches_are_summed_one_after_the_other() -> None:
    pyramid = Pyramid(16, 16, (1, 1, 2, 3)).eval()
    met = []
    pyramid.expand.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    with torch.no_grad():
        for power, branch in enumerate(pyramid.branches):
            branch.weight.zero_()
            branch.weight[..., 1, 1] = 10**power
        x = support.image(1, 16, 5, 6)
        pyramid(x)
        narrow = pyramid.reduce(x)
    want = torch.cat([narrow * factor for factor in (1, 11, 111, 1111)], dim=1)
    torch.testing.assert_close(met[0], want)


def test_a_unit_is_residual_where_it_keeps_its_channels() -> None:
    unit = EESP(32, 32, (1, 2, 3, 4)).eval()
    nn.init.zeros_(unit.pyramid.expand[-1].weight)
    x = support.image(1, 32, 4, 5)
    with torch.no_grad():
        assert torch.equal(unit(x), F.prelu(x, torch.tensor(0.25)))
    model = create_model("espnet_v2", scale=0.5)
    assert not model.context[0].residual
    assert all(unit.residual for unit in [*model.encoder.level3, *model.encoder.level4])


def test_a_halving_unit_averages_and_takes_the_image() -> None:
    unit = Down(16, 32, 3).eval()
    nn.init.zeros_(unit.pyramid.expand[-1].weight)
    nn.init.zeros_(unit.reinforce[-1].weight)
    nn.init.ones_(unit.reinforce[-1].bias)
    x = support.image(1, 16, 6, 8)
    with torch.no_grad():
        out = unit(x, torch.rand(1, 3, 3, 4))
    averages = F.avg_pool2d(x, 3, 2, 1)
    torch.testing.assert_close(out[:, :16], F.prelu(averages + 1, torch.tensor(0.25)))
    assert out[:, 16:].eq(1).all()


def test_constants_of_the_authors_code() -> None:
    model = create_model("espnet_v2")
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Conv2d))
    assert model.dropout.p == 0.2
    assert create_model("espnet_v2", scale=0.5).dropout.p == 0.1


def test_channels_are_dropped_before_both_scores() -> None:
    model = create_model("espnet_v2", num_classes=3, scale=0.5).eval()
    dropped, scored = [], []
    model.dropout.register_forward_hook(lambda *args: dropped.append(args[-1]))
    for conv in (model.score3, model.merge1):
        conv.register_forward_pre_hook(lambda _, inputs: scored.append(inputs[0]))
    with torch.inference_mode():
        model(torch.rand(1, 3, 32, 48))
    assert len(dropped) == 2
    assert all(a is b for a, b in zip(dropped, scored, strict=True))


def test_initial_values_are_the_authors() -> None:
    """The trunk's are He's by outgoing connections, all others PyTorch's own."""
    model = create_model("espnet_v2")
    trunk = {id(m) for m in model.encoder.modules()}
    for conv in model.modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        if id(conv) in trunk:
            want = math.sqrt(2 / (conv.out_channels * math.prod(conv.kernel_size)))
            error = 5 / math.sqrt(2 * conv.weight.numel())
            assert conv.weight.std().item() == pytest.approx(want, rel=error)
        else:
            assert conv.weight.abs().max().item() <= 1.001 / math.sqrt(conv.weight[0].numel())


def test_coarse_scores_are_doubled_three_times_for_the_loss() -> None:
    model = create_model("espnet_v2", num_classes=3, scale=0.5)
    target = torch.randint(3, (1, 61, 90))
    heads = {"logits": support.image(1, 3, 32, 48), "aux": support.image(1, 3, 8, 12)}
    terms = model.loss(heads, target, F.cross_entropy)
    scores = heads["aux"]
    for _ in range(3):
        scores = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=True)
    want = F.cross_entropy(scores[..., :61, :90], target)
    torch.testing.assert_close(terms["aux"], want)
    at_once = model.full_size(heads["aux"], (61, 90))
    assert not torch.isclose(want, F.cross_entropy(at_once, target), rtol=1e-3)
    full = F.interpolate(heads["logits"], (64, 96), mode="bilinear", align_corners=True)
    torch.testing.assert_close(terms["logits"], F.cross_entropy(full[..., :61, :90], target))


def test_refusals() -> None:
    wanted = (
        "ESPNetv2 takes a scale of 0.5, 1.0 or a larger multiple of 0.25, got 0.75; other widths "
        "do not divide into its groups"
    )
    with pytest.raises(InputError, match=f"^{re.escape(wanted)}$"):
        create_model("espnet_v2", scale=0.75)
    for scale in (1.75, 3.0):
        with torch.device("meta"):
            create_model("espnet_v2", scale=scale)
    model = create_model("espnet_v2", num_classes=5, scale=0.5).train()
    with pytest.raises(InputError, match="ESPNetV2 cannot train on one image of this size"):
        model(torch.rand(1, 3, 16, 5))
    assert model(torch.rand(1, 3, 16, 17)).isfinite().all()

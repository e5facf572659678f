"""DABNet: depth-wise bottlenecks of two branches, and the image at every size."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model, model_entry
from semseg.models.realtime.dabnet import DABModule, Down, average
from tests.models import support


@pytest.mark.parametrize(("classes", "count"), [(19, 756_643), (11, 754_571)])
def test_counts_of_the_authors_code(classes: int, count: int) -> None:
    with torch.device("meta"):
        model = create_model("dabnet", num_classes=classes)
    assert sum(p.numel() for p in model.parameters()) == count


def test_sizes_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("dabnet", num_classes=7).eval()
        images = torch.empty(1, 3, 512, 1024)
    seen = {}
    for name, part in model.named_children():
        part.register_forward_hook(
            lambda _part, _args, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
    assert model(images).shape == (1, 7, 512, 1024)
    assert seen == {
        "initial": (32, 256, 512),
        "norm_act1": (35, 256, 512),
        "down1": (64, 128, 256),
        "block1": (64, 128, 256),
        "norm_act2": (131, 128, 256),
        "down2": (128, 64, 128),
        "block2": (128, 64, 128),
        "norm_act3": (259, 64, 128),
        "classifier": (7, 64, 128),
    }


def test_branches_are_depthwise_and_one_is_dilated() -> None:
    model = create_model("dabnet")
    found = []
    for module in (*model.block1, *model.block2):
        near, far = (
            [m for m in branch if isinstance(m, nn.Conv2d)] for branch in (module.near, module.far)
        )
        for convs in (near, far):
            assert [conv.kernel_size for conv in convs] == [(3, 1), (1, 3)]
            assert all(conv.groups == conv.in_channels == conv.out_channels for conv in convs)
        assert [conv.dilation for conv in near] == [(1, 1), (1, 1)]
        (d, one), (same, e) = (conv.dilation for conv in far)
        assert (one, same, e) == (1, 1, d)
        found.append(d)
    assert found == [2, 2, 2, 4, 4, 8, 8, 16, 16]


def test_constants_of_the_authors_code() -> None:
    model = create_model("dabnet")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    acts = [m for m in model.modules() if isinstance(m, nn.PReLU)]
    assert {m.eps for m in norms} == {1e-3}
    # every norm is followed by an activation with a slope per channel
    assert [m.num_features for m in norms] == [m.num_parameters for m in acts]
    assert not [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]


def test_a_module_adds_to_its_input_without_an_activation() -> None:
    module = support.fill(DABModule(8, dilation=4))
    nn.init.zeros_(module.expand[-1].weight)
    x = support.image(1, 8, 5, 6)
    assert torch.equal(module(x), x)


def test_branches_meet_in_a_sum() -> None:
    module = support.fill(DABModule(8, dilation=2))
    x = support.image(1, 8, 9, 10)
    with torch.no_grad():
        narrow = module.reduce(x)
        want = module.expand(module.near(narrow) + module.far(narrow)) + x
        torch.testing.assert_close(module(x), want)
        silent = module.near[-2:]  # its norm and slope: with both zero, only the far branch is left
        nn.init.zeros_(silent[0].weight)
        nn.init.zeros_(silent[0].bias)
        torch.testing.assert_close(module(x), module.expand(module.far(narrow)) + x)


def test_halving_pools_only_where_it_widens() -> None:
    assert Down(35, 64).conv.out_channels == 29
    assert Down(131, 128).conv.out_channels == 128
    wider = Down(3, 5).eval()
    x = support.image(1, 3, 8, 10).abs()
    with torch.no_grad():
        out = wider(x)[:, 2:] * math.sqrt(1 + 1e-3)  # the norm's constant
    torch.testing.assert_close(out, F.max_pool2d(x, 2))


def test_the_image_is_averaged_with_zeros_around() -> None:
    ones = torch.ones(1, 2, 6, 7)
    small = average(ones)
    assert small.shape == (1, 2, 3, 4)
    corner, edge, inside = small[0, 0, 0, 0], small[0, 0, 0, 1], small[0, 0, 1, 1]
    torch.testing.assert_close(torch.stack([corner, edge, inside]), torch.tensor([4, 6, 9]) / 9)


def test_the_smaller_image_comes_last_before_each_norm() -> None:
    model = support.fill(create_model("dabnet", in_channels=2))
    images = support.image(1, 2, 64, 96)
    given = {}
    for name in ("norm_act1", "norm_act2", "norm_act3"):
        getattr(model, name).register_forward_pre_hook(
            lambda _part, args, name=name: given.update({name: args[0][:, -2:]})
        )
    with torch.no_grad():
        model(images)
    want = images
    for name in sorted(given):
        want = average(want)
        torch.testing.assert_close(given[name], want)


def test_a_size_divisible_by_four_is_not_padded() -> None:
    model = support.fill(create_model("dabnet", num_classes=2))
    images = support.image(1, 3, 36, 52)
    assert model.pad(images).shape == images.shape
    with torch.no_grad():
        logits = model.forward_heads(images)["logits"]
        assert logits.shape == (1, 2, 5, 7)
        want = F.interpolate(logits, (36, 52), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(images), want)


def test_initial_values_are_hes() -> None:
    torch.manual_seed(0)
    model = create_model("dabnet")
    inner, column = model.block2[0].reduce[2], model.block2[0].near[0]
    assert inner.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    assert column.weight.std().item() == pytest.approx(math.sqrt(2 / 3), rel=0.15)


def test_images_are_bytes_less_the_mean_of_cityscapes() -> None:
    rule = model_entry("dabnet").preprocessing
    grey = torch.full((3, 1, 1), 100, dtype=torch.uint8)
    # the authors' numbers are in the order blue, green, red
    want = torch.tensor([100 - 73.15833, 100 - 82.90902, 100 - 72.3924])
    torch.testing.assert_close(rule(grey).flatten(), want)


def test_one_small_image_cannot_be_trained_on() -> None:
    model = create_model("dabnet", num_classes=2).train()
    with pytest.raises(InputError, match="DABNet cannot train on one image of this size"):
        model(torch.rand(1, 3, 8, 5))
    assert model(torch.rand(1, 3, 8, 9)).isfinite().all()

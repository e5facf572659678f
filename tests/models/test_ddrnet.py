"""DDRNet: two branches, their exchanges and the pyramid whose levels build on one another."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.realtime.ddrnet import DAPPM, bottleneck, stage
from tests.models import support

SMALL = {"width": 8, "pyramid_width": 8, "head_width": 8, "num_classes": 5}


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize(
    ("name", "predicting"), [("ddrnet_23_slim", 5_695_987), ("ddrnet_23", 20_148_947)]
)
def test_counts_of_the_authors_networks(name: str, predicting: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert count(model) - count(model.aux) == predicting


def test_shapes_of_the_branches() -> None:
    with torch.device("meta"):
        model = create_model("ddrnet_23_slim").eval()
        images = torch.empty(1, 3, 1024, 2048)
    seen = {}
    for name, part in model.named_children():
        part.register_forward_hook(
            lambda _part, _args, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
    model.forward_heads(images)
    assert seen == {
        "stem": (32, 256, 512),
        "stage1": (32, 256, 512),
        "stage2": (64, 128, 256),
        "fine3": (64, 128, 256),
        "deep3": (128, 64, 128),
        "up3": (64, 64, 128),
        "down3": (128, 64, 128),
        "fine4": (64, 128, 256),
        "deep4": (256, 32, 64),
        "up4": (64, 32, 64),
        "down4": (256, 32, 64),
        "fine5": (128, 128, 256),
        "deep5": (512, 16, 32),
        "pyramid": (128, 16, 32),
        "head": (19, 128, 256),
        "aux": (19, 128, 256),
    }


def test_the_last_block_of_a_stage_and_bottlenecks_are_not_rectified() -> None:
    first, last = stage(4, 8, blocks=2, stride=2)
    assert (first.relu, last.relu, bottleneck(4, 4).relu) == (True, False, False)
    assert isinstance(last.skip, nn.Identity)
    assert [part.stride[0] for part in first.modules() if isinstance(part, nn.Conv2d)] == [2, 1, 2]


def test_each_branch_takes_the_others_stage_before_its_own_sum() -> None:
    model = support.fill(create_model("ddrnet_23_slim", **SMALL)).double()
    images = support.image(1, 3, 64, 128).double()
    met: dict[str, torch.Tensor] = {}
    for name in ("fine3", "deep3", "up3", "down3"):
        part = model.get_submodule(name)
        part.register_forward_hook(lambda _p, _a, out, name=name: met.update({name: out.clone()}))
    for name in ("fine4", "deep4", "up3", "down3", "aux"):
        part = model.get_submodule(name)
        part.register_forward_pre_hook(
            lambda _p, args, name=name: met.update({f"to {name}": args[0].clone()})
        )
    with torch.inference_mode():
        model.forward_heads(images)
    assert torch.equal(met["to up3"], F.relu(met["deep3"]))
    assert torch.equal(met["to down3"], F.relu(met["fine3"]))
    up = F.interpolate(met["up3"], (8, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(met["to aux"], met["fine3"] + up)  # the head has its own norm
    torch.testing.assert_close(met["to fine4"], F.relu(met["fine3"] + up))
    torch.testing.assert_close(met["to deep4"], F.relu(met["deep3"] + met["down3"]))


# ---- pyramid -----------------------------------------------------------------------------------


def test_levels_average_and_build_on_finer_ones() -> None:
    pyramid = DAPPM(1, 1, 1).double().eval()
    for part in pyramid.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.zeros_(part.weight)
            part.weight.data[..., part.kernel_size[0] // 2, part.kernel_size[1] // 2] = 1
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
    x = support.image(1, 1, 16, 32).double().abs()  # ReLUs change nothing
    levels = [x]
    for kernel, step in ((5, 2), (9, 4), (17, 8)):
        average = F.avg_pool2d(x, kernel, step, kernel // 2)
        levels.append(levels[-1] + F.interpolate(average, x.shape[-2:], mode="bilinear"))
    levels.append(levels[-1] + x.mean())
    with torch.no_grad():
        torch.testing.assert_close(pyramid(x), sum(levels) + x)


def test_one_image_in_training_is_refused_with_the_reason() -> None:
    message = (
        "DDRNet needs at least 2 images per step in training mode: its average of the whole image "
        "is one value per channel and image, which batch normalisation turns into zero; use a "
        "batch size of 2 or more and drop an incomplete last batch"
    )
    model = create_model("ddrnet_23_slim", **SMALL).train()
    with pytest.raises(InputError, match=re.escape(message)):
        model(support.image(1, 3, 64, 64))
    assert model(support.image(2, 3, 64, 64)).isfinite().all()
    model.pyramid.eval()  # frozen norms have nothing to average
    assert model(support.image(1, 3, 64, 96)).isfinite().all()


# ---- training ----------------------------------------------------------------------------------


def test_the_auxiliary_head_weighs_0_4() -> None:
    model = support.fill(create_model("ddrnet_23_slim", **SMALL))
    images = support.image(2, 3, 60, 90)
    target = support.target_for(images, 5)
    heads = model.forward_heads(model.pad(images))
    terms = model.loss(heads, target, support.criterion)
    full = F.interpolate(heads["aux"], (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(terms["aux"], 0.4 * support.criterion(full[..., :60, :90], target))
    assert terms.keys() == {"logits", "aux"}


def test_kernels_start_by_their_outgoing_nodes() -> None:
    torch.manual_seed(0)
    model = create_model("ddrnet_23_slim")
    for conv in (model.stem[0], model.down3[0], model.fine5.branch[0], model.head[-1]):
        want = math.sqrt(2 / (conv.out_channels * math.prod(conv.kernel_size)))
        error = 5 / math.sqrt(2 * conv.weight.numel())
        assert conv.weight.std().item() == pytest.approx(want, rel=error)
    with_bias = [part for part in model.modules() if getattr(part, "bias", None) is not None]
    convs = [part for part in with_bias if isinstance(part, nn.Conv2d)]
    assert len(convs) == 4, "two of the stem, two classifiers"
    assert all(conv.bias.any() for conv in convs)

"""RefineNet: residual units, chained pooling, fusion with the coarser result, their cascade."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.encoder_decoder.refinenet import (
    ChainedPooling,
    RefineBlock,
    RefineNet,
    ResidualUnit,
)
from tests.models import support


def small(**settings: object) -> RefineNet:
    return create_model("refinenet", encoder="test_resnet", width=4, num_classes=5, **settings)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def let_through(conv: nn.Conv2d, factor: float = 1.0) -> None:
    """Make a convolution of equal channels multiply by ``factor``."""
    nn.init.dirac_(conv.weight)
    with torch.no_grad():
        conv.weight.mul_(factor)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


# ---- structure ---------------------------------------------------------------------------------


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("refinenet_resnet152")
    deep, fine = 512, 256

    def block(cin: int, c: int) -> int:
        units = 5 * (2 * 9 * c * c + c)  # two before, three after; one bias in each
        return 9 * cin * c + units + 4 * 9 * c * c

    fusion = 9 * fine * fine  # of each of two paths
    want = [
        block(2048, deep),
        block(1024, fine) + fusion + 9 * deep * fine,
        block(512, fine) + 2 * fusion,
        block(256, fine) + 2 * fusion,
    ]
    assert [count(b) for b in model.cascade.blocks] == want
    assert count(model.head) == 9 * fine * 21 + 21
    assert sum(want) + count(model.head) == 75_552_277
    assert count(model.encoder) == 60_192_808 - (2048 * 1000 + 1000)  # without classifier


def test_shapes_of_every_block() -> None:
    model = small().eval()
    shapes: list[tuple[int, ...]] = []
    for block in model.cascade.blocks:
        block.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    with torch.inference_mode():
        heads = model.forward_heads(support.image(2, 3, 70, 100))
    # 70 rows halve to 35, 18, 9, 5 and 3; 100 columns to 50, 25, 13, 7 and 4
    assert shapes == [(2, 8, 3, 4), (2, 4, 5, 7), (2, 4, 9, 13), (2, 4, 18, 25)]
    assert heads["logits"].shape == (2, 5, 18, 25)


def test_convolutions_with_bias() -> None:
    model = small()
    biased = [k for k, m in model.cascade.named_modules() if getattr(m, "bias", None) is not None]
    assert len(biased) == 4 * 5, "the first of each residual unit"
    assert all(re.search(r"(adapt|refine)\.\d\.conv1$", key) for key in biased)
    assert model.head.bias is not None
    assert not [m for m in model.cascade.modules() if isinstance(m, nn.BatchNorm2d)]


def test_dropout_of_the_two_deepest_features_and_before_the_classifier() -> None:
    model = support.fill(small())
    assert model.dropout.p == 0.5
    model.dropout.p = 1.0
    model.train()
    taken: dict[str, list[bool]] = {}

    def look(name: str):
        def hook(_: nn.Module, args: tuple) -> None:
            tensors = args[0] if isinstance(args[0], list) else [args[0]]
            taken[name] = [not t.any() for t in tensors]

        return hook

    model.cascade.register_forward_pre_hook(look("cascade"))
    model.head.register_forward_pre_hook(look("head"))
    model.forward_heads(support.image(2, 3, 64, 64))
    assert taken == {"cascade": [True, True, False, False], "head": [True]}


# ---- blocks ------------------------------------------------------------------------------------


def test_the_shortcut_of_a_residual_unit_keeps_negative_values() -> None:
    unit = ResidualUnit(3)
    let_through(unit.conv1, -1)
    let_through(unit.conv2)
    x = support.image(1, 3, 5, 6)
    torch.testing.assert_close(unit(x), x)  # the branch is ReLU(-ReLU(x)) = 0
    nn.init.ones_(unit.conv1.bias)
    torch.testing.assert_close(unit(x), x + F.relu(1 - F.relu(x)))


def test_a_chain_of_poolings_reaches_two_pixels_more_with_each() -> None:
    chain = ChainedPooling(1, kernel=3, pools=4)
    for conv in chain.convs:
        let_through(conv)
    point = torch.zeros(1, 1, 1, 21)
    point[..., 10] = 1
    got = chain(point)[0, 0, 0]
    side = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # poolings that see the point from there
    assert got.tolist() == [*side, 5, *reversed(side)]


@pytest.mark.parametrize("first", [False, True])
def test_order_of_pooling_and_convolution(first: bool) -> None:
    chain = ChainedPooling(2, kernel=3, pools=2, conv_first=first)
    for conv, factor in zip(chain.convs, (-1, -2), strict=True):
        let_through(conv, factor)
    x = support.image(1, 2, 9, 9)

    def most(t: Tensor) -> Tensor:
        return F.max_pool2d(t, 5, stride=1, padding=2)

    one = most(-x) if first else -most(x)
    two = most(-2 * one) if first else -2 * most(one)
    torch.testing.assert_close(chain(x), x + one + two)


def block_of_one_channel(units: tuple[int, int] = (0, 0)) -> RefineBlock:
    block = RefineBlock(1, 1, 1, ChainedPooling(1, kernel=3), units=units)
    for conv in (block.reduce, block.fuse, block.fuse_below):
        let_through(conv)
    for conv in block.pooling.convs:
        nn.init.zeros_(conv.weight)
    return block


def test_fusion_adds_the_coarser_result_with_aligned_corners() -> None:
    block = block_of_one_channel()
    nn.init.zeros_(block.reduce.weight)
    below = torch.tensor([[1.0, 4.0], [4.0, 7.0]])[None, None]
    want = torch.tensor([[1.0, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6], [4, 5, 6, 7]])
    torch.testing.assert_close(block(torch.zeros(1, 1, 4, 4), below)[0, 0], want)


def test_fused_features_are_rectified_once() -> None:
    block = block_of_one_channel()
    x, below = support.image(1, 1, 6, 8), -support.image(1, 1, 6, 8).flip(-1) / 2
    torch.testing.assert_close(block(x, below), F.relu(x + below))
    assert (x < 0).any()


def test_the_later_pooling_and_the_papers_length_are_settings() -> None:
    model = small(pools=2, conv_first=True)
    chains = [block.pooling for block in model.cascade.blocks]
    assert [len(chain.convs) for chain in chains] == [2, 2, 2, 2]
    assert all(chain.conv_first for chain in chains)
    assert not any(block.pooling.conv_first for block in small().cascade.blocks)


# ---- training ----------------------------------------------------------------------------------


def test_new_layers_start_small() -> None:
    model = create_model("refinenet", encoder="test_resnet", width=16)
    for part in (model.cascade, model.head):
        weights = torch.cat([p.flatten() for p in part.parameters() if p.dim() > 1])
        error = 5 / (2 * weights.numel()) ** 0.5  # five deviations of a sample's deviation
        assert weights.std().item() == pytest.approx(0.01, rel=error)
        assert not any(p.any() for p in part.parameters() if p.dim() == 1)


def test_frozen_statistics_allow_single_small_images() -> None:
    model = small(freeze_norm=True).train()
    assert model.training
    assert model.cascade.training
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    assert before
    model.forward_heads(support.image(1, 3, 20, 32))["logits"].sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if "running" in k)
    assert all(p.grad is not None for p in model.encoder.parameters()), "gains are trained"
    free = small().train()
    free.forward_heads(support.image(2, 3, 20, 32))
    assert free.encoder.trunk.bn1.running_mean.any()


@pytest.mark.parametrize("encoder", ["test_convnext", "mobilenetv3_small_050", "vgg16"])
def test_other_trunks_at_odd_sizes(encoder: str) -> None:
    model = create_model("refinenet", encoder=encoder, width=4, num_classes=3).eval()
    with torch.inference_mode():
        assert model(support.image(1, 3, 67, 91)).shape == (1, 3, 67, 91)


def test_refusals() -> None:
    with pytest.raises(InputError, match="RefineNet needs width >= 1, got 0"):
        create_model("refinenet", encoder="test_resnet", width=0)
    with pytest.raises(InputError, match="RefineNet needs pools >= 1, got -1"):
        small(pools=-1)
    with pytest.raises(InputError, match="RefineNet cannot train on one image of this size"):
        small().train()(support.image(1, 3, 20, 32))
    with pytest.raises(InputError, match="the decoder needs a feature at stride 32"):
        create_model("refinenet", encoder="test_vit")

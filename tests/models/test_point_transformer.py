"""What is special of Point Transformer."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.clouds import Clouds
from semseg.models import create_model
from semseg.models.points.point_transformer import Attention, PointTransformer, lowest
from semseg.nn.points import Scale
from tests.models.kinds import PointClouds
from tests.models.support import fill

SMALL = {"num_classes": 4, "width": 8, "blocks": (1, 1, 1, 1, 1)}


def model(**settings: object) -> PointTransformer:
    return fill(create_model("point_transformer", **(SMALL | settings))).double()


def permuted(clouds: Clouds, order: Tensor) -> Clouds:
    return Clouds(clouds.coordinates[order], clouds.features[order], clouds.offsets)


def test_shapes_of_every_stage() -> None:
    network, seen = model(width=16), {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _m, _i, output, name=name: seen.__setitem__(name, tuple(output.shape))
        )
    network(PointClouds.of_sizes([1027, 515], 3).double())
    counts = [1542, 256 + 128, 64 + 32, 16 + 8, 4 + 2]
    for i, count in enumerate(counts):
        shape = (count, 16 * 2**i)
        assert seen[f"attend_down.{i}.0"] == seen[f"attend_up.{i}"] == shape
        k = 8 if i == 0 else 16
        assert seen[f"attend_up.{i}.attention.position"] == (count, k, shape[1])
        assert seen[f"attend_up.{i}.attention.weight"] == (count, k, shape[1] // 8)
    assert seen["deepest"] == (6, 256)
    assert seen["head"] == (1542, 4)


def test_blocks_of_the_paper() -> None:
    with torch.device("meta"):
        network = create_model("point_transformer")
    assert [len(stage) for stage in network.attend_down] == [1, 2, 3, 5, 2]
    assert network.first[0].in_features == 6
    assert network.first[0].bias is None
    assert network.up[0].side[0].bias is not None


def test_attention_by_hand() -> None:
    layer = Attention(16).double().eval()
    x, seen = torch.randn(5, 16).double(), torch.randn(5, 3, 3).double()
    index = torch.tensor([[0, 1, 2], [1, 0, 4], [2, 3, 1], [3, 3, 3], [4, 1, 0]])
    got = layer(x, seen, index)
    for i in range(5):
        scores, values = [], []
        for j, where in zip(index[i], seen[i], strict=True):
            delta = layer.position(where[None])[0]
            relation = layer.key(x[j]) - layer.query(x[i]) + delta
            scores.append(layer.weight(relation[None])[0])
            values.append(layer.value(x[j]) + delta)
        weight = torch.stack(scores).softmax(0)  # (k, 2): channels 0, 2, … share one, 1, 3, … too
        want = (torch.stack(values) * weight.repeat(1, 8)).sum(0)
        torch.testing.assert_close(got[i], want)


@pytest.mark.parametrize("start", ["first", "lowest"])
def test_permuted_points_give_permuted_scores(start: str) -> None:
    network = model(start=start)
    clouds = PointClouds.of_sizes([700, 523], 3).double()
    order = torch.cat([torch.randperm(700), 700 + torch.randperm(523)])
    if start == "first":  # the sampling begins with it
        for first in (0, 700):
            place = int((order == first).nonzero())
            order[[first, place]] = order[[place, first]]
    with torch.no_grad():
        want, got = network(clouds), network(permuted(clouds, order))
    torch.testing.assert_close(got, want[order], rtol=1e-9, atol=1e-9 * want.std().item())


def test_another_first_point_gives_another_sampling() -> None:
    network = model()
    clouds = PointClouds.of_sizes([700], 3).double()
    order = torch.arange(700).roll(1)
    with torch.no_grad():
        got, want = network(permuted(clouds, order)), network(clouds)[order]
    assert (got - want).abs().max() > 1e-3 * want.std()


def test_a_shift_of_features_and_not_of_neighbours() -> None:
    """Moved points keep their neighbours; only the first layer sees where they are."""
    network = model()
    clouds = PointClouds.of_sizes([400], 3).double()
    moved = Clouds(clouds.coordinates + 8, clouds.features, clouds.offsets)
    with torch.no_grad():
        network.first[0].weight[:, :3] = 0
        torch.testing.assert_close(network(moved), network(clouds))


def test_lowest_point() -> None:
    points = torch.tensor([[1.0, 0, 0], [0, 2, 1], [0, 1, 3], [0, 1, 2], [5, 0, 0], [4, 9, 9]])
    assert lowest(Scale(points, (4, 6))).tolist() == [3, 5]


def test_initialisation_is_pytorchs() -> None:
    torch.manual_seed(3)
    network = create_model("point_transformer", **SMALL)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            assert module.weight.abs().max() <= bound
            assert module.weight.numel() < 64 or module.weight.abs().max() > 0.8 * bound
        if isinstance(module, nn.BatchNorm1d):
            assert (module.eps, module.momentum) == (1e-5, 0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 12}, "PointTransformer takes a width divisible by 8, got 12"),
        ({"width": 0}, "PointTransformer takes a width divisible by 8, got 0"),
        (
            {"blocks": (1, 2, 3)},
            "PointTransformer takes blocks for 5 scales, 0 or more each, got (1, 2, 3)",
        ),
        (
            {"start": "last"},
            "PointTransformer starts at the 'first' or the 'lowest' point, got 'last'",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model("point_transformer", **settings)


def test_one_small_cloud_cannot_be_trained_on() -> None:
    network = model().float()
    network.eval()(PointClouds.of_sizes([511], 3))
    message = (
        "PointTransformer cannot train on a single cloud of 511 points: a single one is left on "
        "the coarsest scale, which batch normalisation turns into zeros; take two clouds or 512 "
        "points"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        network.train()(PointClouds.of_sizes([511], 3))
    network(PointClouds.of_sizes([512], 3))
    network(PointClouds.of_sizes([256, 256], 3))

"""U-Net's border weights against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.losses import LossTerm, build_criterion
from semseg.losses.border_weights import (
    border_cross_entropy,
    border_weights,
    components,
    objects,
    two_nearest,
)

INF = math.inf


def scattered(seed: int, objects: int) -> torch.Tensor:
    """Return ``(1, 13, 17)`` with several objects, slanted and some touching."""
    generator = torch.Generator().manual_seed(seed)
    instances = torch.zeros(1, 13, 17, dtype=torch.int64)
    for label in range(1, objects + 1):
        y, x = (int(torch.randint(n, (), generator=generator)) for n in (13, 17))
        tall, wide = (int(torch.randint(1, 4, (), generator=generator)) for _ in range(2))
        instances[0, y : y + tall, x : x + wide] = label
        for step in range(6):  # a tail, so that the nearest point is not straight above or beside
            instances[0, min(y + step, 12), max(x - 2 * step, 0)] = label
    return instances


def by_brute_force(instances: torch.Tensor) -> tuple[list[float], list[float]]:
    """Distances of each pixel to the two nearest objects, over all pairs of pixels."""
    height, width = instances.shape[1:]
    points: dict[int, list[tuple[int, int]]] = {}
    for y in range(height):
        for x in range(width):
            points.setdefault(int(instances[0, y, x]), []).append((y, x))
    points.pop(0, None)
    near, second = [], []
    for y in range(height):
        for x in range(width):
            every = sorted(
                min(math.dist((y, x), point) for point in held) for held in points.values()
            )
            near.append([*every, INF][0])
            second.append([*every, INF, INF][1])
    return near, second


@pytest.mark.parametrize(("seed", "count"), [(0, 2), (1, 5), (2, 9), (3, 1), (4, 0)])
def test_distances_are_exact(seed: int, count: int) -> None:
    instances = scattered(seed, count)
    got = two_nearest(instances, reach=20)
    for distances, wanted in zip(got, by_brute_force(instances), strict=True):
        torch.testing.assert_close(distances.flatten(), torch.tensor(wanted))


def test_images_of_a_batch_do_not_meet() -> None:
    instances = torch.cat([scattered(1, 5), scattered(3, 1)])
    near, second = two_nearest(instances, reach=20)
    for i in (0, 1):
        alone = two_nearest(instances[i : i + 1], reach=20)
        assert torch.equal(near[i : i + 1], alone[0])
        assert torch.equal(second[i : i + 1], alone[1])


def test_a_weight_of_the_formula() -> None:
    instances = torch.zeros(1, 3, 9, dtype=torch.int64)
    instances[0, :, 0], instances[0, :, 5] = 1, 2
    weights = border_weights(instances, w0=10, sigma=5)
    # between the two the distances add up to 5; on objects there is no weight
    between = 10 * math.exp(-(5**2) / 50)
    beyond = [10 * math.exp(-((d + d + 5) ** 2) / 50) for d in (1, 2, 3)]
    want = torch.tensor([0, *[between] * 4, 0, *beyond])
    torch.testing.assert_close(weights, want.expand(1, 3, 9))


def test_the_reach_hides_nothing() -> None:
    instances = torch.zeros(1, 1, 200, dtype=torch.int64)
    instances[..., 0], instances[..., 45] = 1, 2
    weights = border_weights(instances, sigma=5)[0, 0]
    exact = 10 * torch.exp(torch.tensor(-(45**2) / 50))
    assert exact < torch.finfo(torch.float32).eps
    assert weights[1:45].max() <= torch.finfo(torch.float32).eps


def flood(mask: torch.Tensor) -> torch.Tensor:
    """Number the regions of ``(H, W)`` one by one."""
    label = torch.zeros_like(mask, dtype=torch.int64)
    for seed in mask.nonzero().tolist():
        if label[tuple(seed)]:
            continue
        number, todo = int(label.max()) + 1, [tuple(seed)]
        while todo:
            y, x = todo.pop()
            inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
            if inside and mask[y, x] and not label[y, x]:
                label[y, x] = number
                todo += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return label


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_components_are_those_of_a_flood_fill(share: float) -> None:
    mask = torch.rand(2, 30, 40, generator=torch.Generator().manual_seed(1)) < share
    found = components(mask)
    assert torch.equal(found > 0, mask)
    for i in (0, 1):
        pairs = torch.stack([found[i].flatten(), flood(mask[i]).flatten()], 1).unique(dim=0)
        for column in (0, 1):
            assert pairs[:, column].unique().numel() == len(pairs), "one number for one region"
    assert not set(found[0].unique().tolist()) & set(found[1].unique().tolist()) - {0}


def test_a_spiral_is_one_region() -> None:
    mask = torch.zeros(1, 15, 15, dtype=torch.bool)
    for ring in range(0, 8, 2):
        mask[0, ring : 15 - ring, ring : 15 - ring] = True
        mask[0, ring + 1 : 14 - ring, ring + 1 : 14 - ring] = False
        mask[0, ring + 1, ring + 1] = True  # a corner leads to the next ring
    assert components(mask).unique().numel() == 2


def test_touching_classes_are_different_objects() -> None:
    target = torch.tensor([[[1, 2, 0, 1]]])
    assert objects(target).unique().numel() == 4


def test_loss_is_the_weighted_mean_over_labelled_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 13, 17, generator=generator)
    target = (scattered(1, 5) > 0).long()
    target[0, 0] = 255
    class_weights = torch.tensor([1.0, 2.0])
    known = torch.where(target == 255, 0, target)
    weights = border_weights(components(known > 0)) + class_weights[known]
    each = F.cross_entropy(logits, known, reduction="none") * weights * (target != 255)
    got = border_cross_entropy(logits, target, weight=class_weights)
    torch.testing.assert_close(got, each.sum() / (12 * 17))
    assert got > 1.2 * border_cross_entropy(logits, target, w0=0, weight=class_weights)


def test_one_channel_is_binary() -> None:
    logits = torch.randn(1, 1, 13, 17, generator=torch.Generator().manual_seed(0))
    target = (scattered(1, 5) > 0).long()
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(
        border_cross_entropy(logits, target), border_cross_entropy(two, target)
    )


def test_nothing_labelled_gives_zero() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = border_cross_entropy(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_a_recipe_names_it() -> None:
    labels = LabelMap.from_names(["membrane", "cell"])
    settings = {"w0": 4.0, "sigma": 2.0, "class_weights": [1.0, 3.0]}
    logits = torch.randn(1, 2, 13, 17, generator=torch.Generator().manual_seed(0))
    target = (scattered(1, 5) > 0).long()
    term = LossTerm(name="border_cross_entropy", settings=settings)
    want = border_cross_entropy(logits, target, w0=4.0, sigma=2.0, weight=torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(build_criterion([term], labels)(logits, target), want)
    short = LossTerm(name="border_cross_entropy", settings={"class_weights": [1.0]})
    with pytest.raises(InputError, match="class_weights has 1 numbers, the data has 2 classes"):
        build_criterion([short], labels)

"""Epochs that show rare classes more often."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.data.sampling import SAMPLINGS, class_uniform, repeat_rare


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def presence() -> Tensor:
    """20 images of class 0; class 1 in two of them, class 2 in image 0 alone, class 3 nowhere."""
    shown = torch.zeros(20, 4, dtype=torch.bool)
    shown[:, 0] = True
    shown[:2, 1] = True
    shown[0, 2] = True
    return shown


@pytest.mark.parametrize("name", SAMPLINGS)
def test_as_many_as_there_are_and_by_the_generator(name: str, presence: Tensor) -> None:
    sample = SAMPLINGS[name]
    order = sample(presence, seeded())
    assert len(order) == 20
    assert set(order) <= set(range(20))
    assert order == sample(presence, seeded())
    assert order != sample(presence, seeded(1))


def test_classes_come_in_turn(presence: Tensor) -> None:
    order = class_uniform(presence, seeded())
    for i in range(0, 18, 3):  # each three show all three classes
        assert presence[order[i : i + 3]].any(0).tolist() == [True, True, True, False]
    counts = Counter(order)
    assert counts[0] >= 6, "the one image of class 2, once in each turn"
    assert counts[1] >= 3, "half of the turns of class 1"


def test_no_image_comes_again_before_all_have() -> None:
    order = class_uniform(torch.ones(9, 1, dtype=torch.bool), seeded())
    assert sorted(order) == list(range(9))


def test_rare_images_come_as_often_as_they_weigh(presence: Tensor) -> None:
    weights = [20**0.5, 10**0.5] + [1.0] * 18
    share = [20 * w / sum(weights) for w in weights]
    totals: Counter[int] = Counter()
    for seed in range(200):
        counts = Counter(repeat_rare(presence, seeded(seed)))
        for i, wanted in enumerate(share):
            assert int(wanted) <= counts[i] <= int(wanted) + 1
        totals += counts
    assert totals[0] / 200 == pytest.approx(share[0], rel=0.05)
    assert totals[1] / 200 == pytest.approx(share[1], rel=0.05)


def test_images_without_a_class_are_kept(presence: Tensor) -> None:
    presence[5] = False
    seen: Counter[int] = Counter()
    for seed in range(20):
        seen += Counter(repeat_rare(presence, seeded(seed)))
    assert seen[5] > 0


def test_nothing_to_choose_from() -> None:
    with pytest.raises(InputError, match="no image of the training split shows a class"):
        class_uniform(torch.zeros(3, 2, dtype=torch.bool), seeded())

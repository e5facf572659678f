"""The energy distance against sums over all pairs of answers, pixel by pixel."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.metrics.energy import energy_distance


def apart(a: Tensor, b: Tensor, classes: list[int], labelled: Tensor) -> float:
    """Return 1 less the mean IoU by sets of pixels."""
    scores = []
    for index in classes:
        one, other = (
            {place for place, value in enumerate(x.flatten().tolist()) if value == index}
            & {place for place, known in enumerate(labelled.flatten().tolist()) if known}
            for x in (a, b)
        )
        if one | other:
            scores.append(len(one & other) / len(one | other))
    return 1 - sum(scores) / len(scores) if scores else 0.0


def brute(
    samples: Tensor, truths: Tensor, classes: list[int], weights: list[float], ignore: int = 255
) -> float:
    labelled = (truths != ignore).all(0)
    chance = [w / sum(weights) for w in weights]
    even = [1 / len(samples)] * len(samples)

    def mean(some: Tensor, p: list[float], others: Tensor, q: list[float]) -> float:
        pairs = itertools.product(zip(some, p, strict=True), zip(others, q, strict=True))
        return sum(s * t * apart(a, b, classes, labelled) for (a, s), (b, t) in pairs)

    return (
        2 * mean(samples, even, truths, chance)
        - mean(samples, even, samples, even)
        - mean(truths, chance, truths, chance)
    )


@pytest.mark.parametrize("weights", [None, [8.0, 0.0, 1.0]])
@pytest.mark.parametrize("classes", [[1], [0, 2, 3, 7], [7]])
def test_against_all_pairs(classes: list[int], weights: list[float] | None) -> None:
    generator = torch.Generator().manual_seed(1)
    samples = torch.randint(0, 4, (5, 4, 6), generator=generator)
    truths = torch.randint(0, 4, (3, 4, 6), generator=generator)
    truths[1, 0] = 255
    samples[0][samples[0] == 1] = 0  # a class that one answer lacks
    got = energy_distance(samples, truths, classes, weights=weights)
    want = brute(samples, truths, classes, weights or [1.0] * 3)
    assert got == pytest.approx(want, abs=1e-12)
    assert (got == 0) == (classes == [7])


def test_it_is_zero_only_for_the_same_distribution() -> None:
    truths = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 1]]])
    assert energy_distance(truths.repeat(3, 1, 1), truths, [1]) == pytest.approx(0, abs=1e-12)
    often = truths[[0, 0, 0, 1]]
    assert energy_distance(often, truths, [1], weights=[3, 1]) == pytest.approx(0, abs=1e-12)
    assert energy_distance(often, truths, [1]) > 0.05
    assert energy_distance(truths[:1], truths, [1]) > 0.1


def test_empty_answers_agree() -> None:
    nothing = torch.zeros(2, 3, 3, dtype=torch.long)
    assert energy_distance(nothing, nothing, [1]) == 0
    something = torch.ones(1, 3, 3, dtype=torch.long)
    assert energy_distance(something, nothing, [1]) == 2


def test_another_ignore_id_is_no_class() -> None:
    samples, truths = torch.tensor([[[1, 0]]]), torch.tensor([[[9, 0]]])
    assert energy_distance(samples, truths, [1], ignore_id=9) == 0
    assert energy_distance(samples, truths, [1]) == 2


def test_what_it_cannot_take() -> None:
    image = torch.zeros(1, 2, 3, dtype=torch.long)
    with pytest.raises(InputError, match=r"got \(1, 2, 3\) and \(1, 2, 4\)"):
        energy_distance(image, torch.zeros(1, 2, 4), [1])
    with pytest.raises(InputError, match=r"got \(2, 3\) and \(2, 3\)"):
        energy_distance(image[0], image[0], [1])
    with pytest.raises(InputError, match="at least one sample, truth and class, got 0, 1 and 1"):
        energy_distance(image[:0], image, [1])
    with pytest.raises(InputError, match="got 1, 1 and 0"):
        energy_distance(image, image, [])
    for wrong in ([1.0, 1.0], [-1.0], [0.0]):
        with pytest.raises(InputError, match="one weight from 0 on for each of 1 truths, got"):
            energy_distance(image, image, [1], weights=wrong)

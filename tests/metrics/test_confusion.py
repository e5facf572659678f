"""The confusion matrix against a loop in Python, and its rules for absent classes."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semseg.core.checks import InputError
from semseg.metrics import ConfusionMatrix


def _loop(prediction: list[int], target: list[int], k: int, ignore: int) -> list[list[int]]:
    counts = [[0] * k for _ in range(k)]
    for p, t in zip(prediction, target, strict=True):
        if t != ignore:
            counts[t][p] += 1
    return counts


def _matrix(counts: list[list[int]]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(len(counts))
    matrix.counts = torch.tensor(counts)
    return matrix


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_counts_equal_a_plain_loop(data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 6))
    ignore = data.draw(st.sampled_from([255, k, -1]))
    size = data.draw(st.integers(0, 60))
    prediction = data.draw(st.lists(st.integers(0, k - 1), min_size=size, max_size=size))
    truth = st.one_of(st.integers(0, k - 1), st.just(ignore))
    target = data.draw(st.lists(truth, min_size=size, max_size=size))
    matrix = ConfusionMatrix(k, ignore)
    cut = size // 3
    for part in (slice(0, cut), slice(cut, size)):
        matrix.update(
            torch.tensor(prediction[part], dtype=torch.int64),
            torch.tensor(target[part], dtype=torch.int64),
        )
    assert matrix.counts.tolist() == _loop(prediction, target, k, ignore)
    assert matrix.counts.dtype == torch.int64


def test_small_integer_types_do_not_overflow() -> None:
    matrix = ConfusionMatrix(200)
    mask = torch.full((1000, 1000), 199, dtype=torch.uint8)
    matrix.update(mask, mask)
    matrix.update(mask, mask.to(torch.int32))
    assert matrix.counts[199, 199] == 2_000_000
    assert matrix.counts.sum() == 2_000_000


def test_counts_above_what_float_can_hold_stay_exact() -> None:
    matrix = _matrix([[2**53, 0], [0, 0]])
    matrix.update(torch.tensor([0]), torch.tensor([0]))
    assert matrix.counts[0, 0].item() == 2**53 + 1


def test_merge_is_the_same_as_counting_together() -> None:
    one, two, both = (ConfusionMatrix(3) for _ in range(3))
    a = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 255])
    b = torch.tensor([1, 1]), torch.tensor([1, 0])
    one.update(*a)
    two.update(*b)
    both.update(*a)
    both.update(*b)
    total = one + two
    assert torch.equal(total.counts, both.counts)
    one.merge(two)
    assert torch.equal(one.counts, both.counts)
    with pytest.raises(InputError, match="cannot merge counts of 2 classes into 3"):
        one.merge(ConfusionMatrix(2))


# Rows are the truth. Class 2 is predicted but never true, class 3 neither.
COUNTS = [[6, 2, 0, 0], [1, 9, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
IOU = [6 / 9, 9 / 14, 0.0]


def test_scores_by_hand() -> None:
    scores = _matrix(COUNTS).scores()
    assert scores.iou[:3] == pytest.approx(IOU)
    assert math.isnan(scores.iou[3])
    assert scores.miou == pytest.approx(sum(IOU) / 3)
    assert scores.accuracy == pytest.approx(15 / 20)
    assert scores.mean_accuracy == pytest.approx((6 / 8 + 9 / 12) / 2)
    assert scores.fw_iou == pytest.approx(8 / 20 * IOU[0] + 12 / 20 * IOU[1])
    assert scores.dice == pytest.approx((12 / 15 + 18 / 23 + 0) / 3)


@pytest.mark.parametrize(
    ("rule", "miou", "absent"),
    [
        ("present", sum(IOU) / 3, {3}),
        ("gt", sum(IOU[:2]) / 2, {2, 3}),
        ("all", sum(IOU) / 4, set()),
    ],
)
def test_rules_for_absent_classes(rule, miou: float, absent: set[int]) -> None:
    scores = _matrix(COUNTS).scores(rule)
    assert scores.absent == rule
    assert scores.miou == pytest.approx(miou)
    assert {i for i, value in enumerate(scores.iou) if math.isnan(value)} == absent
    divisor = 4 if rule == "all" else 2
    assert scores.mean_accuracy == pytest.approx((6 / 8 + 9 / 12) / divisor)


def test_scores_of_nothing_are_nan() -> None:
    scores = ConfusionMatrix(2).scores()
    for value in (scores.miou, scores.accuracy, scores.mean_accuracy, scores.fw_iou, scores.dice):
        assert math.isnan(value)


def test_dictionary_is_strict_json() -> None:
    data = _matrix(COUNTS).scores().to_dict(["a", "b", "c", "d"])
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["iou"] == {
        "a": pytest.approx(IOU[0]),
        "b": pytest.approx(IOU[1]),
        "c": 0,
        "d": None,
    }
    assert data["absent"] == "present"


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(2, 2).long(), torch.zeros(2, 3).long(), "bring the prediction to the mask"),
        (torch.zeros(2), torch.zeros(2).long(), "take the argmax"),
        (torch.tensor([3]), torch.tensor([0]), "prediction holds ids 3 … 3; wanted 0 … 2$"),
        (torch.tensor([0]), torch.tensor([-2]), "target holds ids -2 … -2; wanted 0 … 2 or 255"),
    ],
)
def test_refusals(prediction: torch.Tensor, target: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConfusionMatrix(3).update(prediction, target)


def test_wrong_rule_and_wrong_sizes() -> None:
    with pytest.raises(InputError, match="absent must be one of"):
        ConfusionMatrix(2).scores("none")  # type: ignore[arg-type]
    for classes, ignore in ((0, 255), (5, 3)):
        with pytest.raises(InputError, match="an ignore_id outside its classes"):
            ConfusionMatrix(classes, ignore)


@pytest.mark.gpu
def test_same_counts_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 19, (4, 64, 64), generator=generator)
    target = torch.randint(0, 20, (4, 64, 64), generator=generator)
    here, there = ConfusionMatrix(19, 19), ConfusionMatrix(19, 19)
    here.update(prediction, target)
    there.update(prediction.cuda(), target.cuda())
    assert there.counts.is_cuda
    assert torch.equal((here + there).counts, 2 * here.counts)

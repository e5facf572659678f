"""What every metric promises, for each name in the list."""

from __future__ import annotations

import json

import pytest
import torch

from semseg.core.checks import InputError, UnknownNameError
from semseg.metrics import METRICS, ConfusionMatrix, Metric, PerImage, build_metrics, list_metrics
from tests.metrics.support import K, batch, same

NAMES = list_metrics()


def scored(name: str, *parts: slice) -> Metric:
    """Return a metric after some of the images, in several updates."""
    metric = METRICS[name](K)
    for part in parts:
        metric.update(*(x[part] for x in batch()))
    return metric


@pytest.mark.parametrize("name", NAMES)
def test_shards_add_up_whatever_their_order(name: str) -> None:
    whole = scored(name, slice(0, 4))
    one, two = scored(name, slice(3, 4), slice(1, 2)), scored(name, slice(2, 3), slice(0, 1))
    one.merge(two)
    for rule in ("present", "gt", "all"):
        assert same(one.result(rule), whole.result(rule))


@pytest.mark.parametrize("name", NAMES)
def test_the_rule_stands_beside_the_score(name: str) -> None:
    metric = scored(name, slice(0, 4))
    results = {rule: metric.result(rule) for rule in ("present", "gt", "all")}
    if name == "ece":  # knows no classes
        assert all("absent" not in result for result in results.values())
        return
    assert [result["absent"] for result in results.values()] == list(results)
    key = {"trimap": "miou", "per_image": "miou"}.get(name, name)
    values = [str(result[key]) for result in results.values()]
    assert len(set(values)) == 3
    with pytest.raises(InputError, match="absent must be one of"):
        metric.result("none")  # type: ignore[arg-type]


# a predicted segment that reaches into what is ignored has the area that it has
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"pq"}))
def test_ignored_pixels_count_for_nothing(name: str) -> None:
    prediction, target, sure = batch()
    ignored = target == 255
    expected, other = METRICS[name](K), METRICS[name](K)
    expected.update(prediction, target, sure)
    other.update(torch.where(ignored, 3, prediction), target, torch.where(ignored, 0.9, sure))
    assert same(expected.result(), other.result())


@pytest.mark.parametrize("name", NAMES)
def test_no_image_and_no_labelled_pixel_give_strict_json(name: str) -> None:
    empty, ignored = METRICS[name](K), METRICS[name](K)
    prediction, target, sure = batch()
    ignored.update(prediction, torch.full_like(target, 255), sure)
    for metric in (empty, ignored):
        json.dumps(metric.result(), allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_images(name: str) -> None:
    metric = scored(name, slice(0, 4))
    metric.result()
    before = {key: value.numel() * value.element_size() for key, value in metric.state.items()}
    metric.update(*batch())
    metric.result()
    after = {key: value.numel() * value.element_size() for key, value in metric.state.items()}
    if name == "per_image":  # 12 bytes per class and image
        assert (before, after) == ({"counts": 4 * 12 * K}, {"counts": 8 * 12 * K})
    else:
        assert before == after


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_prediction_has_a_perfect_score(name: str) -> None:
    _, target, _ = batch()
    metric = METRICS[name](K)
    # what is predicted where nothing is known is class 0
    metric.update(torch.where(target == 255, 0, target), target, torch.ones(target.shape))
    result = metric.result("gt")
    if name == "ece":
        assert result["ece"] == 0
    elif name == "trimap":
        assert result["miou"] == [1.0] * 6
    else:
        assert result[{"per_image": "miou"}.get(name, name)] == 1


@pytest.mark.parametrize("name", NAMES)
def test_refusals(name: str) -> None:
    metric = METRICS[name](3)
    ids, sure = torch.zeros(1, 2, 2).long(), torch.ones(1, 2, 2)
    with pytest.raises(
        InputError, match=r"takes predictions and targets \(N, H, W\), got \(1, 1, 2\)"
    ):
        metric.update(ids[:, :1], ids, sure)
    with pytest.raises(InputError, match="take the argmax"):
        metric.update(ids.float(), ids, sure)
    with pytest.raises(InputError, match="prediction holds ids 0 … 3; wanted 0 … 2"):
        metric.update(torch.tensor([[[0, 3], [0, 0]]]), ids, sure)
    with pytest.raises(InputError, match="target holds ids -1 … 0; wanted 0 … 2 or 255"):
        metric.update(ids, torch.tensor([[[0, -1], [0, 0]]]), sure)
    with pytest.raises(InputError, match="cannot merge"):
        metric.merge(METRICS[name](4))
    with pytest.raises(InputError, match="an ignore_id outside its classes"):
        METRICS[name](3, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_thin_images(name: str, size: tuple[int, int]) -> None:
    ids = torch.zeros(2, *size, dtype=torch.uint8)
    metric = METRICS[name](2)
    metric.update(ids, ids, torch.ones(ids.shape))
    json.dumps(metric.result(), allow_nan=False)


def test_metrics_are_built_by_name() -> None:
    assert isinstance(build_metrics(["per_image"], 3)["per_image"], PerImage)
    with pytest.raises(UnknownNameError, match="unknown metric 'biou'"):
        build_metrics(["biou"], 3)


def test_counts_of_images_sum_to_the_confusion_matrix() -> None:
    matrix = ConfusionMatrix(K)
    matrix.update(*batch()[:2])
    per_image = scored("per_image", slice(0, 4))
    assert isinstance(per_image, PerImage)
    right, truth, predicted = per_image.counts().sum(0).tolist()
    assert right == matrix.counts.diag().tolist()
    assert truth == matrix.counts.sum(1).tolist()
    assert predicted == matrix.counts.sum(0).tolist()

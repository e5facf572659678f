"""Cross entropy and Dice by hand, class weights, and how a recipe names its terms."""

from __future__ import annotations

import math

import pytest
import torch

from semseg.core.checks import InputError, SettingError, UnknownNameError
from semseg.core.labels import LabelMap
from semseg.losses import (
    LOSSES,
    ClassCounts,
    LossTerm,
    build_criterion,
    cross_entropy,
    dice,
    effective_number,
    enet,
    inverse_frequency,
    list_losses,
    median_frequency,
)
from semseg.losses.class_weights import SCHEMES

IGNORE = 255
LABELS = LabelMap.from_names(["a", "b", "c"], ignore={255: "void"})
COUNTS = ClassCounts((10, 20, 40), (100, 100, 100))


def _example(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, classes, 4, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(0, max(2, classes), (2, 4, 5), generator=generator)
    target[:, 0] = IGNORE
    return logits, target


def _softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


# ---- by hand -----------------------------------------------------------------------------------


def test_cross_entropy_of_two_by_two_pixels() -> None:
    logits = torch.tensor([[[[1.0, 0.0], [2.0, 0.0]], [[0.0, 3.0], [0.0, 0.0]]]])
    target = torch.tensor([[[0, 1], [1, IGNORE]]])
    p = [_softmax([1, 0])[0], _softmax([0, 3])[1], _softmax([2, 0])[1]]
    expected = -sum(math.log(v) for v in p) / 3
    assert cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_class_weights_are_divided_by_their_sum() -> None:
    logits = torch.tensor([[[[1.0, 0.0], [2.0, 0.0]], [[0.0, 3.0], [0.0, 0.0]]]])
    target = torch.tensor([[[0, 1], [1, IGNORE]]])
    p = [_softmax([1, 0])[0], _softmax([0, 3])[1], _softmax([2, 0])[1]]
    expected = -(2 * math.log(p[0]) + 5 * math.log(p[1]) + 5 * math.log(p[2])) / (2 + 5 + 5)
    weighted = cross_entropy(logits, target, weight=torch.tensor([2.0, 5.0]))
    assert weighted.item() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_spreads_the_target() -> None:
    logits = torch.tensor([[[[1.0]], [[0.0]], [[-1.0]]]])
    p = _softmax([1, 0, -1])
    expected = -sum(s * math.log(v) for s, v in zip([0.8, 0.1, 0.1], p, strict=True))
    got = cross_entropy(logits, torch.zeros(1, 1, 1).long(), label_smoothing=0.3)
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_of_one_channel() -> None:
    logits = torch.tensor([[[[0.5, -2.0, 7.0]]]])
    target = torch.tensor([[[1, 0, IGNORE]]])
    sigmoid = [1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(2.0))]
    expected = -(math.log(sigmoid[0]) + math.log(1 - sigmoid[1])) / 2
    assert cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_channel_equals_two_channels(smoothing: float) -> None:
    logits, target = _example(1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    weight = torch.tensor([0.3, 2.0])
    settings = {"weight": weight, "label_smoothing": smoothing}
    if smoothing:  # torch weights the smoothed classes, the binary form weights the pixel
        settings["weight"] = None
    one = cross_entropy(logits, target, **settings)
    torch.testing.assert_close(one, cross_entropy(two, target, **settings))


def test_dice_of_two_by_two_pixels() -> None:
    logits = torch.tensor([[[[1.0, 0.0], [2.0, 9.0]], [[0.0, 3.0], [0.0, 0.0]]]])
    target = torch.tensor([[[0, 1], [1, IGNORE]]])
    a = [_softmax([1, 0])[0], _softmax([0, 3])[0], _softmax([2, 0])[0]]
    b = [1 - p for p in a]
    first = 2 * a[0] / (sum(a) + 1)
    second = 2 * (b[1] + b[2]) / (sum(b) + 2)
    expected = 1 - (first + second) / 2
    assert dice(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_dice_leaves_absent_classes_out() -> None:
    logits = torch.tensor([[[[2.0]], [[0.0]], [[1.0]]]])
    p = _softmax([2, 0, 1])[0]
    got = dice(logits, torch.zeros(1, 1, 1).long())
    assert got.item() == pytest.approx(1 - 2 * p / (p + 1), rel=1e-6)


def test_dice_of_one_channel_is_of_the_foreground() -> None:
    logits = torch.tensor([[[[0.0, 0.0, 50.0]]]])
    target = torch.tensor([[[1, 0, IGNORE]]])
    assert dice(logits, target).item() == pytest.approx(1 - 2 * 0.5 / (1.0 + 1), rel=1e-6)


@pytest.mark.parametrize("loss", [cross_entropy, dice])
def test_wrong_shapes_are_refused(loss) -> None:
    with pytest.raises(InputError, match=r"logits \(N, K, H, W\) and int64 targets \(N, H, W\)"):
        loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 5).long())
    with pytest.raises(InputError, match=r"torch\.int32"):
        loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int32))


# ---- class weights -----------------------------------------------------------------------------


def test_median_frequency_counts_only_images_that_hold_the_class() -> None:
    # frequencies 10/50, 20/200, 40/400
    assert median_frequency(ClassCounts((10, 20, 40), (50, 200, 400))) == [0.5, 1.0, 1.0]


def test_median_frequency_refuses_an_absent_class() -> None:
    with pytest.raises(InputError, match="class 1 has no pixel"):
        median_frequency(ClassCounts((3, 0), (4, 0)))


def test_enet_weights() -> None:
    weights = enet(ClassCounts((1, 3), (4, 4)), c=1.1)
    assert weights == pytest.approx([1 / math.log(1.35), 1 / math.log(1.85)])


def test_enet_weight_of_an_absent_class_is_finite() -> None:
    assert enet(ClassCounts((4, 0), (4, 0)))[1] == pytest.approx(1 / math.log(1.02))


def test_inverse_frequency_gives_every_class_the_same_sum() -> None:
    counts = ClassCounts((10, 30, 60), (100, 100, 100))
    weights = inverse_frequency(counts)
    assert weights == pytest.approx([100 / 30, 100 / 90, 100 / 180])
    sums = [w * p for w, p in zip(weights, counts.pixels, strict=True)]
    assert sums == pytest.approx([100 / 3] * 3)
    with pytest.raises(InputError, match="inverse_frequency: class 2 has no pixel"):
        inverse_frequency(ClassCounts((1, 3, 0), (4, 4, 0)))


def test_effective_number() -> None:
    # 1 - 0.9^n for 1 and 2 pixels: 0.1 and 0.19
    weights = effective_number(ClassCounts((1, 2), (3, 3)), beta=0.9)
    assert weights == pytest.approx([2 * 0.19 / 0.29, 2 * 0.1 / 0.29])
    assert effective_number(ClassCounts((1, 2), (3, 3)), beta=0) == [1, 1]
    # beta = 1 - 1 / N of ten billion pixels: 1 - beta^n is 1 - exp(-n / N), and must not be 0
    millions = effective_number(ClassCounts((10**4, 10**10 - 10**4), (10**10, 10**10)))
    assert millions[0] / millions[1] == pytest.approx((1 - math.exp(-1)) / 1e-6, rel=1e-5)
    with pytest.raises(InputError, match="effective_number: class 0 has no pixel"):
        effective_number(ClassCounts((0, 3), (0, 4)))


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_a_recipe_names_a_scheme(name: str, scheme: str) -> None:
    term = LossTerm(name=name, settings={"class_weights": scheme})
    (weight,) = build_criterion([term], LABELS, COUNTS).buffers()
    assert weight.tolist() == pytest.approx(SCHEMES[scheme](COUNTS))


# ---- terms -------------------------------------------------------------------------------------


def test_criterion_is_the_weighted_sum_of_its_terms() -> None:
    logits, target = _example(3)
    terms = [
        LossTerm(name="cross_entropy", weight=0.5, settings={"class_weights": "median_frequency"}),
        LossTerm(name="dice", weight=3.0),
    ]
    weight = torch.tensor([2.0, 1.0, 0.5])
    expected = 0.5 * cross_entropy(logits, target, weight=weight) + 3 * dice(logits, target)
    torch.testing.assert_close(build_criterion(terms, LABELS, COUNTS)(logits, target), expected)


def test_class_weights_move_with_the_criterion_and_stay_out_of_checkpoints() -> None:
    term = LossTerm(name="cross_entropy", settings={"class_weights": [1, 2, 3]})
    criterion = build_criterion([term], LABELS)
    assert [buffer.tolist() for buffer in criterion.buffers()] == [[1, 2, 3]]
    assert criterion.state_dict() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "class_weights has 2 numbers, the data has 3 classes"),
        ({"class_weights": [1.0, 2.0, -1.0]}, "must not be negative"),
        ({"class_weights": "enet"}, "computed from the training split"),
    ],
)
def test_weights_that_do_not_fit(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_criterion([LossTerm(name="cross_entropy", settings=settings)], LABELS)


def test_unknown_names_settings_and_values() -> None:
    with pytest.raises(UnknownNameError, match="unknown loss 'dise'; did you mean 'dice'"):
        LossTerm(name="dise")
    with pytest.raises(SettingError, match="loss cross_entropy has no setting 'smoothing'"):
        LossTerm(name="cross_entropy", settings={"smoothing": 1})
    with pytest.raises(ValueError, match="loss cross_entropy: label_smoothing is 2; "):
        LossTerm(name="cross_entropy", settings={"label_smoothing": 2})
    with pytest.raises(InputError, match="the loss has no terms"):
        build_criterion([], LABELS)


def test_every_setting_is_described() -> None:
    for name in list_losses():
        for field, info in LOSSES[name].model_fields.items():
            assert info.description, f"{name}.{field}"

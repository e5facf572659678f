"""Optimiser groups, learning rates and the weight average, each against its formula."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.train.optim import build_average, build_optimizer, lr_factor, set_lr
from semseg.train.sections import OptimizerConfig, ScheduleConfig


def test_norms_and_biases_are_not_decayed() -> None:
    model = create_model("segnet_basic", num_classes=3, width=4)
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.5))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    kinds = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            plain = isinstance(module, nn.Conv2d) and name == "weight"
            assert decay.pop(id(parameter)) == (0.5 if plain else 0.0)
            kinds.add((type(module).__name__, name))
    assert not decay
    assert {("BatchNorm2d", "weight"), ("BatchNorm2d", "bias"), ("Conv2d", "weight")} <= kinds


def test_what_the_network_names_is_not_decayed() -> None:
    model = create_model("deeplab_v3_plus_resnet101", num_classes=3, encoder="test_resnet")
    named = model.no_weight_decay()
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.5))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    kernels = {name: decay[id(p)] for name, p in model.named_parameters() if p.ndim > 1}
    assert named
    assert all(value == (0.0 if name in named else 0.5) for name, value in kernels.items())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_every_trainable_parameter_is_in_one_group(weight_decay: float) -> None:
    model = create_model("segnet_basic", num_classes=3, width=4)
    frozen = next(model.parameters())
    frozen.requires_grad = False
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=weight_decay))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()} - {id(frozen)}


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", AdamW), ("adam", Adam), ("sgd", SGD), ("rmsprop", RMSprop)]
)
def test_kinds(name: str, kind: type) -> None:
    model = create_model("segnet_basic", num_classes=3, width=4)
    optimizer = build_optimizer(model, OptimizerConfig(name=name, momentum=0.8))
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert group.get("momentum", group.get("betas", (None,))[0]) == 0.8


def test_adam_decays_through_the_gradient_and_adamw_does_not() -> None:
    moved = {}
    for name in ("adam", "adamw"):
        torch.manual_seed(0)
        model = create_model("segnet_basic", num_classes=3, width=4)
        weight = next(p for p in model.parameters() if p.ndim > 1)
        before = weight.detach().clone()
        optimizer = build_optimizer(model, OptimizerConfig(name=name, lr=0.1, weight_decay=0.5))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        moved[name] = (weight.detach() - before) / before
    torch.testing.assert_close(moved["adamw"], torch.full_like(moved["adamw"], -0.05))
    assert (moved["adam"] * before).abs().max() == pytest.approx(0.1, rel=1e-3), "one full step"


def test_steps_fall_by_a_factor() -> None:
    config = ScheduleConfig(name="step", step_epochs=2, factor=0.5, warmup_steps=1)
    got = [lr_factor(config, step, 13, 2) for step in range(13)]
    assert got == [1.0] * 5 + [0.5] * 4 + [0.25] * 4


def test_steps_fall_after_the_epochs_listed() -> None:
    config = ScheduleConfig(name="step", step_epochs=[3, 5], factor=0.5)
    got = [lr_factor(config, step, 14, 2) for step in range(14)]
    assert got == [1.0] * 6 + [0.5] * 4 + [0.25] * 4


def test_head_learns_faster_than_the_trunk() -> None:
    model = create_model("unet", encoder="resnet10t", num_classes=2, in_channels=3)
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.1, head_lr_factor=10))
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for part, expected in (("encoder", 0.1), ("head", 1.0)):
        rates = {rate[id(p)] for p in model.parameter_groups()[part]}
        assert rates == {expected}
    set_lr(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.05, 0.5}


def test_head_factor_needs_a_trunk() -> None:
    model = create_model("unet", num_classes=3, width=4)
    with pytest.raises(InputError, match=r"head_lr_factor is 10\.0, but UNet has no trunk"):
        build_optimizer(model, OptimizerConfig(head_lr_factor=10))


def test_optimizer_settings_arrive() -> None:
    model = create_model("segnet_basic", num_classes=3, width=4)
    sgd = build_optimizer(model, OptimizerConfig(name="sgd", momentum=0.8, nesterov=True))
    assert isinstance(sgd, SGD)
    assert {(g["momentum"], g["nesterov"]) for g in sgd.param_groups} == {(0.8, True)}
    adamw = build_optimizer(model, OptimizerConfig(momentum=0.8))
    assert isinstance(adamw, AdamW)
    assert {g["betas"] for g in adamw.param_groups} == {(0.8, 0.999)}


# ---- schedules ---------------------------------------------------------------------------------


def _factors(config: ScheduleConfig, steps: int = 100, per_epoch: int = 10) -> list[float]:
    return [lr_factor(config, step, steps, per_epoch) for step in range(steps)]


def test_poly_is_its_formula() -> None:
    factors = _factors(ScheduleConfig(name="poly", power=0.9))
    assert factors == pytest.approx([(1 - step / 100) ** 0.9 for step in range(100)])


def test_cosine_is_its_formula() -> None:
    factors = _factors(ScheduleConfig(name="cosine"))
    assert factors == pytest.approx([(1 + math.cos(math.pi * s / 100)) / 2 for s in range(100)])


@pytest.mark.parametrize("name", ["poly", "cosine"])
def test_warm_up_is_linear_and_then_the_shape_starts_at_one(name) -> None:
    factors = _factors(ScheduleConfig(name=name, warmup_epochs=1.5))
    assert factors[:15] == pytest.approx([(step + 1) / 15 for step in range(15)])
    assert factors[15] == 1
    assert factors == _factors(ScheduleConfig(name=name, warmup_steps=15))
    assert all(a > b > 0 for a, b in pairwise(factors[15:]))


def test_constant_stays_after_its_warmup() -> None:
    factors = _factors(ScheduleConfig(name="constant", warmup_steps=2), steps=5)
    assert factors == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_one_cycle_is_that_of_torch() -> None:
    steps = 40
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=steps, cycle_momentum=False
    )
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step() if len(expected) < steps else None
    assert _factors(ScheduleConfig(name="one_cycle"), steps=steps) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["poly", "cosine", "one_cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_shortest_runs_have_a_rate(name, steps: int) -> None:
    assert all(0 < f <= 1 for f in _factors(ScheduleConfig(name=name), steps=steps, per_epoch=1))


# ---- average -----------------------------------------------------------------------------------


def test_average_is_its_recursion_for_weights_and_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = build_average(model, 0.3)
    expected: dict[str, torch.Tensor] = {}
    for count in range(6):
        model(torch.randn(4, 1, 3, 3))
        with torch.no_grad():
            model[0].weight += 1
        average.update_parameters(model)
        decay = min(0.3, (1 + count) / (10 + count))
        for key, value in model.state_dict().items():
            if count == 0 or not value.is_floating_point():
                expected[key] = value.clone()
            else:
                expected[key] = decay * expected[key] + (1 - decay) * value
    torch.testing.assert_close(dict(average.module.state_dict()), expected)
    assert average.module[1].num_batches_tracked == 6


def test_no_decay_copies() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = build_average(model, None)
    for _ in range(3):
        model(torch.randn(4, 1, 3, 3))
        with torch.no_grad():
            model[0].weight.normal_()
        average.update_parameters(model)
    for key, value in model.state_dict().items():
        assert torch.equal(average.module.state_dict()[key], value), key

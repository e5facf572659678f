"""Norms that stay, and blocks that are computed again: the same numbers for less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.base import SegmentationModel
from semseg.train.network import adapt, norms, recompute, takes_channels_last
from semseg.train.sections import LoopConfig

CPU = torch.device("cpu")


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def step(model: SegmentationModel) -> dict[str, Tensor]:
    """Gradients, and all tensors after one pass with random draws."""
    torch.manual_seed(5)
    heads = model.train().forward_heads(images())
    torch.stack([out.square().mean() for out in heads.values()]).sum().backward()
    gradients = {f"grad {k}": p.grad for k, p in model.named_parameters() if p.grad is not None}
    return gradients | model.state_dict()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("erfnet", {}), ("unet", {"encoder": "test_resnet"}), ("deeplab_v3_plus", {})],
)
def test_computing_again_changes_no_number(name: str, settings: dict[str, str]) -> None:
    torch.manual_seed(0)
    plain = create_model(name, num_classes=4, **settings)
    again = copy.deepcopy(plain)
    assert recompute(again) > 1
    wanted, got = step(plain), step(again)
    assert wanted.keys() == got.keys()
    for key, tensor in wanted.items():
        assert torch.equal(got[key], tensor), key


def test_only_inputs_of_blocks_are_kept() -> None:
    torch.manual_seed(0)
    plain = create_model("erfnet", num_classes=4)
    again = copy.deepcopy(plain)
    recompute(again)

    def held(model: SegmentationModel) -> int:
        """Bytes that the backward pass keeps, parameters left out."""
        own = {p.data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            heads = model.train().forward_heads(images())  # alive, so that addresses stay taken
            assert heads
        return sum(kept.values())

    assert held(again) < 0.5 * held(plain)


def test_without_gradients_nothing_is_computed_again() -> None:
    model = create_model("erfnet", num_classes=4).eval()
    recompute(model)
    with torch.no_grad():
        assert model(images()).shape == (2, 4, 64, 64)


def test_frozen_norms_keep_everything() -> None:
    torch.manual_seed(0)
    model = adapt(create_model("erfnet", num_classes=4), LoopConfig(freeze_norm=True), CPU)
    before = copy.deepcopy(model.state_dict())
    inside = list(norms(model))
    assert inside
    assert not any(norm.training for norm in inside)
    model.forward_heads(images())["logits"].sum().backward()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(p.grad is None for norm in inside for p in norm.parameters())
    assert any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("name", "fine"), [("cgnet", False), ("erfnet", True), ("enet", True)])
def test_channels_last_where_gradients_are_right(name: str, fine: bool) -> None:
    model = create_model(name, num_classes=4)
    assert takes_channels_last(model, LoopConfig(precision="bf16"), CPU) is fine
    assert takes_channels_last(model, LoopConfig(), CPU)
    assert takes_channels_last(model, LoopConfig(precision="bf16"), torch.device("cuda"))


@pytest.mark.parametrize("name", ["cgnet", "enet", "espnet"])
def test_half_precision_has_nearly_the_same_gradients(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=4)
    config = LoopConfig(precision="bf16", channels_last=True)
    found = []
    for half in (False, True):
        layout = torch.contiguous_format
        if half and takes_channels_last(model, config, CPU):
            layout = torch.channels_last
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            heads = model.train().forward_heads(images().contiguous(memory_format=layout))
        heads["logits"].float().square().mean().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
    for whole, half in zip(*found, strict=True):
        assert half.norm() < 2 * whole.norm() + 1e-3


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"train\.sync_norm needs GPUs, this run computes on cpu"):
        adapt(create_model("erfnet"), LoopConfig(sync_norm=True), CPU)
    with pytest.raises(InputError, match="FCN has no repeated blocks to compute again; leave"):
        recompute(create_model("fcn_32s_vgg16", width=4))

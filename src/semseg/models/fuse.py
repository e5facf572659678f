"""The form of a network for prediction: equal scores from fewer operations."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from semseg.models.base import SegmentationModel

Norm = nn.modules.batchnorm._BatchNorm
CONVS = (nn.Conv2d, nn.ConvTranspose2d)
"""Layers whose result is linear in their weights; a subclass may change them first."""


@runtime_checkable
class Mergeable(Protocol):
    """A module of several branches that equals one simpler module in eval mode."""

    def merged(self) -> nn.Module:
        """Return the simpler module."""


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that take each tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for value in args:
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor):
                    seen = self.counts.get(tensor, 0)  # type: ignore[no-untyped-call]
                    self.counts[tensor] = seen + 1
        return func(*args, **(kwargs or {}))


def fused(model: SegmentationModel) -> SegmentationModel:
    """Return a copy for prediction: norms folded, branches merged, auxiliary heads left out.

    A norm is folded into the convolution whose result nothing else takes; others stay. What takes
    what is seen in one pass on the meta device, so no network has to say it. The copy is in eval
    mode and not meant to be trained.

    Args:
        model: any registered network; it stays as it is.

    Example:
        >>> from semseg import create_model
        >>> model = create_model("fcn_resnet50", encoder="resnet18").eval()
        >>> small = fused(model)
        >>> sum(isinstance(m, torch.nn.BatchNorm2d) for m in small.modules())
        0
        >>> images = torch.rand(1, 3, 64, 64)
        >>> torch.allclose(small(images), model(images), atol=1e-5)
        True
    """
    model = copy.deepcopy(model).eval()
    model.logits_only = True
    for name, module in list(model.named_modules()):
        if isinstance(module, Mergeable):
            _replace(model, name, module.merged().eval())
    pairs, unused = _watch(model)
    with torch.no_grad():
        for conv_name, norm_name in pairs:
            conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
            _replace(model, conv_name, _folded(conv, norm))
            _replace(model, norm_name, _after_norm(norm))
    for name, _ in list(model.named_children()):
        if name in unused:
            _replace(model, name, nn.Identity())  # the weights of an auxiliary head
    return model


def _watch(model: SegmentationModel) -> tuple[list[tuple[str, str]], set[str]]:
    """Return convolutions, each with the norm that alone takes its result; and unused parts."""
    twin = copy.deepcopy(model).to("meta", torch.float32)
    calls: Counter[str] = Counter()
    made, taken = WeakTensorKeyDictionary(), {}

    def note(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if isinstance(module, Norm) and module.track_running_stats and inputs[0] in made:
                taken[name] = (made[inputs[0]], inputs[0])

        def after(_: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] += 1
            if type(module) in CONVS:
                made[output] = name

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    for name, module in twin.named_modules():
        if name:
            note(name, module)
    size = max(model.min_size, 256)
    images = model.blank((size, size), batch=2)
    with torch.no_grad(), _Uses() as uses:
        heads = twin.forward_heads(twin.pad(images))
    outputs = {id(head) for head in heads.values()}
    pairs = [
        (conv, norm)
        for norm, (conv, result) in taken.items()
        if calls[conv] == calls[norm] == 1
        and uses.counts[result] == 1
        and id(result) not in outputs
    ]
    unused = {
        name
        for name, child in twin.named_children()
        if any(True for _ in child.parameters())
        and not any(parameter in uses.counts for parameter in child.parameters())
    }
    return pairs, unused


def _folded(conv: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(conv, CONVS)
    assert isinstance(norm, Norm)
    return fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))


def _after_norm(norm: nn.Module) -> nn.Module:
    """Return what a norm does besides normalising; those of timm end with an activation."""
    rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, module)

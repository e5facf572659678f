"""What the tests of the kernels share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            # a view, expanded ones among them, has no memory of its own
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def enlarged(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Full-size logits in float64."""
    return F.interpolate(logits.double(), size, mode="bilinear", align_corners=align_corners)


def regions(classes: int, height: int, width: int, seed: int = 0, images: int = 1) -> Tensor:
    """Logits with regions, as a trained network's: most neighbours agree."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(
        images, classes, max(1, height // 6), max(1, width // 6), generator=generator
    )
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    return 6 * smooth + 0.3 * torch.randn(images, classes, height, width, generator=generator)

r"""Smoothed dilated convolution: neighbours that dilation keeps apart are mixed again.

Paper:
    Wang, Ji. "Smoothed Dilated Convolutions for Improved Dense Prediction." KDD 2018.
    arXiv:1808.08931. Layers follow the authors' ``dilated.py`` and ``network.py``: DeepLab v2 with
    every dilated convolution of its ResNet-101 smoothed, and classifiers as they were.

Shapes (of one smoothed convolution with dilation r):
    x            (N, C, H, W)
    ssc          (N, C, H, W)            one (2r - 1) x (2r - 1) kernel over every channel, before
    conv         (N, D, H, W)            3x3 with dilation r
    groups       (N, D, r * r, H/r, W/r) the r * r subsampled maps of which its output consists
    gi           (N, D, r * r, H/r, W/r) their linear combinations, afterwards

Parameters:
    44,048,886 with ssc and 44,049,668 with gi at K = 21: DeepLab v2 on one scale has 44,048,532;
    23 convolutions with r = 2 add 9 or 16 each, 3 with r = 4 add 49 or 256.

Deviations:
    - Weights of the mixing are stored as the difference from doing nothing, as the authors store
      those of ssc, so that weight decay draws them there. The authors' decay leaves them out.
    - In the authors' code the first group takes part in no other one's mixture: its row of the
      matrix multiplies each group itself. Here it mixes like the rest, as the paper's equation 6
      says; equal where that row is that of the identity.
    - The norms' epsilon is 1e-5, as in the Caffe weights that the authors start from; their code
      leaves it at TensorFlow's 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models.base import Published, register
from semseg.models.dilated.deeplab_v2 import DeepLabV2, DeepLabV2Config, build_trunk
from semseg.models.stages import load_earlier_stage

Smoothing = Literal["ssc", "gi"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothedDeepLabV2Config(DeepLabV2Config):
    """Settings of :class:`SmoothedDeepLabV2`."""

    multi_scale: bool = False
    """Whether the network sees the image at sizes 1, 0.75 and 0.5; the paper's does not."""

    smoothing: Smoothing = "ssc"
    """``"ssc"``, separable and shared convolution, or ``"gi"``, group interaction."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        DeepLabV2Config.__post_init__(self)
        if self.smoothing not in get_args(Smoothing):
            raise InputError(f"smoothing is 'ssc' or 'gi', got {self.smoothing!r}")


class SmoothedConv(nn.Conv2d):
    """A dilated convolution that takes over the weights of ``conv``; kinds of it smooth."""

    def __init__(self, conv: nn.Conv2d) -> None:
        rate = conv.dilation[0]
        if conv.kernel_size != (3, 3) or conv.padding != (rate, rate) or conv.stride != (1, 1):
            raise InputError(f"smoothing is defined for 3x3 convolutions of stride 1, got {conv}")
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            3,
            padding=rate,
            dilation=rate,
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.rate = rate


class SeparableSharedConv(SmoothedConv):
    """Blurs every channel with the same small kernel, then convolves with dilation.

    ``(N, C, H, W) -> (N, D, H, W)``; a plain convolution as long as nothing was learned.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        size = 2 * self.rate - 1
        self.difference = nn.Parameter(torch.zeros(1, 1, size, size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the dilated convolution of the blurred input."""
        change = F.conv2d(x.flatten(0, 1)[:, None], self.difference, padding=self.rate - 1)
        return super().forward(x + change.view_as(x))


class GroupInteraction(SmoothedConv):
    """Convolves with dilation r, then mixes the r * r maps that had nothing to do with another.

    ``(N, C, H, W) -> (N, D, H, W)``; a plain convolution as long as nothing was learned.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        self.difference = nn.Parameter(torch.zeros(self.rate**2, self.rate**2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed maps; column ``i`` of the matrix makes group ``i``."""
        height, width = x.shape[-2:]
        x = super().forward(F.pad(x, (0, -width % self.rate, 0, -height % self.rate)))
        maps = torch.unflatten(F.pixel_unshuffle(x, self.rate), 1, (-1, self.rate**2))
        mixed = maps + torch.einsum("ndghw,gi->ndihw", maps, self.difference)
        return F.pixel_shuffle(mixed.flatten(1, 2), self.rate)[..., :height, :width]


KINDS: dict[str, type[SmoothedConv]] = {"ssc": SeparableSharedConv, "gi": GroupInteraction}

PAPER = {
    "paper": "arXiv:1808.08931",
    "year": 2018,
    "repository": "https://github.com/divelab/dilated",
    "paper_size": (321, 321),
    "verified": "reference output",
    "small": {"depths": (1, 1, 1, 1), "width": 4},
}


@register(
    "deeplab_v2_resnet101_ssc",
    SmoothedDeepLabV2Config(smoothing="ssc"),
    title="DeepLab v2 (ResNet-101), separable and shared convolution",
    idea="One small kernel, shared by all channels, blurs before every dilated convolution.",
    num_params=44_048_886,
    published=(
        Published("PASCAL VOC 2012 val", 75.4, "paper, Table 1; COCO (DeepLab v2 itself 75.1)"),
        Published("PASCAL VOC 2012 val", 72.1, "paper, Table 2; no COCO (DeepLab v2 itself 71.7)"),
    ),
    **PAPER,
)
@register(
    "deeplab_v2_resnet101_gi",
    SmoothedDeepLabV2Config(smoothing="gi"),
    title="DeepLab v2 (ResNet-101), group interaction",
    idea="The maps that a dilated convolution computes independently are mixed linearly.",
    num_params=44_049_668,
    published=(
        Published("PASCAL VOC 2012 val", 75.4, "paper, Table 1; COCO (DeepLab v2 itself 75.1)"),
        Published("PASCAL VOC 2012 val", 72.3, "paper, Table 2; no COCO (DeepLab v2 itself 71.7)"),
    ),
    **PAPER,
)
class SmoothedDeepLabV2(DeepLabV2):
    """DeepLab v2 whose trunk smooths its dilated convolutions; see the module docstring.

    It starts as DeepLab v2 exactly: the mixing does nothing before it has learned something.
    """

    def __init__(self, config: SmoothedDeepLabV2Config) -> None:
        super().__init__(config)
        self.plain_trunk = partial(build_trunk, config)
        kind = KINDS[config.smoothing]
        for parent in list(self.encoder.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d) and child.dilation[0] > 1:
                    setattr(parent, name, kind(child))

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load weights of the trunk, or a trained DeepLab v2; the mixing starts from nothing.

        Args:
            source: what the trunk takes, or a weights file or run of ``deeplab_v2_resnet101``:
                the paper starts from one trained on COCO.

        Raises:
            FileError: the weights cannot be had or do not fit.
            InputError: the trunk has no published weights that can be fetched.
        """
        if load_earlier_stage(self, source, ("deeplab_v2_resnet101",)):
            return
        trunk = self.plain_trunk()
        trunk.load_pretrained(source)
        self.encoder.load_state_dict(trunk.state_dict(), strict=False)

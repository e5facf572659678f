r"""Deep layer cascade: easy pixels leave a network early, and later layers skip their places.

Paper:
    Li, Liu, Luo, Loy, Tang. "Not All Pixels Are Equal: Difficulty-Aware Semantic Segmentation
    via Deep Layer Cascade." CVPR 2017. arXiv:1704.01344. Of the authors' code only the region
    convolution is public (https://github.com/liuziwei7/region-conv, Caffe).

Shapes (H, W divisible by 8; M2 and M3 are the places that reach a stage):
    images       (N, C,    H,   W)
    stage 1      (N, 320,  H/8, W/8)   stem and ten blocks, everywhere
    stage1       (N, K,    H/8, W/8)   3x3 to 512, ReLU, 1x1; M2: probability at most rho
    stage 2      (N, 1088, H/8, W/8)   twenty blocks, computed in M2, dilation 2
    stage2       (N, K,    H/8, W/8)   likewise; M3: those of M2 still at most rho; else zero
    stage 3      (N, 1536, H/8, W/8)   ten blocks, computed in M3, dilation 4
    stage3       (N, K,    H/8, W/8)   likewise in M3
    logits       (N, K,    H/8, W/8)   of the last stage that each place reached

    A region convolution (paper, section 3.2) is computed in M only; outside M its output is zero,
    also after normalisation and bias. So a residual block leaves its input as it is there. In
    eval mode :meth:`LayerCascade.forward` gathers the rows of M, as the Caffe layer does, and its
    cost falls with M; ``forward_heads`` computes the same everywhere and masks it, which can be
    exported.

Parameters:
    67,906,271 at K = 21: 54,306,464 of Inception-ResNet-v2 as timm publishes it, and 1,485,845,
    5,024,789 and 7,089,173 of the three heads. The paper states no count.

Deviations:
    - The paper says: two convolutional layers and a softmax after each stage, scores of 64 x 64
      for 512 x 512. It does not say their kernels or widths, nor how the strides of stages 2 and
      3 went (the Caffe layer has none): 3x3 to 512, 1x1 and dilation are a reading.
    - The trunk is timm's with padding and dilation; the authors' is a Caffe model.
    - Each stage learns from the label in the middle of each of its cells. All stages weigh 1.
    - While batch statistics are used, dense training normalises over all places; the paper keeps
      the norms as pretrained (``freeze_norm``), where dense and sparse forms are the same.
    - The paper first trains every stage on all pixels: that is ``rho=1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import Preprocessing
from semseg.encoders.inception_resnet_v2 import (
    DEPTHS,
    EVERYWHERE,
    WIDTH,
    Apply,
    ConvNorm,
    InceptionResNetV2,
    Pool,
)
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.dilated.fcrn import STRIDE, labels_of_cells
from semseg.nn.init import gaussian_
from semseg.nn.norm import check_batch_norm

STAGES = ("stage1", "stage2", "stage3")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCascadeConfig(ModelConfig):
    """Settings of :class:`LayerCascade`."""

    rho: float = 0.985
    """A pixel goes on while no class has a higher probability; 1 lets every pixel go on."""

    freeze_norm: bool = False
    """Keep the trunk's normalisation as loaded, as the paper does; needs pretrained weights."""

    hidden: int = 512
    """Channels of a head's first layer."""

    width: int = WIDTH
    """Channels of the trunk's first convolution; all others are multiples of a sixteenth."""

    depths: tuple[int, int, int] = DEPTHS
    """Residual blocks of the three stages."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if not 0 < self.rho <= 1:
            raise InputError(f"LayerCascade takes rho above 0 and up to 1, got {self.rho}")
        if self.width < 2 or self.width % 2:
            raise InputError(f"LayerCascade takes an even width, got {self.width}")


class Masked(Apply):
    """Applies layers everywhere and keeps what lies in a region: the dense region convolution.

    Args:
        region: ``(N, 1, h, w)`` bool.
    """

    def __init__(self, region: Tensor) -> None:
        self.region = region

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return the layer's output, zero outside the region."""
        return super().__call__(layer, x) * self.region


class Region:
    """Places of a feature map, and where their rows are.

    Args:
        region: ``(N, 1, h, w)`` bool; R places are true.

    Attributes:
        places: ``(R,)`` flat positions in N, h, w.
        rows: ``(N * h * w,)`` row of each position, R outside the region.
    """

    def __init__(self, region: Tensor) -> None:
        self.count, _, self.height, self.width = region.shape
        flat = region.flatten()
        self.places = flat.nonzero().flatten()
        self.rows = torch.where(flat, flat.cumsum(0) - 1, len(self.places))

    def gather(self, x: Tensor) -> Tensor:
        """Return rows ``(R, C, 1, 1)`` of a map ``(N, C, h, w)``."""
        return x.permute(0, 2, 3, 1).flatten(0, 2)[self.places][..., None, None]

    def scatter(self, rows: Tensor) -> Tensor:
        """Return the map ``(N, C, h, w)`` of rows ``(R, C, 1, 1)``, zero outside the region."""
        flat = rows.new_zeros(len(self.rows), rows.shape[1])
        flat[self.places] = rows.flatten(1)
        return flat.view(self.count, self.height, self.width, -1).permute(0, 3, 1, 2)

    def neighbours(self, other: Region, kernel: list[int], dilation: list[int]) -> Tensor:
        """Return ``(R, kh, kw)`` rows of ``other`` under a kernel centred on each place here."""
        offsets = [
            (torch.arange(size, device=self.places.device) - size // 2) * rate
            for size, rate in zip(kernel, dilation, strict=True)
        ]
        y = (self.places // self.width % self.height)[:, None, None] + offsets[0][:, None]
        x = (self.places % self.width)[:, None, None] + offsets[1]
        inside = (y >= 0) & (y < self.height) & (x >= 0) & (x < self.width)
        shift = offsets[0][:, None] * self.width + offsets[1]
        positions = torch.where(inside, self.places[:, None, None] + shift, 0)
        return torch.where(inside, other.rows[positions], len(other.places))


class Gathered(Apply):
    """Applies layers to the rows of a region: the sparse region convolution.

    A kernel meets zeros outside the region and outside the image. Features are ``(R, C, 1, 1)``,
    so that whatever works on single pixels works on them as it is.

    Args:
        region: where to compute.
        before: region of the stage before, whose rows a layer that enters reads.
    """

    def __init__(self, region: Region, before: Region) -> None:
        self.region, self.before = region, before
        self._found: dict[tuple[object, ...], Tensor] = {}

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return the layer's output of rows of this region."""
        return self._apply(layer, x, self.region)

    def enter(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return the layer's output of rows of the region before."""
        return self._apply(layer, x, self.before)

    def _apply(self, layer: nn.Module, x: Tensor, source: Region) -> Tensor:
        conv = layer.conv if isinstance(layer, ConvNorm) else layer
        if isinstance(conv, Pool):
            out = self._patches(x, source, [3, 3], [conv.rate] * 2).amax((1, 2))
            return out[..., None, None]
        assert isinstance(conv, nn.Conv2d)
        patches = self._patches(x, source, list(conv.kernel_size), list(conv.dilation))
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        out = F.linear(patches.flatten(1), weight, conv.bias)[..., None, None]
        return layer.finish(out) if isinstance(layer, ConvNorm) else out

    def _patches(self, x: Tensor, source: Region, kernel: list[int], dilation: list[int]) -> Tensor:
        """Return ``(R, kh, kw, C)``: what the kernel meets around each place."""
        if source is self.region and kernel == [1, 1]:
            return x.flatten(1)[:, None, None]
        key = (id(source), *kernel, *dilation)
        if key not in self._found:
            self._found[key] = self.region.neighbours(source, kernel, dilation)
        rows = torch.cat([x.flatten(1), x.new_zeros(1, x.shape[1])])
        return rows[self._found[key]]


class Head(nn.Module):
    """Two convolutions from features to scores: ``(N, cin, h, w) -> (N, K, h, w)``."""

    def __init__(self, cin: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, num_classes, 1)
        gaussian_(self, std=0.01)

    def forward(self, x: Tensor, apply: Apply) -> Tensor:
        """Return the scores of a stage's features."""
        return apply(self.conv2, F.relu(apply(self.conv1, x)))


@register(
    "layer_cascade",
    LayerCascadeConfig(),
    title="Layer cascade",
    paper="arXiv:1704.01344",
    year=2017,
    idea="A deep network is cut into stages; a pixel classified with confidence leaves, and later "
    "stages compute and learn only the rest.",
    repository="https://github.com/liuziwei7/region-conv",
    num_params=67_906_271,
    paper_size=(512, 512),
    published=(Published("PASCAL VOC 2012 test", 82.7, "paper; COCO in training"),),
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    verified="arithmetic",
    small={"width": 4, "depths": (1, 2, 1), "hidden": 16, "rho": 0.6},
)
class LayerCascade(SegmentationModel):
    """Deep layer cascade over Inception-ResNet-v2; see the module docstring."""

    multiple_of = STRIDE

    def __init__(self, config: LayerCascadeConfig) -> None:
        super().__init__(config)
        self.encoder = InceptionResNetV2(config.in_channels, config.width, config.depths)
        self.heads = nn.ModuleList(
            Head(channels, config.hidden, config.num_classes) for channels in self.encoder.channels
        )
        self.rho = config.rho
        self.norms: list[nn.BatchNorm2d] = []
        if config.freeze_norm:
            self.norms = [m for m in self.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
            for norm in self.norms:
                norm.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen normalisation keeps its statistics."""
        super().train(mode)
        for norm in self.norms:
            norm.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``(N, K, H, W)``; in eval mode later stages skip easy pixels.

        A graph that is exported or compiled has no shapes that depend on the image: it computes
        the same everywhere.
        """
        if self.training or torch.compiler.is_compiling():
            return super().forward(images)
        heads = self.cascade(self.pad(images))
        return self.full_size(heads["logits"], (images.shape[-2], images.shape[-1]))

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and the scores of the three stages, computed everywhere."""
        learning = self.training and not self.norms
        check_batch_norm(type(self).__name__, images, STRIDE, learning)
        one, two, three = self.heads
        x = self.encoder.stage1(images)
        stage1 = one(x, EVERYWHERE)
        second = Masked(self.uncertain(stage1))
        x = self.encoder.stage2(x, second)
        stage2 = two(x, second)
        third = Masked(second.region & self.uncertain(stage2))
        stage3 = three(self.encoder.stage3(x, third), third)
        return self._join((stage1, stage2, stage3), second.region, third.region)

    def cascade(self, images: Tensor) -> dict[str, Tensor]:
        """Return what :meth:`forward_heads` does, computed only where a stage is reached.

        Args:
            images: as :meth:`forward_heads` takes them; the norms must be in eval mode.
        """
        one, two, three = self.heads
        x = self.encoder.stage1(images)
        stage1 = one(x, EVERYWHERE)
        goes_on = self.uncertain(stage1)
        first, second = Region(torch.ones_like(goes_on)), Region(goes_on)
        apply = Gathered(second, first)
        x = self.encoder.stage2(first.gather(x), apply)
        stage2 = second.scatter(two(x, apply))
        goes_further = goes_on & self.uncertain(stage2)
        third = Region(goes_further)
        apply = Gathered(third, second)
        stage3 = third.scatter(three(self.encoder.stage3(x, apply), apply))
        return self._join((stage1, stage2, stage3), goes_on, goes_further)

    def uncertain(self, scores: Tensor) -> Tensor:
        """Return ``(N, 1, h, w)``: whether no class has a probability above rho."""
        if scores.shape[1] == 1:
            return scores.abs().sigmoid() <= self.rho
        return scores.softmax(1).amax(1, keepdim=True) <= self.rho

    def _join(
        self, scores: tuple[Tensor, Tensor, Tensor], second: Tensor, third: Tensor
    ) -> dict[str, Tensor]:
        logits = torch.where(third, scores[2], torch.where(second, scores[1], scores[0]))
        stages = {} if self.logits_only else dict(zip(STAGES, scores, strict=True))
        return {"logits": logits, **stages}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return one term per stage, over the places that reached it."""
        height, width = heads["logits"].shape[-2:]
        labels = labels_of_cells(target, height, width)
        ignore = 255 if self.config.num_classes <= 255 else 65535
        terms = {}
        for name in STAGES:
            # a stage that nothing reached has no loss, which a mean over nothing is not
            known = bool((labels != ignore).any())
            terms[name] = criterion(heads[name], labels) if known else 0 * heads[name].sum()
            labels = torch.where(self.uncertain(heads[name])[:, 0], labels, ignore)
        return terms

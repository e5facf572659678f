"""HRNet: branches at strides 4 to 32 side by side that exchange features again and again.

Paper:
    Wang, Sun, Cheng, et al. "Deep High-Resolution Representation Learning for Visual Recognition."
    TPAMI 2020. arXiv:1908.07919. Layers follow the authors' code for segmentation,
    ``lib/models/seg_hrnet.py`` of https://github.com/HRNet/HRNet-Semantic-Segmentation.

timm's ``hrnet_w48`` is the authors' classifier: it enlarges coarse features by repeating pixels,
here it is done bilinearly, and gives what the classifier makes of the four branches, here the
branches themselves. Layers have the same names, so that the classifier's ImageNet weights load.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.resnet_deep import Bottleneck
from semseg.encoders.timm import TimmEncoder, adapt_stem
from semseg.encoders.weights import read_tensors

STEM = 64
"""Channels of the two strided convolutions, and inside the first stage's bottlenecks."""

MODULES, BLOCKS = (1, 4, 3), 4
"""Modules of the second to fourth stage, and blocks of each branch of a module."""

PUBLISHED = (18, 30, 32, 40, 44, 48, 64)
"""Widths of which the authors published ImageNet weights."""


def conv_norm(
    cin: int, cout: int, kernel: int, stride: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution without bias, BatchNorm and ReLU: ``(N, cin, H, W) -> (N, cout, H/s, W/s)``."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them: ``(N, C, H, W) -> (N, C, H, W)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of shortcut and branch."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + x)


class HRModule(nn.Module):
    """Blocks in each branch, then every branch receives the sum of all.

    Args:
        widths: channels of the branches, finest first.
        blocks: of each branch.
        align_corners: how coarse branches are enlarged.

    ``[(N, widths[i], H / 2**i, W / 2**i)]`` to the same, sides rounded up at each halving.
    """

    def __init__(self, widths: list[int], blocks: int, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the features after blocks and exchange."""
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        fused = []
        for target, (own, paths) in enumerate(zip(features, self.fuse_layers, strict=True)):
            assert isinstance(paths, nn.ModuleList)
            received = []
            for source, (path, feature) in enumerate(zip(paths, features, strict=True)):
                part = path(feature)
                received.append(part if source <= target else self._enlarge(part, own))
            first, *others = received
            fused.append(F.relu(sum(others, first)))
        return fused

    def _enlarge(self, x: Tensor, fine: Tensor) -> Tensor:
        size = fine.shape[-2:]
        return F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)


def _path(widths: list[int], source: int, target: int) -> nn.Module:
    """Return what makes one branch fit another: 1x1 upwards, strided 3x3 downwards."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_norm(widths[source], widths[target], 1, relu=False)
    between = [widths[source]] * (target - source)
    halvings = list(pairwise([*between, widths[target]]))
    return nn.Sequential(
        *(
            conv_norm(cin, cout, 3, stride=2, relu=i < len(halvings) - 1)
            for i, (cin, cout) in enumerate(halvings)
        )
    )


class HRNet(Encoder):
    """HRNetV2's trunk; names of layers are the authors' and timm's.

    Args:
        in_channels: channels of the images.
        width: channels of the finest branch.
        modules: of the second, third and fourth stage.
        blocks: of the first stage, and of each branch of a module.
        align_corners: how coarse branches are enlarged; the authors' later code (OCR) has True.

    Shapes (w = width; any H and W, sides are rounded up at each halving):
        - features: ``(N, w, H/4, W/4)``, ``(N, 2w, H/8, W/8)``, ``(N, 4w, H/16, W/16)``,
          ``(N, 8w, H/32, W/32)``.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 48,
        modules: tuple[int, ...] = MODULES,
        blocks: int = BLOCKS,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if width < 1 or blocks < 1 or len(modules) != 3 or min(modules) < 1:
            raise InputError(
                "HRNet takes a width, blocks and three numbers of modules of at least 1, got "
                f"width {width}, blocks {blocks}, modules {modules}"
            )
        self.in_channels, self.width = in_channels, width
        self.full = tuple(modules) == MODULES and blocks == BLOCKS
        widths = [width * 2**i for i in range(4)]
        self.channels = tuple(widths)
        self.conv1 = nn.Conv2d(in_channels, STEM, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM)
        deep = 4 * STEM
        rest = (Bottleneck(deep, STEM) for _ in range(1, blocks))
        self.layer1 = nn.Sequential(Bottleneck(STEM, STEM), *rest)
        before = [deep]
        for i, count in enumerate(modules):
            after = widths[: i + 2]
            stage = (HRModule(after, blocks, align_corners) for _ in range(count))
            setattr(self, f"transition{i + 1}", _transition(before, after))
            setattr(self, f"stage{i + 2}", nn.Sequential(*stage))
            before = after
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)  # of the authors' code

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four branches, finest first."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        features = [self.layer1(x)]
        for i in (1, 2, 3):
            steps = self.get_submodule(f"transition{i}")
            assert isinstance(steps, nn.ModuleList)
            # the new branch starts from the coarsest one
            sources = [*features, features[-1]]
            features = [step(source) for step, source in zip(steps, sources, strict=True)]
            features = self.get_submodule(f"stage{i + 1}")(features)
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load published ImageNet weights, the stem adapted to the number of channels.

        Args:
            source: ``True`` fetches timm's copy of the authors' weights (``hrnet_w48.ms_in1k``); a
                path reads a file of those or of the authors' (``hrnetv2_w48_imagenet_pretrained``).

        Raises:
            InputError: there are no published weights of this size.
            FileError: the weights cannot be had, or are those of another network.
        """
        tensors = self._published() if isinstance(source, bool) else read_tensors(Path(source))
        own = self.state_dict()
        counters = "num_batches_tracked"  # absent in files of before PyTorch 0.4
        wanted = [key for key in own if not key.endswith(counters)]
        if missing := [key for key in wanted if key not in tensors]:
            raise FileError(
                f"{source} holds another network than HRNet-W{self.width}: {len(missing)} of "
                f"{len(wanted)} tensors are missing (first: {missing[0]})"
            )
        held = {key: tensors[key] for key in wanted}
        held["conv1.weight"] = adapt_stem(held["conv1.weight"], self.in_channels)
        for key in wanted:
            if held[key].shape != own[key].shape:
                raise FileError(
                    f"{source}: {key} has shape {tuple(held[key].shape)}, HRNet-W{self.width} has "
                    f"{tuple(own[key].shape)}; give weights of the same width"
                )
        self.load_state_dict(held, strict=False)

    def _published(self) -> dict[str, Tensor]:
        """Return the weights that timm publishes for this width."""
        if not self.full or self.width not in PUBLISHED:
            raise InputError(
                f"an HRNet of this size (width {self.width}) has no published weights; "
                "create it without pretrained, or give a file with pretrained=PATH"
            )
        donor = TimmEncoder(f"hrnet_w{self.width}.ms_in1k")
        donor.load_pretrained()
        return donor.trunk.state_dict()


def _transition(before: list[int], after: list[int]) -> nn.ModuleList:
    """Return what leads from one stage's branches to the next stage's, one branch more."""
    same = (
        nn.Identity() if old == new else conv_norm(old, new, 3)
        for old, new in zip(before, after, strict=False)
    )
    return nn.ModuleList([*same, nn.Sequential(conv_norm(before[-1], after[-1], 3, stride=2))])


def _build(in_channels: int, output_stride: int, width: int) -> HRNet:
    if output_stride != 32:
        raise InputError(
            f"encoder 'hrnet_w{width}_seg' cannot have output_stride {output_stride}; use 32: its "
            "finest branch has stride 4 all the way"
        )
    return HRNet(in_channels, width)


for _width in (18, 32, 48):
    ENCODERS.add(f"hrnet_w{_width}_seg", partial(_build, width=_width))

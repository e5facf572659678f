"""Dilated residual networks: the trunks of DRN, dilated to stride 8 by their authors.

Paper:
    Yu, Koltun, Funkhouser. "Dilated Residual Networks." CVPR 2017. arXiv:1705.09914. Layers and
    names follow the authors' ``drn.py``.

DRN-A is a ResNet without its last two strides. DRN-C takes convolutions for the max-pooling and
two more levels of falling dilation, without shortcuts, against the grid that dilation leaves.
DRN-D, which only the code has, makes the outer levels of C plain convolutions.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, hub, nn

from semseg.core.checks import FileError, InputError
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.timm import adapt_stem
from semseg.encoders.weights import chosen_tensors, fill_trunk, first_line, read_tensors

HOME = "http://dl.yf.io/drn/"
"""Where the authors publish weights; the end of a file's name is the hash it is checked by."""


class Variant(NamedTuple):
    """One network of the paper or its code."""

    kind: str  # "A", "C" or "D"
    bottleneck: bool
    depths: tuple[int, ...]  # of the levels that a ResNet has; C and D have four more of one block
    url: str


VARIANTS = {
    # the authors start A from the weights of a ResNet without dilation
    "drn_a_50": Variant(
        "A", True, (3, 4, 6, 3), "https://download.pytorch.org/models/resnet50-19c8e357.pth"
    ),
    "drn_c_26": Variant("C", False, (2, 2, 2, 2), f"{HOME}drn_c_26-ddedf421.pth"),
    "drn_c_42": Variant("C", False, (3, 4, 6, 3), f"{HOME}drn_c_42-9d336e8c.pth"),
    "drn_d_22": Variant("D", False, (2, 2, 2, 2), f"{HOME}drn_d_22-4bd2f8ea.pth"),
    "drn_d_38": Variant("D", False, (3, 4, 6, 3), f"{HOME}drn_d_38-eebb45f0.pth"),
    "drn_d_54": Variant("D", True, (3, 4, 6, 3), f"{HOME}drn_d_54-0e0534ff.pth"),
    "drn_d_105": Variant("D", True, (3, 4, 23, 3), f"{HOME}drn_d_105-12b40979.pth"),
}

LEVELS = {
    "A": ((1, 2, 4, 8), (1, 2, 1, 1), (1, 1, 2, 4)),
    "C": ((1, 2, 4, 8, 16, 32, 32, 32), (1, 2, 2, 2, 1, 1, 1, 1), (1, 1, 1, 1, 2, 4, 2, 1)),
}
"""Width as a multiple of the first, stride and dilation of each level; D has those of C."""

EXPANSION = 4
"""Channels that a bottleneck gives, as a multiple of its width."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and, if ``residual``, the shortcut around them.

    ``(N, cin, H, W) -> (N, width, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, cin: int, width: int, stride: int, dilation: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(cin, width, stride, dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, 1, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(cin, width, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated branch, the shortcut added to it or not."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out if self.downsample is None else out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width, and the shortcut around them.

    ``(N, cin, H, W) -> (N, 4 * width, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, cin: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        cout = EXPANSION * width
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.downsample = shortcut(cin, cout, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of shortcut and branch."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class DRN(Encoder):
    """A dilated residual network; names of layers are the authors'.

    Args:
        in_channels: channels of the images.
        variant: one of :data:`VARIANTS`.
        width: channels of the stem; by default the paper's 16, or 64 of DRN-A.

    Shapes (any H, W; sides are rounded up at each halving; w = width, e = 4 for bottlenecks or 1):
        - features of C and D: ``(N, w, H, W)``, ``(N, 2w, H/2, W/2)``, ``(N, 4ew, H/4, W/4)``,
          ``(N, 8ew, H/8, W/8)``, ``(N, 16ew, H/8, W/8)``, ``(N, 32ew, H/8, W/8)``, and twice
          ``(N, 32w, H/8, W/8)``.
        - features of A: the stem ``(N, w, H/2, W/2)``, ``(N, ew, H/4, W/4)``,
          ``(N, 2ew, H/8, W/8)``, ``(N, 4ew, H/8, W/8)``, ``(N, 8ew, H/8, W/8)``.
    """

    def __init__(self, in_channels: int, variant: str, width: int | None = None) -> None:
        super().__init__()
        self.in_channels, self.variant = in_channels, variant
        self.kind, bottleneck, depths, _ = VARIANTS[variant]
        pooled = self.kind == "A"
        width = width or (64 if pooled else 16)
        stem = nn.Conv2d(in_channels, width, 7, 2 if pooled else 1, padding=3, bias=False)
        if self.kind == "D":
            self.layer0 = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU())
        else:
            self.conv1, self.bn1 = stem, nn.BatchNorm2d(width)
        cin, stride = width, 4 if pooled else 1
        channels, strides = ([width], [2]) if pooled else ([], [])
        plan = (depths, *LEVELS["A"]) if pooled else ((1, 1, *depths, 1, 1), *LEVELS["C"])
        for i, (depth, factor, step, dilation) in enumerate(zip(*plan, strict=True)):
            outer, cout = not pooled and i in (0, 1, 6, 7), factor * width
            if outer and self.kind == "D":
                conv = conv3x3(cin, cout, step, dilation)
                level = nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU())
            elif bottleneck and not outer:
                # the code of A leaves the first block of a level undilated, that of D does not
                dilations = (1 if pooled else dilation, *(dilation,) * (depth - 1))
                level = residual_level(Bottleneck, cin, cout, step, dilations)
                cout *= EXPANSION
            else:
                block = partial(BasicBlock, residual=i < 6)
                level = residual_level(block, cin, cout, step, (dilation,) * depth)
            setattr(self, f"layer{i + 1}", level)
            cin, stride = cout, stride * step
            channels.append(cout)
            strides.append(stride)
        self.channels, self.strides = tuple(channels), tuple(strides)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return each level, of DRN-A the stem before its pool too."""
        features = []
        x = self.layer0(images) if self.kind == "D" else F.relu(self.bn1(self.conv1(images)))
        if self.kind == "A":
            features.append(x)
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for i in range(len(self.channels) - len(features)):
            x = self.get_submodule(f"layer{i + 1}")(x)
            features.append(x)
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load the authors' ImageNet weights, the stem adapted to the number of channels.

        Args:
            source: ``True`` fetches them, a path reads a local file (a classifier is dropped).

        Raises:
            FileError: the weights cannot be fetched or read, or are those of another network.
        """
        if isinstance(source, bool):
            tensors, where = fetch(self.variant), VARIANTS[self.variant].url
        else:
            tensors, where = read_tensors(Path(source)), str(source)
        held = chosen_tensors(self, tensors, where, self.variant, "layer")
        stem = next(iter(held))
        held[stem] = adapt_stem(held[stem], self.in_channels)
        fill_trunk(self, held, where, f"this {self.variant}", same="width")


def conv3x3(cin: int, cout: int, stride: int, dilation: int) -> nn.Conv2d:
    """Return a dilated 3x3 convolution that keeps the size where it does not stride."""
    return nn.Conv2d(cin, cout, 3, stride, padding=dilation, dilation=dilation, bias=False)


def shortcut(cin: int, cout: int, stride: int) -> nn.Module:
    """Return a strided 1x1 with norm where the shape changes, else nothing."""
    if stride == 1 and cin == cout:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))


def residual_level(
    block: Callable[..., nn.Module], cin: int, width: int, stride: int, dilations: tuple[int, ...]
) -> nn.Sequential:
    """Return one block per dilation, the first with the stride."""
    first = block(cin, width, stride, dilations[0])
    cout = width * (EXPANSION if isinstance(first, Bottleneck) else 1)
    return nn.Sequential(first, *(block(cout, width, 1, dilation) for dilation in dilations[1:]))


def fetch(variant: str) -> dict[str, Tensor]:
    """Return the published weights of ``variant``, checked by the hash in the file's name."""
    url = VARIANTS[variant].url
    try:
        return hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise FileError(
            f"the published weights of {variant} cannot be had from {url}: {first_line(error)}; "
            "check the network, or give a local file with pretrained=PATH"
        ) from error


def _build(in_channels: int, output_stride: int, variant: str) -> DRN:
    if output_stride != 8:
        raise InputError(
            f"encoder {variant!r} cannot have output_stride {output_stride}; it is made for 8: "
            "use a decoder at output stride 8, or another trunk, e.g. 'resnet50'"
        )
    return DRN(in_channels, variant)


for _variant in VARIANTS:
    ENCODERS.add(_variant, partial(_build, variant=_variant))

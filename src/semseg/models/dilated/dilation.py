r"""Dilation networks: VGG16 without its last pools and padding, and a module that adds context.

Paper:
    Yu, Koltun. "Multi-Scale Context Aggregation by Dilated Convolutions." ICLR 2016.
    arXiv:1511.07122. Layers follow the authors' ``network.py`` and the nets they released
    (``dilation8_pascal_voc``, ``dilation8_camvid``, ``dilation7_kitti``,
    ``dilation10_cityscapes``).

Shapes (H, W divisible by 8; no convolution of the front end pads):
    images       (N, C,    H,          W)
    mirrored     (N, C,    H + 372,    W + 372)    186 pixels on each side
    pool3        (N, 256,  H/8 + 42,   W/8 + 42)
    conv5        (N, 512,  H/8 + 24,   W/8 + 24)   dilation 2; pool4 and pool5 are left out
    fc6, fc7     (N, 4096, H/8,        W/8)        7x7 with dilation 4, then 1x1
    scores       (N, K,    H/8,        W/8)        what the context module takes
    logits       (N, K,    H/8,        W/8)        score i is the centre of pixels 8i to 8i + 7

Parameters:
    134,346,581 for the front end at K = 21. The context module adds 6,803,139 (large, K = 21:
    141,149,720) or, with K maps in every layer, 7,832 at K = 11 (CamVid: 134,313,443), 6,732 at
    K = 11 (KITTI: 134,312,343) and 29,792 at K = 19 (Cityscapes: 134,368,179).

Deviations:
    - Scores are enlarged between the centres of cells up to the border; the authors' fixed
      deconvolution fades towards zero there, by the same factor for every class.
    - The loss is computed at full size, as with the authors' ``--up``; without it they take every
      eighth label.
    - Every image or crop is mirrored at its own border; the authors cut training crops from whole
      mirrored images, so that the margin shows what is really there.
    - VGG16 comes from torchvision and takes RGB in ImageNet's normalisation; the authors' takes
      BGR in 0..255 without the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError, check_images
from semseg.encoders.vgg import STAGES, VGG16, read_vgg16_weights
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.stages import load_earlier_stage
from semseg.nn.init import he_normal_

MARGIN = 186
"""Pixels that the unpadded front end loses on each side."""

EIGHT = (1, 1, 2, 4, 8, 16, 1)
"""Dilations of the 3x3 layers of the eight-layer module (paper, Table 1)."""

LARGE = (2, 2, 4, 8, 16, 32, 32)
"""Their maps in the large module, as multiples of the number of classes."""

Context = Literal["none", "basic", "large"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DilationConfig(ModelConfig):
    """Settings of :class:`Dilation`."""

    context: Context = "none"
    """Context module behind the front end: with as many maps as classes, or up to 32 times as
    many."""

    dilations: tuple[int, ...] = EIGHT
    """Dilations of its 3x3 layers."""

    freeze_front_end: bool = False
    """Train the context module only: the paper's second stage."""

    width: int = 64
    """Channels of VGG16's first stage; all others are multiples of it."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.context not in get_args(Context):
            raise InputError(f"context is 'none', 'basic' or 'large', got {self.context!r}")
        if self.context == "large" and len(self.dilations) != len(LARGE):
            raise InputError(
                f"the large context module has {len(LARGE)} dilations, got {len(self.dilations)}; "
                "use context='basic' for another number"
            )
        if self.context == "none" and self.freeze_front_end:
            raise InputError("freeze_front_end leaves nothing to train without a context module")


class UnpaddedVGG16(VGG16):
    """VGG16 at stride 8 without padding: no fourth and fifth pool, conv5 with dilation 2.

    ``(N, C, H, W) -> (N, 8w, (H - 180) / 8, (W - 180) / 8)``, given as the only feature.
    """

    def __init__(self, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(in_channels, width)
        self.channels, self.strides = self.channels[-1:], (8,)
        for name, conv in self.convs.items():
            if isinstance(conv, nn.Conv2d):
                conv.padding = (0, 0)
                conv.dilation = (2, 2) if name.startswith("conv5") else (1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the last convolution."""
        x = images
        for stage, (_, count) in enumerate(STAGES, 1):
            for i in range(1, count + 1):
                x = F.relu(self.convs[f"conv{stage}_{i}"](x))
            if stage <= 3:
                x = self.pool(x)
        return [x]


class ContextModule(nn.Sequential):
    """3x3 convolutions of growing dilation, then 1x1: ``(N, K, h, w) -> (N, K, h, w)``.

    Args:
        classes: K.
        dilations: of the 3x3 layers; each is followed by a ReLU.
        multiples: maps of each as a multiple of K.
        pad_once: pad all zeros before the first layer, as the released large net does; the
            released basic ones pad each layer.
    """

    def __init__(
        self, classes: int, dilations: tuple[int, ...], multiples: tuple[int, ...], pad_once: bool
    ) -> None:
        layers: list[nn.Module] = [nn.ZeroPad2d(sum(dilations))] if pad_once else []
        cin = classes
        for dilation, multiple in zip(dilations, multiples, strict=True):
            padding = 0 if pad_once else dilation
            conv = nn.Conv2d(cin, classes * multiple, 3, padding=padding, dilation=dilation)
            layers += [identity_(conv, classes), nn.ReLU()]
            cin = conv.out_channels
        super().__init__(*layers, identity_(nn.Conv2d(cin, classes, 1), classes))


def identity_(conv: nn.Conv2d, groups: int, noise: float = 0.01) -> nn.Conv2d:
    """Let ``conv`` pass its input on, with a little noise: equation 5 of the paper, in place.

    Args:
        conv: its input and output channels are multiples of ``groups``.
        groups: classes; maps of the same class pass to each other.
        noise: standard deviation of all other weights, relative to those that pass.

    Example:
        >>> conv = identity_(nn.Conv2d(2, 4, 3, padding=1), groups=2, noise=0)
        >>> conv(torch.ones(1, 2, 1, 1)).flatten().tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    passed = groups / conv.out_channels
    cout, cin, height, width = conv.weight.shape
    same = torch.arange(cout)[:, None] * groups // cout == torch.arange(cin) * groups // cin
    with torch.no_grad():
        conv.weight.normal_(std=noise * passed)
        conv.weight[:, :, height // 2, width // 2].masked_fill_(same.to(conv.weight.device), passed)
        if conv.bias is not None:
            conv.bias.zero_()
    return conv


def mirror(x: Tensor, before: int, after: tuple[int, int]) -> Tensor:
    """Grow ``(N, C, H, W)`` by reflection without repeating the border, any number of times.

    Args:
        x: images.
        before: new rows above and columns on the left.
        after: new rows below and columns on the right.
    """
    for axis, more in zip((-2, -1), after, strict=True):
        size = x.shape[axis]
        period = max(2 * (size - 1), 1)
        position = torch.arange(-before, size + more, device=x.device) % period
        x = x.index_select(axis, torch.minimum(position, period - position))
    return x


PAPER = {
    "paper": "arXiv:1511.07122",
    "year": 2016,
    "repository": "https://github.com/fyu/dilation",
    "verified": "reference output",
    "small": {"width": 2},
}
CONTEXT_IDEA = (
    "A module of convolutions with exponentially growing dilation turns scores into scores that "
    "know their surroundings, and starts as the identity."
)


@register(
    "dilation_frontend",
    DilationConfig(),
    title="Dilation front end (VGG16)",
    idea="A classification network without its last pools and without padding, made dense by "
    "dilation, is simpler and better than one that keeps them.",
    num_params=134_346_581,
    published=(
        Published("PASCAL VOC 2012 test", 67.6, "paper, Table 2"),
        Published("PASCAL VOC 2012 test", 71.3, "paper, Table 4; COCO"),
    ),
    **PAPER,
)
@register(
    "dilation8",
    DilationConfig(context="large"),
    title="Dilation8 (PASCAL VOC), large context module",
    idea=CONTEXT_IDEA,
    num_params=141_149_720,
    published=(
        Published("PASCAL VOC 2012 val", 72.1, "paper, Table 3; COCO"),
        Published("PASCAL VOC 2012 test", 73.5, "paper, Table 4; COCO"),
    ),
    **PAPER,
)
@register(
    "dilation8_camvid",
    DilationConfig(context="basic", num_classes=11),
    title="Dilation8 (CamVid), basic context module",
    idea=CONTEXT_IDEA,
    num_params=134_313_443,
    paper_size=(480, 640),
    published=(Published("CamVid test", 65.3, "paper, Table 5"),),
    **PAPER,
)
@register(
    "dilation7",
    DilationConfig(context="basic", num_classes=11, dilations=(1, 1, 2, 4, 8, 1)),
    title="Dilation7 (KITTI), basic context module",
    idea=CONTEXT_IDEA,
    num_params=134_312_343,
    paper_size=(370, 1226),
    published=(Published("KITTI (split of Ros et al.)", 59.2, "paper, Table 6"),),
    **PAPER,
)
@register(
    "dilation10",
    DilationConfig(context="basic", num_classes=19, dilations=(1, 1, 2, 4, 8, 16, 32, 64, 1)),
    title="Dilation10 (Cityscapes), basic context module",
    idea=CONTEXT_IDEA,
    num_params=134_368_179,
    paper_size=(1024, 2048),
    published=(
        Published("Cityscapes val", 68.7, "paper, Table 7"),
        Published("Cityscapes test", 67.1, "paper, Table 7"),
    ),
    **PAPER,
)
class Dilation(SegmentationModel):
    """Front end, and context module if any; see the module docstring.

    The paper trains the front end first. ``pretrained`` of a network with a context module takes
    a trained ``dilation_frontend``: the names of their layers agree.
    """

    multiple_of = 8

    def __init__(self, config: DilationConfig) -> None:
        super().__init__(config)
        w, classes = config.width, config.num_classes
        self.encoder = UnpaddedVGG16(config.in_channels, w)
        self.fc6 = nn.Conv2d(8 * w, 64 * w, 7, dilation=4)
        self.fc7 = nn.Conv2d(64 * w, 64 * w, 1)
        self.dropout = nn.Dropout(0.5)
        self.final = nn.Conv2d(64 * w, classes, 1)
        for layer in (self.fc6, self.fc7, self.final):
            he_normal_(layer)
        nn.init.normal_(self.final.weight, std=0.001)
        self.context: nn.Module = nn.Identity()
        if config.context != "none":
            large = config.context == "large"
            multiples = LARGE if large else (1,) * len(config.dilations)
            self.context = ContextModule(classes, config.dilations, multiples, pad_once=large)
        self.frozen = config.freeze_front_end
        if self.frozen:
            for part in (self.encoder, self.fc6, self.fc7, self.final):
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> Dilation:
        """Set the mode; a frozen front end keeps its dropout off."""
        super().train(mode)
        if self.frozen:
            self.dropout.eval()
        return self

    def pad(self, images: Tensor) -> Tensor:
        """Return checked images, grown right and below to multiples of 8 by reflection."""
        check_images(type(self).__name__, images, self.config.in_channels, self.min_size)
        height, width = images.shape[-2:]
        return mirror(images, 0, (-height % 8, -width % 8))

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/8, W/8)``."""
        x = self.encoder(mirror(images, MARGIN, (MARGIN, MARGIN)))[-1]
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.dropout(F.relu(self.fc7(x)))
        return {"logits": self.context(self.final(x))}

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load VGG16 with its hidden layers, or a trained front end.

        Args:
            source: see :func:`semseg.encoders.vgg.read_vgg16_weights`; or a weights file or run
                of ``dilation_frontend`` where this network has a context module.

        Raises:
            FileError: the weights cannot be had or do not fit.
            InputError: published weights for a network that does not have the paper's width.
        """
        staged = isinstance(self.context, ContextModule)
        if staged and load_earlier_stage(self, source, ("dilation_frontend",)):
            return
        weights = read_vgg16_weights(source)
        self.encoder.copy_weights(weights)
        for name, layer in (("fc6", self.fc6), ("fc7", self.fc7)):
            layer.load_state_dict({k: weights[f"{name}.{k}"] for k in ("weight", "bias")})

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return what starts from VGG16 as ``"encoder"``, scores and context as ``"head"``."""
        head = [*self.final.parameters(), *self.context.parameters()]
        inside = {id(p) for p in head}
        return {"encoder": [p for p in self.parameters() if id(p) not in inside], "head": head}

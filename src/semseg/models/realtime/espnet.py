r"""ESPNet: a spatial pyramid of dilated convolutions in each module, behind a narrow 1x1.

Paper:
    Mehta, Rastegari, Caspi, Shapiro, Hajishirzi. "ESPNet: Efficient Spatial Pyramid of Dilated
    Convolutions for Semantic Segmentation." ECCV 2018. arXiv:1803.06815. ESPNet-C and ESPNet
    follow the authors' ``train/Model.py``, ESPNet-A and -B the paper's figure of the variants.

Shapes (H, W divisible by 8; C image channels; h = H/8, w = W/8; in brackets what A and B have):
    images       (N, C,       H,   W)
    initial      (N, 16,      H/2, W/2)   3x3 convolution
    with image   (N, 16 + C,  H/2, W/2)   [no image: 16]
    level 2      (N, 64,      H/4, W/4)   strided ESP, then p of them
    joined       (N, 128 + C, H/4, W/4)   its end, its start and the image [A: 64, B: 128]
    level 3      (N, 128,     h,   w)     strided ESP, then q of them
    joined       (N, 256,     h,   w)     its start and its end [A: 128]
    scores       (N, K,       h,   w)     1x1: the logits of A, B and C
    ESPNet       (N, K, H/4, W/4), (N, K, H/2, W/2), (N, K, H, W): enlarged by 2x2 transposed
                 convolutions and merged with the joined features of each level

Parameters:
    363,462 at K = 19 of ESPNet, 349,193 of ESPNet-C, 348,128 of ESPNet-B, 330,144 of ESPNet-A.
    The first two are the authors' code, 365,109 and 349,449 at their K = 20; the others were added
    up by hand.

Deviations:
    - The paper's figure has a 1x1 convolution on the features at 1/2 and an ESP module after the
      last merging; the authors' code, with which the results were made, one 3x3 convolution.
    - With fewer than five classes an ESP module has no channels for its branches: the decoder's is
      then a 3x3 convolution, as the authors advise (issue 13 of their repository).
    - A and B have no code. What A lacks is the joining, and the norm and activation after it; B has
      those, and no image.
    - The authors count "background" as a class (K = 20); here it is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import Preprocessing
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.stages import load_earlier_stage
from semseg.nn.norm import check_batch_norm

WIDTHS = (16, 64, 128)
"""Channels at 1/2, 1/4 and 1/8."""

DILATIONS = (1, 2, 4, 8, 16)
"""Of a module's branches; their number is the paper's K."""

VARIANTS = ("a", "b", "c", "full")

CITYSCAPES = Preprocessing(
    mean=(73.15840149 / 255, 82.90893555 / 255, 72.3923111 / 255),
    std=(44.91483307, 46.15289307, 45.3192215),
)
"""The authors' ``test/VisualizeResults.py``, which divides by the deviation of values from 0 to 255
and by 255 once more: images stay within about 0.02 of zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ESPNetConfig(ModelConfig):
    """Settings of :class:`ESPNet`."""

    variant: str = "full"
    """``"a"``, ``"b"``, ``"c"``, each with more connections than the one before; ``"full"`` adds
    the decoder to C."""

    p: int = 2
    """Modules at 1/4 after the strided one, the paper's alpha 2."""

    q: int = 8
    """Modules at 1/8 after the strided one, the paper's alpha 3; also published: 3 and 5."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.variant not in VARIANTS:
            raise InputError(f"ESPNet has variants {', '.join(VARIANTS)}, got {self.variant!r}")
        if min(self.p, self.q) < 1:
            raise InputError(f"ESPNet needs p and q of at least 1, got {self.p} and {self.q}")


def norm_act(channels: int, eps: float = 1e-3) -> list[nn.Module]:
    """Return a norm and an activation with one slope per channel."""
    return [nn.BatchNorm2d(channels, eps=eps), nn.PReLU(channels)]


def conv3x3(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with norm and activation."""
    conv = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, *norm_act(cout))


def double(cin: int, cout: int) -> nn.Module:
    """Return a transposed convolution that doubles height and width, each pixel by itself."""
    return nn.ConvTranspose2d(cin, cout, 2, stride=2, bias=False)


def shrink(images: Tensor) -> Tensor:
    """Return the image at half size: means of 3x3 pixels, zeros around it counted."""
    return F.avg_pool2d(images, 3, stride=2, padding=1)


class ESP(nn.Module):
    """Reduce, split, transform, merge: ``(N, cin, H, W) -> (N, cout, H, W)``, or half of it.

    Args:
        cin: channels of the input.
        cout: channels of the output, at least five; what a fifth leaves over goes to the branch
            without dilation.
        stride: 2 halves in the reduction, which is then 3x3 instead of 1x1.
        residual: add the input before norm and activation.
    """

    def __init__(self, cin: int, cout: int, stride: int = 1, *, residual: bool = False) -> None:
        super().__init__()
        narrow = cout // len(DILATIONS)
        near = cout - narrow * (len(DILATIONS) - 1)
        kernel = 1 if stride == 1 else 3
        self.residual = residual
        self.reduce = nn.Conv2d(cin, narrow, kernel, stride, padding=kernel // 2, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(narrow, near if d == 1 else narrow, 3, padding=d, dilation=d, bias=False)
            for d in DILATIONS
        )
        self.norm_act = nn.Sequential(*norm_act(cout))

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches side by side, each dilated one with those before it added."""
        narrow = self.reduce(x)
        near, *far = (branch(narrow) for branch in self.branches)
        out = torch.cat([near, *accumulate(far)], dim=1)
        activated: Tensor = self.norm_act(out + x if self.residual else out)
        return activated


class Encoder(nn.Module):
    """Images to features at 1/2, 1/4 and 1/8; :attr:`out_channels` are theirs."""

    def __init__(self, config: ESPNetConfig) -> None:
        super().__init__()
        self.joined = config.variant != "a"
        self.reinforced = config.variant in ("c", "full")
        first, second, third = WIDTHS
        image = config.in_channels if self.reinforced else 0
        wide = 2 * second + image if self.joined else second
        last = 2 * third if self.joined else third
        self.out_channels = (first + image, wide, last)
        self.initial = conv3x3(config.in_channels, first, stride=2)
        self.join1 = nn.Sequential(*norm_act(first + image) if self.reinforced else [])
        self.down2 = ESP(first + image, second, stride=2)
        self.level2 = nn.Sequential(*(ESP(second, second, residual=True) for _ in range(config.p)))
        self.join2 = nn.Sequential(*norm_act(wide) if self.joined else [])
        self.down3 = ESP(wide, third, stride=2)
        self.level3 = nn.Sequential(*(ESP(third, third, residual=True) for _ in range(config.q)))
        self.join3 = nn.Sequential(*norm_act(last) if self.joined else [])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features that the next level takes, the finest first."""
        half = shrink(images)
        quarter = [shrink(half)] if self.reinforced else []
        x = self.initial(images)
        first = self.join1(torch.cat([x, half], dim=1) if self.reinforced else x)
        start = self.down2(first)
        x = self.level2(start)
        second = self.join2(torch.cat([x, start, *quarter], dim=1) if self.joined else x)
        start = self.down3(second)
        x = self.level3(start)
        third = self.join3(torch.cat([start, x], dim=1) if self.joined else x)
        return first, second, third


class Decoder(nn.Module):
    """Scores at 1/8 and features to scores at full size: reduce, upsample, merge, twice."""

    def __init__(self, first: int, second: int, num_classes: int) -> None:
        super().__init__()
        k = num_classes
        self.project = nn.Conv2d(second, k, 1, bias=False)
        self.norm = nn.BatchNorm2d(k, eps=1e-3)
        self.merge1 = conv3x3(first + k, k)
        self.up3 = double(k, k)
        merge = ESP if k >= len(DILATIONS) else conv3x3
        self.merge2 = nn.Sequential(*norm_act(2 * k), merge(2 * k, k))
        self.up2 = nn.Sequential(double(k, k), *norm_act(k))
        self.up1 = double(k, k)

    def forward(self, first: Tensor, second: Tensor, scores: Tensor) -> Tensor:
        """Return logits ``(N, K, H, W)``."""
        x = self.up3(self.norm(scores))
        x = self.up2(self.merge2(torch.cat([self.project(second), x], dim=1)))
        logits: Tensor = self.up1(self.merge1(torch.cat([x, first], dim=1)))
        return logits


PAPER = {
    "paper": "arXiv:1803.06815",
    "year": 2018,
    "repository": "https://github.com/sacmehta/ESPNet",
    "paper_size": (512, 1024),
    "preprocessing": CITYSCAPES,
    "small": {"p": 1, "q": 2},
}


@register(
    "espnet_a",
    ESPNetConfig(num_classes=19, variant="a"),
    title="ESPNet-A",
    idea="A 1x1 convolution narrows, then five dilated ones look at five distances side by side.",
    num_params=330_144,
    verified="arithmetic",
    **PAPER,
)
@register(
    "espnet_b",
    ESPNetConfig(num_classes=19, variant="b"),
    title="ESPNet-B",
    idea="The first and the last module of a level go on together, so that width is had by "
    "joining.",
    num_params=348_128,
    verified="arithmetic",
    **PAPER,
)
@register(
    "espnet_c",
    ESPNetConfig(num_classes=19, variant="c"),
    title="ESPNet-C",
    idea="The shrunken image joins the features of each level.",
    num_params=349_193,
    published=(Published("Cityscapes val", 53.3, "authors, issue 9 of their repository"),),
    verified="reference output",
    **PAPER,
)
@register(
    "espnet",
    ESPNetConfig(num_classes=19),
    title="ESPNet",
    idea="A decoder of K channels reduces, upsamples and merges the levels of ESPNet-C.",
    num_params=363_462,
    published=(
        Published("Cityscapes test", 60.336, "authors' README; 512 x 1024 images"),
        Published("CamVid test", 55.64, "authors' README; 360 x 480 images"),
    ),
    verified="reference output",
    **PAPER,
)
class ESPNet(SegmentationModel):
    """ESPNet and the three networks on the way to it; see the module docstring.

    The paper trains ESPNet-C first, against labels at 1/8, then all of it:
    ``recipes/camvid_espnet_c.yaml`` begins, ``recipes/camvid_espnet.yaml`` follows.
    """

    multiple_of = 8
    align_corners = True  # nn.Upsample of PyTorch 0.3, with which the authors show ESPNet-C

    def __init__(self, config: ESPNetConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        first, second, third = self.encoder.out_channels
        self.classifier = nn.Conv2d(third, config.num_classes, 1, bias=False)
        full = config.variant == "full"
        self.decoder = Decoder(first, second, config.num_classes) if full else None

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``: ``(N, K, H, W)``, or ``(N, K, H/8, W/8)`` of A, B and C."""
        check_batch_norm(type(self).__name__, images, 8, self.training)
        first, second, third = self.encoder(images)
        logits: Tensor = self.classifier(third)
        return {"logits": self.decoder(first, second, logits) if self.decoder else logits}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the one term; A, B and C compare at 1/8 with every eighth label."""
        if self.decoder:
            return super().loss(heads, target, criterion)
        return {"logits": criterion(heads["logits"], target[..., ::8, ::8])}

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load a trained ESPNet-C: the paper's second stage.

        Args:
            source: weights file or run folder of ``espnet_c``.

        Raises:
            InputError: ``source`` is neither, or this is no network with a decoder.
            FileError: it holds another network, or one of other classes or channels.
        """
        if not self.decoder:
            super().load_pretrained(source)
        elif not load_earlier_stage(self, source, ("espnet_c",)):
            raise InputError(
                f"ESPNet starts from the file or run of an espnet_c, got {source}; "
                "recipes/camvid_espnet_c.yaml trains one"
            )

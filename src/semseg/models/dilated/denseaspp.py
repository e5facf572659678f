r"""DenseASPP: five dilated layers in a row, each on everything before it, cover scales densely.

Paper:
    Yang, Yu, Zhang, Li, Yang. "DenseASPP for Semantic Segmentation in Street Scenes." CVPR 2018.
    10.1109/CVPR.2018.00388. Layers follow the authors' ``models/DenseASPP.py`` and ``cfgs/``.

Shapes (H, W divisible by 8; channels of DenseNet-121):
    images         (N, C,    H,   W)
    block 1        (N, 256,  H/4, W/4)   7x7 with stride 2, max-pool, 6 dense layers
    block 2        (N, 512,  H/8, W/8)   1x1 and average-pool, 12 dense layers
    block 3, 4     (N, 1024, H/8, W/8)   dilation 2 and 4; between blocks only a 1x1
    reduced        (N, 512,  H/8, W/8)   1x1 to half, norm, ReLU
    dense pyramid  (N, 832,  H/8, W/8)   64 channels from each of the dilations 3, 6, 12, 18, 24
    logits         (N, K,    H/8, W/8)   1x1

Parameters:
    At K = 19: 8,280,851 (121), 35,395,427 (161), 18,420,675 (169) and 28,639,987 (201).

Deviations:
    - The first pyramid layer activates the reduced feature in place in the authors' code, so that
      all later layers and the classifier see it activated too; here that is written out.
    - Scores are enlarged with aligned corners, as PyTorch 0.3.1 does, which the authors trained
      with; later versions run the same code without.
    - Images take ImageNet's mean and deviation, which the trunk's weights were trained with; the
      authors take Cityscapes'.
    - The authors' trunk at stride 16 and their MobileNet are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.encoders.base import Encoder
from semseg.encoders.timm import adapt_stem
from semseg.encoders.weights import chosen_tensors, fill_trunk, first_line, read_tensors
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.norm import check_batch_norm

RATES = (3, 6, 12, 18, 24)
"""Dilations of the pyramid's layers."""

DILATIONS = (1, 1, 2, 4)
"""Dilation of each dense block: the last two replace strides."""

BOTTLENECK = 4
"""Channels between a dense layer's two convolutions, as a multiple of the growth rate."""

OLD_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Names in torchvision's published files: ``norm.1`` where layers are called ``norm1`` now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseASPPConfig(ModelConfig):
    """Settings of :class:`DenseASPP`."""

    growth_rate: int = 32
    """Channels that each dense layer of the trunk adds; its stem has twice as many."""

    layers: tuple[int, ...] = (6, 12, 24, 16)
    """Dense layers of the trunk's four blocks."""

    widths: tuple[int, int] = (128, 64)
    """Channels between the two convolutions of a pyramid layer, and those that it adds."""

    dropout: float = 0.1
    """Share of channels zeroed after each pyramid layer and before the classifier."""

    norm_momentum: float = 0.0003
    """Share of each batch in the running statistics of the pyramid; the authors' value needs runs
    of 10,000 steps or more, a shorter one needs e.g. 0.1."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if len(self.layers) != len(DILATIONS) or min(self.layers) < 1:
            raise InputError(
                f"DenseASPP takes {len(DILATIONS)} blocks of at least one layer, "
                f"got layers={self.layers}"
            )
        if min(self.growth_rate, *self.widths) < 1:
            raise InputError(
                "DenseASPP takes growth_rate and widths of at least 1, "
                f"got {self.growth_rate} and {self.widths}"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"DenseASPP takes dropout in [0, 1), got {self.dropout}")
        if not 0 < self.norm_momentum <= 1:
            raise InputError(f"DenseASPP takes norm_momentum in (0, 1], got {self.norm_momentum}")


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3: ``(N, cin, H, W) -> (N, cin + growth_rate, H, W)``."""

    def __init__(self, cin: int, growth_rate: int, dilation: int) -> None:
        super().__init__()
        inner = BOTTLENECK * growth_rate
        self.norm1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(
            inner, growth_rate, 3, padding=dilation, dilation=dilation, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the new channels behind the old ones."""
        new = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(new)))], 1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 to half the channels; average-pooled where ``pool``."""

    def __init__(self, cin: int, pool: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(cin)
        self.conv = nn.Conv2d(cin, cin // 2, 1, bias=False)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, cin // 2, H, W)``, or half as high and wide."""
        out: Tensor = self.conv(F.relu(self.norm(x)))
        return F.avg_pool2d(out, 2) if self.pool else out


class DilatedDenseNet(Encoder):
    """DenseNet whose last two pools are replaced by dilation; names of layers are torchvision's.

    Features are those of the four dense blocks, at strides 4, 8, 8, 8.
    """

    def __init__(self, in_channels: int, growth_rate: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.in_channels, self.layers, self.growth_rate = in_channels, layers, growth_rate
        cin, channels = 2 * growth_rate, []
        self.conv0 = nn.Conv2d(in_channels, cin, 7, stride=2, padding=3, bias=False)
        self.norm0 = nn.BatchNorm2d(cin)
        for i, (depth, dilation) in enumerate(zip(layers, DILATIONS, strict=True), 1):
            if i > 1:
                setattr(self, f"transition{i - 1}", Transition(cin, pool=i == 2))
                cin //= 2
            block = nn.Sequential()
            for j in range(1, depth + 1):
                block.add_module(f"denselayer{j}", DenseLayer(cin, growth_rate, dilation))
                cin += growth_rate
            setattr(self, f"denseblock{i}", block)
            channels.append(cin)
        self.channels, self.strides = tuple(channels), (4, 8, 8, 8)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four blocks' features."""
        x = F.max_pool2d(F.relu(self.norm0(self.conv0(images))), 3, stride=2, padding=1)
        features = []
        for i in range(1, len(self.channels) + 1):
            x = self.get_submodule(f"transition{i - 1}")(x) if i > 1 else x
            x = self.get_submodule(f"denseblock{i}")(x)
            features.append(x)
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load ImageNet weights of the plain DenseNet, the stem adapted to the channels.

        Args:
            source: ``True`` fetches torchvision's ``IMAGENET1K_V1``; a path reads a local file in
                torchvision's layout or timm's. Its last norm and classifier are dropped.

        Raises:
            InputError: torchvision has no DenseNet of this size.
            FileError: the weights cannot be fetched or read, or are those of another network.
        """
        fetched = isinstance(source, bool)
        tensors = self._published() if isinstance(source, bool) else read_tensors(Path(source))
        where = "torchvision's file" if fetched else str(source)
        found = {
            OLD_KEY.sub(r"\1\2", key.removeprefix("features.")): value
            for key, value in tensors.items()
        }
        name = "this DenseNet"
        held = chosen_tensors(self, found, where, name, "denseblock")
        held["conv0.weight"] = adapt_stem(held["conv0.weight"], self.in_channels)
        fill_trunk(self, held, where, name, same="growth rate")

    def _published(self) -> dict[str, Tensor]:
        from torchvision import models

        name = next((n for n, size in SIZES.items() if size == (self.growth_rate, self.layers)), "")
        if not name:
            raise InputError(
                f"there are no published weights of a DenseNet with growth_rate "
                f"{self.growth_rate} and layers {self.layers}; give a file with pretrained=PATH"
            )
        try:
            weights = models.get_model_weights(name)["IMAGENET1K_V1"]
            tensors: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise FileError(
                f"torchvision's {name} weights cannot be had: {first_line(error)}; "
                "check the network, or give a local file with pretrained=PATH"
            ) from error
        return tensors


SIZES = {
    "densenet121": (32, (6, 12, 24, 16)),
    "densenet161": (48, (6, 12, 36, 24)),
    "densenet169": (32, (6, 12, 32, 32)),
    "densenet201": (32, (6, 12, 48, 32)),
}
"""Growth rate and layers of the published DenseNets."""


def pyramid_layer(cin: int, config: DenseASPPConfig, rate: int, first: bool) -> nn.Sequential:
    """Return norm, ReLU, 1x1, norm, ReLU, dilated 3x3 and dropout of whole channels.

    The first layer has neither norm nor ReLU: its input has been through both.
    """
    inner, cout = config.widths
    momentum = config.norm_momentum
    before = [] if first else [nn.BatchNorm2d(cin, momentum=momentum), nn.ReLU()]
    return nn.Sequential(
        *before,
        nn.Conv2d(cin, inner, 1),
        nn.BatchNorm2d(inner, momentum=momentum),
        nn.ReLU(),
        nn.Conv2d(inner, cout, 3, padding=rate, dilation=rate),
        nn.Dropout2d(config.dropout),
    )


FACTS = {
    "paper": "10.1109/CVPR.2018.00388",
    "year": 2018,
    "idea": "Dilated convolutions that see each other's outputs cover a wide range of scales "
    "densely, where parallel ones leave gaps.",
    "repository": "https://github.com/DeepMotionAIResearch/DenseASPP",
    "paper_size": (512, 512),
    "verified": "reference output",
}


@register(
    "denseaspp_121",
    DenseASPPConfig(num_classes=19),
    title="DenseASPP (DenseNet-121)",
    num_params=8_280_851,
    small={"growth_rate": 2, "layers": (1, 2, 2, 1), "widths": (4, 2)},
    **FACTS,
)
@register(
    "denseaspp_161",
    DenseASPPConfig(num_classes=19, growth_rate=48, layers=(6, 12, 36, 24), widths=(512, 128)),
    title="DenseASPP (DenseNet-161)",
    num_params=35_395_427,
    small={"growth_rate": 3, "layers": (1, 2, 3, 2), "widths": (8, 2)},
    published=(
        Published("Cityscapes val", 79.9, "README of the authors' code"),
        Published("Cityscapes val", 80.6, "README of the authors' code: several scales"),
        Published("Cityscapes test", 79.5, "README of the authors' code: several scales"),
    ),
    **FACTS,
)
@register(
    "denseaspp_169",
    DenseASPPConfig(num_classes=19, layers=(6, 12, 32, 32), widths=(336, 168)),
    title="DenseASPP (DenseNet-169)",
    num_params=18_420_675,
    small={"growth_rate": 2, "layers": (1, 2, 2, 2), "widths": (6, 3)},
    **FACTS,
)
@register(
    "denseaspp_201",
    DenseASPPConfig(num_classes=19, layers=(6, 12, 48, 32), widths=(480, 240)),
    title="DenseASPP (DenseNet-201)",
    num_params=28_639_987,
    small={"growth_rate": 2, "layers": (1, 2, 4, 2), "widths": (6, 3)},
    **FACTS,
)
class DenseASPP(SegmentationModel):
    """DenseASPP over a dilated DenseNet; see the module docstring."""

    multiple_of = 8
    align_corners = True

    def __init__(self, config: DenseASPPConfig) -> None:
        super().__init__(config)
        self.encoder = DilatedDenseNet(config.in_channels, config.growth_rate, config.layers)
        channels = self.encoder.channels[-1]
        self.reduce = Transition(channels, pool=False)
        channels //= 2
        self.norm = nn.BatchNorm2d(channels)
        self.pyramid = nn.ModuleList()
        for rate in RATES:
            self.pyramid.append(pyramid_layer(channels, config, rate, first=rate == RATES[0]))
            channels += config.widths[1]
        self.head = nn.Sequential(
            nn.Dropout2d(config.dropout), nn.Conv2d(channels, config.num_classes, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/8, W/8)``."""
        check_batch_norm(type(self).__name__, images, 8, self.training)
        x = F.relu(self.norm(self.reduce(self.encoder(images)[-1])))
        for layer in self.pyramid:
            x = torch.cat([layer(x), x], 1)  # in front: the order of the authors' weights
        return {"logits": self.head(x)}

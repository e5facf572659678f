r"""ReSeg: recurrent cells sweep VGG16's features in four directions.

Paper:
    Visin, Ciccone, Romero, Kastner, Cho, Bengio, Matteucci, Courville. "ReSeg: A Recurrent Neural
    Network-based Model for Semantic Segmentation." CVPR Workshops 2016. arXiv:1511.07053; its
    layers are those of ReNet, arXiv:1505.00393. Widths and initial values follow the authors'
    ``evaluate_camvid.py`` and ``layers.py``.

Shapes (H, W divisible by 4; w = width = 64, U = units = 100, F = filters = 50):
    images      (N, C, H, W)
    trunk       (N, 4w, H/4, W/4)   VGG16 to conv3_3, before its pool
    ReNet, 2    (N, 2U, H/4, W/4)   columns down and up, then rows right and left
    up, 2       (N, F, H/2, W/2), (N, F, H, W)   2x2 transposed convolutions with ReLU
    logits      (N, K, H, W)        1x1

Parameters:
    2,544,549 at K = 11: 1,735,488 of the trunk, 758,400 of the recurrent cells, 50,661 after them.
    Lasagne's cells have one bias where PyTorch's have two: 2,542,149 there.

Deviations:
    - PyTorch's cell adds its second bias to the candidate before the reset gate closes on it; at
      zero the cell is Lasagne's, with the update gate's sign turned.
    - In the authors' code the second cell of a pair reads the outputs of the first one instead of
      the features, and rows come before columns: 136,800 parameters less. Here are the paper's.
    - The authors keep the trunk as it was trained on ImageNet; here it learns with the rest.
    - Their trunk takes BGR less the mean of ImageNet; here images are normalised as torchvision's
      weights want them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.vgg import NAMES, STAGES, VGG16
from semseg.models.base import ModelConfig, Published, SegmentationModel, register

DEPTH = 3
"""Stages of VGG16 in the trunk."""

KEPT = NAMES[: sum(count for _, count in STAGES[:DEPTH])]
"""Its convolutions."""

STRIDE = 2 ** (DEPTH - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReSegConfig(ModelConfig):
    """Settings of :class:`ReSeg`."""

    width: int = 64
    """Channels of VGG16's first stage."""

    units: int = 100
    """U, of every cell."""

    layers: int = 2
    """ReNet layers."""

    filters: int = 50
    """F, of the transposed convolutions."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if min(self.width, self.units, self.layers, self.filters) < 1:
            raise InputError(
                "ReSeg needs a width, units, layers and filters of at least 1, got "
                f"{self.width}, {self.units}, {self.layers} and {self.filters}"
            )


class Trunk(VGG16):
    """VGG16 to conv3_3: ``(N, w, H, W)``, ``(N, 2w, H/2, W/2)``, ``(N, 4w, H/4, W/4)``."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__(in_channels, width)
        for name in NAMES[len(KEPT) :]:
            del self.convs[name]
        self.channels, self.strides = self.channels[:DEPTH], self.strides[:DEPTH]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the last convolution of each stage."""
        x, features = images, list[Tensor]()
        for stage, (_, count) in enumerate(STAGES[:DEPTH], 1):
            x = self.pool(x) if features else x
            for i in range(1, count + 1):
                x = F.relu(self.convs[f"conv{stage}_{i}"](x))
            features.append(x)
        return features

    def copy_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy the convolutions that this trunk has; see :meth:`VGG16.copy_weights`."""
        super().copy_weights({k: v for k, v in weights.items() if k.split(".")[0] in KEPT})


class Cells(nn.GRU):
    """Two cells from the two ends of L lines of p places: ``(N, L, p, C) -> (N, L, p, 2U)``.

    Args:
        cin: C.
        units: U.
    """

    def __init__(self, cin: int, units: int) -> None:
        super().__init__(cin, units, batch_first=True, bidirectional=True)

    def forward(self, lines: Tensor) -> Tensor:  # type: ignore[override]
        """Return the states of the first cell and of the second, from zero."""
        x = lines.flatten(0, 1)
        start = x.new_zeros(2, len(x), self.hidden_size)
        # GRU.forward reads a list of its own, which torch.export takes for constants
        weights: list[Tensor] = [weight for layer in self.all_weights for weight in layer]
        states = torch.gru(x, start, weights, True, 1, 0.0, self.training, True, True)[0]
        return states.reshape(*lines.shape[:3], -1)


class ReNet(nn.Module):
    """Columns down and up, then rows right and left: ``(N, C, h, w)`` to ``(N, 2U, h, w)``.

    The cells of a row read what those of the columns have left there, so that every pixel of the
    result has seen all of the map. Patches are single pixels, as in all of ReSeg.

    Args:
        cin: C.
        units: U.
    """

    def __init__(self, cin: int, units: int) -> None:
        super().__init__()
        self.columns, self.rows = Cells(cin, units), Cells(2 * units, units)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states of all cells, each pair's first before its second."""
        x = self.columns(x.permute(0, 3, 2, 1))  # (N, w, h, C)
        out: Tensor = self.rows(x.transpose(1, 2)).permute(0, 3, 1, 2)
        return out


@register(
    "reseg",
    ReSegConfig(num_classes=11),
    title="ReSeg",
    paper="arXiv:1511.07053",
    year=2016,
    idea="Recurrent cells that sweep the columns and then the rows of a feature map give every "
    "pixel the whole image as its context, at once and without further pooling.",
    repository="https://github.com/fvisin/reseg",
    num_params=2_544_549,
    paper_size=(360, 480),
    published=(Published("CamVid test", 58.8, "paper's table of CamVid: ReSeg"),),
    verified="arithmetic",
    small={"width": 4, "units": 6, "filters": 8},
)
class ReSeg(SegmentationModel):
    """ReSeg; see the module docstring."""

    multiple_of = STRIDE

    def __init__(self, config: ReSegConfig) -> None:
        super().__init__(config)
        units, filters = config.units, config.filters
        self.encoder = Trunk(config.in_channels, config.width)
        widths = [self.encoder.channels[-1]] + [2 * units] * config.layers
        self.renet = nn.Sequential(*(ReNet(cin, units) for cin in widths[:-1]))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(2 * units, filters, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(filters, filters, 2, stride=2),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Conv2d(filters, config.num_classes, 1)
        self._initialise()

    def _initialise(self) -> None:
        """Draw what Lasagne draws; the trunk is He-normal until it gets VGG16's weights."""
        for name, parameter in self.renet.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.1)
        for conv in (*self.up, self.classifier):
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(conv.weight)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at the images' size."""
        x = self.renet(self.encoder(images)[-1])
        return {"logits": self.classifier(self.up(x))}

r"""DPT: tokens of four blocks made into a pyramid of maps, fused by a convolutional decoder.

Paper:
    Ranftl, Bochkovskiy, Koltun. "Vision Transformers for Dense Prediction." ICCV 2021.
    arXiv:2103.13413, section 3, figure 1 and the supplement. Details follow the authors' code;
    the network is DPT-Large for segmentation.

Shapes (H, W divisible by 32; D = 1024 of ViT-L/16; e = width = 256):
    images      (N, C, H, W)
    tokens      (N, 1 + H/16 * W/16, D)   after blocks 6, 12, 18, 24
    reassemble  (N, 256, H/4, W/4), (N, 512, H/8, W/8), (N, 1024, H/16, W/16), (N, 1024, H/32, W/32)
    pyramid     (N, e, ...) of each
    fused       (N, e, H/16, W/16), (N, e, H/8, W/8), (N, e, H/4, W/4), (N, e, H/2, W/2)
    logits      (N, K, H/2, W/2)
    aux         (N, K, H/4, W/4)

Parameters:
    342,711,338 at K = 21. The implementation in transformers has 1,182,720 more that no output
    depends on: the trunk's last norm and the first fusion's unit for a second input.

Deviations:
    - The auxiliary head stands where the paper puts it, on the penultimate fusion with weight 0.2;
      in transformers it is on the last with 0.4. The authors' code has it and does not say where.
    - DPT-Hybrid, whose trunk starts with a ResNet, and other readouts than the projected one are
      left out.
    - Published networks of transformers have norms with eps 1e-12 for the trunk's 1e-6, a
      difference below 1e-5 of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.attention import to_map
from semseg.encoders.vit import HALF, PATCH, VisionTransformer, check_image_size, variant
from semseg.models.base import ModelConfig, Published, SegmentationModel, register

FACTORS = (4.0, 2.0, 1.0, 0.5)
"""By which the maps of patches are resized."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DPTConfig(ModelConfig):
    """Settings of :class:`DPT`."""

    trunk: str = "vit_large_patch16_384"
    """Vision transformer; vit_base_patch16_384 with ``neck=(96, 192, 384, 768)`` is DPT-Base."""

    image_size: int = 384
    """Side of the images that the position embedding belongs to."""

    neck: tuple[int, ...] = (256, 512, 1024, 1024)
    """Channels of the four reassembled maps, finest first."""

    width: int = 256
    """Channels of the decoder."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        variant(self.trunk)
        check_image_size(self.image_size)
        if len(self.neck) != 4 or min(self.neck) < 1 or self.width < 1:
            raise InputError(
                f"DPT needs four positive numbers as neck and width >= 1, got {self.neck} and "
                f"{self.width}"
            )


class Reassemble(nn.Module):
    """Tokens to a map of another size: ``(N, 1 + h * w, D) -> (N, e, f * h, f * w)``.

    Args:
        width: D.
        neck: channels at which the map is resized.
        factor: f.
        cout: e.
    """

    def __init__(self, width: int, neck: int, factor: float, cout: int) -> None:
        super().__init__()
        self.readout = nn.Linear(2 * width, width)
        self.project = nn.Conv2d(width, neck, 1)
        self.resize: nn.Module = nn.Identity()
        if factor > 1:
            self.resize = nn.ConvTranspose2d(neck, neck, int(factor), stride=int(factor))
        elif factor < 1:
            self.resize = nn.Conv2d(neck, neck, 3, stride=int(1 / factor), padding=1)
        self.out = nn.Conv2d(neck, cout, 3, padding=1, bias=False)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the map; every patch reads what the class token has."""
        readout, patches = tokens[:, :1], tokens[:, 1:]
        x = F.gelu(self.readout(torch.cat([patches, readout.expand_as(patches)], dim=-1)))
        out: Tensor = self.out(self.resize(self.project(to_map(x, size))))
        return out


class ResidualUnit(nn.Module):
    """Two activated 3x3 convolutions around which the input goes: ``(N, C, h, w)`` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum; activations stand before the convolutions."""
        out = self.norm1(self.conv1(F.relu(x)))
        out = self.norm2(self.conv2(F.relu(out)))
        total: Tensor = out + x
        return total


class Fusion(nn.Module):
    """A coarser map and a finer one, doubled: ``(N, C, h, w)``, twice, to ``(N, C, 2 h, 2 w)``."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.side = None if first else ResidualUnit(width)
        self.unit = ResidualUnit(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return the fused map; the first of the decoder has no second input."""
        if self.side is not None:
            x = x + self.side(side)
        x = F.interpolate(self.unit(x), scale_factor=2, mode="bilinear", align_corners=True)
        out: Tensor = self.project(x)
        return out


def scores_head(width: int, num_classes: int) -> nn.Sequential:
    """3x3, BatchNorm, ReLU, dropout, 1x1: ``(N, C, h, w) -> (N, K, h, w)``."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Dropout(0.1),
        nn.Conv2d(width, num_classes, 1),
    )


@register(
    "dpt",
    DPTConfig(),
    title="DPT (Large)",
    paper="arXiv:2103.13413",
    year=2021,
    idea="A transformer keeps its resolution and sees everything at every depth; its tokens are "
    "reassembled into a pyramid that convolutions fuse.",
    repository="https://github.com/isl-org/DPT",
    num_params=342_711_338,
    paper_size=(480, 480),
    published=(
        Published("ADE20K val", 47.63, "paper, Table 4: DPT-Large"),
        Published("ADE20K val", 49.02, "paper, Table 4: DPT-Hybrid, another trunk"),
    ),
    preprocessing=HALF,
    verified="reference output",
    small={"trunk": "test_vit", "image_size": 64, "neck": (8, 12, 16, 16), "width": 8},
)
class DPT(SegmentationModel):
    """DPT for segmentation; see the module docstring."""

    multiple_of = 2 * PATCH
    align_corners = True
    aux_weights = {"aux": 0.2}  # noqa: RUF012

    def __init__(self, config: DPTConfig) -> None:
        super().__init__(config)
        width, depth, *_ = variant(config.trunk)
        layers = tuple(depth * i // 4 for i in range(1, 5))
        self.encoder = VisionTransformer(
            config.trunk, config.in_channels, config.image_size, layers
        )
        self.reassemble = nn.ModuleList(
            Reassemble(width, neck, factor, config.width)
            for neck, factor in zip(config.neck, FACTORS, strict=True)
        )
        self.fusions = nn.ModuleList(Fusion(config.width, first=i == 0) for i in range(4))
        self.head = scores_head(config.width, config.num_classes)
        self.aux = scores_head(config.width, config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 2 and ``"aux"`` at stride 4."""
        size = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        maps = [
            reassemble(tokens, size)
            for tokens, reassemble in zip(self.encoder.tokens(images), self.reassemble, strict=True)
        ]
        coarse, second, third, last = self.fusions
        x = coarse(maps[3])
        x = second(x, maps[2])
        penultimate = third(x, maps[1])
        logits = self.head(last(penultimate, maps[0]))
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "aux": self.aux(penultimate)}

    def no_weight_decay(self) -> set[str]:
        """Return the class token and the position embedding, as is usual for the trunk."""
        return {"encoder.cls_token", "encoder.pos_embed"}

r"""Unified perceptual parsing: scene, objects, their parts, materials and textures in one pass.

Paper:
    Xiao, Liu, Zhou, Jiang, Sun. "Unified Perceptual Parsing for Scene Understanding." ECCV 2018.
    arXiv:1807.10221, section 3 and figure 4. Details follow the authors' code,
    ``models/models.py`` of unifiedparsing, which has no texture head.

Shapes (H, W divisible by 32; w = width, the paper's 512; trunk and pyramid as in ``upernet``):
    images      (N, C, H, W)
    context     (N, w, H/32, W/32)   -> scene (N, S): 3x3, average, 1x1
    P2          (N, w, H/4, W/4)     -> material (N, M, H/4, W/4): 3x3, 1x1
    fused       (N, w, H/4, W/4)     -> logits (N, K, H/4, W/4) of objects: 3x3, 1x1
                                     -> part (N, sum of part_counts, H/4, W/4): 3x3, 1x1
    res2        (N, 256, H/4, W/4)   -> texture (N, T, H/4, W/4): four 3x3 to 128, 1x1

Parameters:
    74,922,993 with Broden+'s classes (K = 336, S = 365, 427 parts of 77 objects, M = 26, T = 47):
    23,631,808 of the trunk, 50,546,818 of the decoder as released, 744,367 of the texture head.

Deviations:
    - The texture head was not released. Its place is figure 4's; four layers of 128 channels, each
      with BatchNorm and ReLU, are this project's reading. It sends no gradient to the trunk,
      because the paper trains it after all else, on images of single textures.
    - ``loss`` trains objects alone, from one target; ``unified_loss`` is the paper's objective.
      With ``loss`` the other heads keep their initial values: leave them out (``scenes=0``, …).
    - Unlabelled pixels carry an ignore id. The authors' code ignores class 0 of objects and
      materials instead, whose score is then never trained.
    - BatchNorm keeps PyTorch's momentum of 0.1; see ``upernet``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import Criterion, ModelConfig, SegmentationModel, register
from semseg.models.pyramid.upernet import (
    STRIDES,
    Context,
    FeaturePyramid,
    authors_init_,
    on_quarter,
    stacked,
)
from semseg.nn.conv import conv_bn_relu
from semseg.nn.norm import check_batch_norm

# fmt: off
PART_OBJECTS = (
    2, 5, 6, 7, 8, 9, 10, 12, 13, 15, 16, 18, 19, 21, 28, 29, 32, 33, 39, 42, 43, 44, 46, 47, 48,
    49, 54, 56, 57, 59, 61, 67, 68, 69, 70, 74, 75, 77, 80, 81, 82, 83, 85, 87, 89, 91, 95, 98,
    104, 105, 106, 108, 109, 110, 111, 113, 117, 120, 122, 127, 131, 141, 142, 143, 145, 153, 154,
    160, 161, 170, 180, 184, 204, 213, 214, 240, 321,
)
"""Object classes of Broden+ that have parts."""

PART_COUNTS = (
    2, 24, 15, 2, 11, 10, 2, 11, 13, 2, 8, 6, 9, 10, 9, 10, 4, 3, 2, 5, 11, 11, 2, 4, 2, 10, 2, 4,
    5, 5, 2, 4, 10, 10, 9, 2, 6, 3, 2, 8, 6, 3, 6, 3, 5, 3, 2, 3, 4, 10, 4, 6, 3, 4, 2, 3, 6, 8, 5,
    6, 4, 10, 10, 2, 3, 4, 3, 3, 2, 8, 2, 2, 3, 3, 2, 2, 2,
)
"""Parts of each of them, the first being "no part"."""
# fmt: on

TEXTURE_WIDTH, TEXTURE_LAYERS = 128, 4
"""Channels and layers of the texture head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UPPConfig(ModelConfig):
    """Settings of :class:`UPP`; ``num_classes`` counts the objects."""

    encoder: str = "resnet50_deep"
    """Trunk with features at strides 4 to 32; the authors' has three 3x3 as stem."""

    width: int = 512
    """Channels of the feature pyramid; the authors' ``upernet_lite`` has 256."""

    scenes: int = 365
    """S; 0 leaves the head out, as for the other tasks."""

    part_objects: tuple[int, ...] = PART_OBJECTS
    """Object classes that have parts."""

    part_counts: tuple[int, ...] = PART_COUNTS
    """Number of parts of each of them, "no part" included."""

    materials: int = 26
    """M."""

    textures: int = 47
    """T."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.width < 1:
            raise InputError(f"UPP needs width >= 1, got {self.width}")
        if len(self.part_objects) != len(self.part_counts):
            raise InputError(
                f"UPP needs one number of parts per object with parts, got "
                f"{len(self.part_objects)} part_objects and {len(self.part_counts)} part_counts"
            )
        counts = {name: getattr(self, name) for name in ("scenes", "materials", "textures")}
        if wrong := [f"{name}={count}" for name, count in counts.items() if count < 0]:
            raise InputError(f"UPP takes 0 or more classes of a task, got {', '.join(wrong)}")


@register(
    "upp_resnet50",
    UPPConfig(num_classes=336),
    title="UPerNet for unified perceptual parsing",
    paper="arXiv:1807.10221",
    year=2018,
    idea="Every level of perception is read where its information lies in one pyramid: scenes "
    "from its top, objects and parts from all levels, materials and textures from the finest.",
    repository="https://github.com/CSAILVision/unifiedparsing",
    num_params=74_922_993,
    paper_size=(512, 512),
    verified="reference output",
    small={
        "encoder": "test_resnet",
        "width": 16,
        "scenes": 4,
        "part_objects": (1, 3),
        "part_counts": (2, 3),
        "materials": 3,
        "textures": 4,
    },
    xfail={
        "test_every_parameter_gets_a_gradient_from_the_networks_loss": "one target trains the "
        "object head alone; unified_loss reaches every parameter"
    },
)
class UPP(SegmentationModel):
    """UPerNet with five heads; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    task_weights: ClassVar[Mapping[str, float]] = {
        "object": 1.0,
        "part": 0.5,
        "scene": 0.25,
        "material": 1.0,
        "texture": 1.0,
    }
    """Weight of each task in :meth:`unified_loss`; texture is trained by itself."""

    def __init__(self, config: UPPConfig) -> None:
        super().__init__(config)
        width = config.width
        self.part_objects, self.part_counts = config.part_objects, config.part_counts
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.multiple_of = max(self.encoder.strides)
        self.places = [self.encoder.index_of(stride) for stride in STRIDES]
        *channels, deepest = [self.encoder.channels[i] for i in self.places]
        self.context = Context(deepest, width, pool=precise_average)
        self.pyramid = FeaturePyramid(channels, width)
        self.fusion = conv_bn_relu(len(STRIDES) * width, width, 3)
        tasks: dict[str, nn.Module] = {}
        if config.scenes:
            tasks["scene"] = scene_head(width, config.scenes)
        tasks["object"] = dense_head(width, config.num_classes)
        if config.part_counts:
            tasks["part"] = dense_head(width, sum(config.part_counts))
        if config.materials:
            tasks["material"] = dense_head(width, config.materials)
        if config.textures:
            tasks["texture"] = texture_head(channels[0], config.textures)
        self.tasks = nn.ModuleDict(tasks)
        for part in (self.context, self.pyramid, self.fusion, self.tasks):
            authors_init_(part)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` of objects, and every head that the config has classes for."""
        check_batch_norm(type(self).__name__, images, self.multiple_of, self.training)
        features = self.encoder(images)
        *finer, deepest = [features[i] for i in self.places]
        context = self.context(deepest)
        levels = self.pyramid(finer, context)
        fused = self.fusion(stacked(levels))
        seen = {
            "scene": context,
            "object": fused,
            "part": fused,
            "material": levels[0],
            "texture": finer[0].detach(),
        }
        out = {
            name: head(seen[name])
            for name, head in self.tasks.items()
            if name == "object" or not self.logits_only
        }
        return {"logits": out.pop("object"), **out}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the one term of objects: scores against every fourth label."""
        return {"logits": criterion(*on_quarter(heads["logits"], target))}

    def unified_loss(
        self, heads: Mapping[str, Tensor], targets: Mapping[str, Tensor], ignore: int = 65535
    ) -> dict[str, Tensor]:
        """Return the weighted cross-entropy of every task that has labels.

        The authors draw each batch from one source: objects, parts and scenes, or materials.

        Args:
            heads: what :meth:`forward_heads` gave for the padded images.
            targets: any of ``"object"``, ``"material"`` ``(N, H, W)`` classes; ``"part"``
                ``(N, H, W)`` part within the pixel's object, 0 for no part, which needs
                ``"object"`` too; ``"scene"``, ``"texture"`` ``(N,)`` one class per image.
            ignore: label of what does not count, e.g. parts of an object that has none marked.

        Returns:
            One scalar per key of ``targets``; their sum is trained on. A task without a single
            counted label has the term 0.

        Raises:
            InputError: an unknown task, one whose head was left out, or parts without objects.
        """
        if wrong := targets.keys() - {"object", *self.tasks}:
            raise InputError(
                f"UPP has no head for {', '.join(sorted(wrong))}; this network has "
                f"{', '.join(self.tasks)}"
            )
        terms = {}
        for task, labels in targets.items():
            scores = heads["logits" if task == "object" else task]
            if task == "part":
                if "object" not in targets:
                    raise InputError("UPP needs the target 'object' beside 'part', to tell whose")
                terms[task] = self._part_loss(scores, labels, targets["object"], ignore)
            elif task == "texture":  # an image shows one texture, so each of its pixels does
                pixels = labels[:, None, None].expand(-1, *scores.shape[-2:])
                terms[task] = mean_cross_entropy(scores, pixels, ignore)
            elif task == "scene":
                terms[task] = mean_cross_entropy(scores, labels, ignore)
            else:
                terms[task] = mean_cross_entropy(*on_quarter(scores, labels), ignore)
        return {task: self.task_weights[task] * term for task, term in terms.items()}

    def _part_loss(self, scores: Tensor, parts: Tensor, objects: Tensor, ignore: int) -> Tensor:
        """Return the sum over objects of the mean over their pixels, each among its own parts."""
        scores, parts = on_quarter(scores, parts)
        objects = objects[:, 2::4, 2::4]
        groups = torch.split(scores, list(self.part_counts), dim=1)
        means = [
            mean_cross_entropy(group, torch.where(objects == whole, parts, ignore), ignore)
            for group, whole in zip(groups, self.part_objects, strict=True)
        ]
        return torch.stack(means).sum()


def dense_head(width: int, classes: int) -> nn.Sequential:
    """Return 3x3, BatchNorm, ReLU and 1x1: ``(N, width, h, w) -> (N, classes, h, w)``."""
    return nn.Sequential(*conv_bn_relu(width, width, 3), nn.Conv2d(width, classes, 1))


def scene_head(width: int, classes: int) -> nn.Sequential:
    """Return 3x3, the average of all pixels and 1x1: ``(N, width, h, w) -> (N, classes)``."""
    return nn.Sequential(
        *conv_bn_relu(width, width, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(width, classes, 1),
        nn.Flatten(),
    )


def texture_head(cin: int, classes: int) -> nn.Sequential:
    """Return four 3x3 and 1x1: ``(N, cin, h, w) -> (N, classes, h, w)``."""
    widths = [cin, *[TEXTURE_WIDTH] * TEXTURE_LAYERS]
    layers = [conv_bn_relu(first, second, 3) for first, second in pairwise(widths)]
    return nn.Sequential(*layers, nn.Conv2d(TEXTURE_WIDTH, classes, 1))


def mean_cross_entropy(scores: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Return the mean over labels that count, 0 where there is none."""
    total = F.cross_entropy(scores, labels, ignore_index=ignore, reduction="sum")
    return total / (labels != ignore).sum().clamp(min=1)


def precise_average(x: Tensor, bins: int) -> Tensor:
    """Average bins x bins equal parts of the map exactly, as Precise RoI pooling does.

    The map is the surface that interpolates its pixels linearly. Pixel i stands at coordinate i,
    the map reaches from 0 to its length, and beyond the last pixel the surface falls to zero.
    ``(N, C, h, w) -> (N, C, bins, bins)``. Source: Jiang et al., arXiv:1807.11590, equation 6.

    Example:
        >>> precise_average(torch.ones(1, 1, 4, 4), 2)[0, 0]
        tensor([[1.0000, 0.7500],
                [0.7500, 0.5625]])
    """
    rows, columns = (_bin_weights(length, bins, x) for length in x.shape[-2:])
    return rows @ x @ columns.T


def _bin_weights(length: int, bins: int, like: Tensor) -> Tensor:
    """Return the share ``(bins, length)`` of each pixel in each part of one axis."""
    edges = torch.arange(bins + 1, dtype=like.dtype, device=like.device) * (length / bins)
    pixels = torch.arange(length, dtype=like.dtype, device=like.device)
    t = (edges[:, None] - pixels).clamp(-1, 1)
    below = torch.where(t < 0, (1 + t) ** 2, 2 - (1 - t) ** 2) / 2  # integral of a tent up to t
    return below.diff(dim=0) * (bins / length)

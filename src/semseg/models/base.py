"""What every network promises, and how it enters the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core import checks
from semseg.core.criterion import Criterion, Enlarging
from semseg.core.preprocess import Preprocessing
from semseg.core.registry import Registry
from semseg.models.entry import Entry, Published

__all__ = [
    "MODELS",
    "Criterion",
    "Entry",
    "ModelConfig",
    "Published",
    "SegmentationModel",
    "build",
    "preprocessing_for",
    "register",
    "settings_of",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Settings every network has; a network's own config adds what its paper varies."""

    num_classes: int = 21
    """K; 1 means a binary network with one sigmoid channel."""

    in_channels: int = 3
    """Channels of the images."""

    def __post_init__(self) -> None:
        checks.check_num_classes(type(self).__name__.removesuffix("Config"), self.num_classes)
        if self.in_channels < 1:
            raise checks.InputError(f"in_channels must be at least 1, got {self.in_channels}")


class SegmentationModel(nn.Module):
    """A network from images to class scores.

    Shapes:
        - images: ``(N, C, H, W)`` float, normalised as the entry's preprocessing says; any H, W.
        - output: ``(N, K, H, W)`` logits, never probabilities.

    A network writes :meth:`forward_heads`; the rest follows from the class facts below.
    """

    takes: ClassVar[Literal["images", "clouds"]] = "images"
    """What a batch consists of."""

    multiple_of: int = 1
    """Height and width that :meth:`forward_heads` needs are multiples of this; a network with a
    choice of trunk sets it for itself."""

    min_size: ClassVar[int] = 1
    """Least height and width of an image."""

    align_corners: bool = False
    """How the paper's network enlarges its logits bilinearly; one that comes in both ways sets it
    for itself."""

    aux_weights: ClassVar[Mapping[str, float]] = {}
    """Weight in the loss of each head besides ``"logits"``."""

    logits_only: bool = False
    """Whether :meth:`forward_heads` leaves out what ``"logits"`` do not need; :meth:`fuse` sets
    it, and a network with auxiliary heads asks for it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Compute every output a loss may want, at the network's own stride.

        Args:
            images: ``(N, C, H, W)``, H and W multiples of :attr:`multiple_of`.

        Returns:
            ``"logits"`` ``(N, K, h, w)`` and the auxiliary heads of :attr:`aux_weights`; the keys
            do not depend on ``self.training``.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``(N, K, H, W)`` at the size of ``images``.

        Raises:
            InputError: wrong number of dimensions or channels, or smaller than :attr:`min_size`.
            SettingError: integer images.
        """
        heads = self.forward_heads(self.pad(images))
        return self.full_size(heads["logits"], (images.shape[-2], images.shape[-1]))

    def pad(self, images: Tensor) -> Tensor:
        """Return checked images, grown right and below with zeros to a size the network takes."""
        owner = type(self).__name__
        checks.check_images(owner, images, self.config.in_channels, self.min_size)
        (height, width), m = images.shape[-2:], self.multiple_of
        return images if m == 1 else F.pad(images, (0, -width % m, 0, -height % m))

    def blank(self, size: tuple[int, int], batch: int = 1) -> Any:
        """Return a batch of size ``(H, W)`` on the meta device, where it costs nothing."""
        return torch.empty(batch, self.config.in_channels, *size, device="meta")

    def full_size(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return a head's logits at the size ``(H, W)`` of the images before :meth:`pad`."""
        height, width = size
        return self.enlarge(logits, self.padded_size(size))[..., :height, :width]

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return what :meth:`pad` makes of images of ``size`` ``(H, W)``."""
        height, width = size
        m = self.multiple_of
        return height + -height % m, width + -width % m

    @property
    def only_bilinear(self) -> bool:
        """Whether :meth:`full_size` is bilinear and nothing else, as the kernels compute it."""
        cls, base = type(self), SegmentationModel
        return cls.full_size is base.full_size and cls.enlarge is base.enlarge

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits at ``size``: the only place that makes a full-size K-channel tensor.

        Bilinear with :attr:`align_corners`; a network whose paper enlarges otherwise overrides it.
        """
        if logits.shape[-2:] == size:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=self.align_corners)

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return named terms whose sum is trained on; a paper with its own objective overrides it.

        Args:
            heads: what :meth:`forward_heads` gave for the padded images.
            target: ``(N, H, W)`` train ids of the images before padding.
            criterion: the loss of the recipe.

        Returns:
            ``"logits"`` and one weighted scalar per auxiliary head.
        """
        terms = {"logits": self.head_loss(heads["logits"], target, criterion)}
        for name, weight in self.aux_weights.items():
            terms[name] = weight * self.head_loss(heads[name], target, criterion)
        return terms

    def head_loss(self, logits: Tensor, target: Tensor, criterion: Criterion) -> Tensor:
        """Return the criterion of one head at the target's size; it enlarges itself if it can."""
        size = (target.shape[-2], target.shape[-1])
        padded = self.padded_size(size)
        grows = self.only_bilinear and logits.shape[1] > 1 and logits.shape[-2:] != padded
        if grows and isinstance(criterion, Enlarging):
            return criterion.enlarged(logits, target, padded, self.align_corners)
        return criterion(self.full_size(logits, size), target)

    def fuse(self) -> SegmentationModel:
        """Return an equal network for prediction; see :func:`semseg.models.fuse.fused`."""
        from semseg.models.fuse import fused

        return fused(self)

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load published trunk weights into this network.

        Args:
            source: ``True`` for the published place, or a local file of the same weights.

        Raises:
            InputError: the network has no trunk with published weights.
        """
        encoder = getattr(self, "encoder", None)
        if encoder is None or not hasattr(encoder, "load_pretrained"):
            raise checks.InputError(
                f"{type(self).__name__} has no trunk with published weights; "
                "create it without pretrained, or give weights with semseg.load"
            )
        encoder.load_pretrained(source)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters as ``"encoder"`` (a pretrained trunk) and ``"head"`` (the rest)."""
        encoder = getattr(self, "encoder", None)
        inside = {id(p) for p in encoder.parameters()} if isinstance(encoder, nn.Module) else set()
        groups: dict[str, list[nn.Parameter]] = {"encoder": [], "head": []}
        for parameter in self.parameters():
            groups["encoder" if id(parameter) in inside else "head"].append(parameter)
        return groups

    def no_weight_decay(self) -> set[str]:
        """Return names of parameters that the paper keeps out of weight decay, besides norms."""
        return set()


MODELS: Registry[Entry] = Registry("network", "semseg.models")


def register(
    name: str, config: ModelConfig, **facts: Any
) -> Callable[[type[SegmentationModel]], type[SegmentationModel]]:
    """Enter a network under ``name`` with its paper's setting; a class decorator.

    A variant is one more ``register`` line over the same class. ``facts`` are fields of
    :class:`Entry`; a misspelt one is a ``TypeError`` at import.
    """

    def enter(cls: type[SegmentationModel]) -> type[SegmentationModel]:
        MODELS.add(name, Entry(name=name, cls=cls, config=config, **facts))
        return cls

    return enter


def build(entry: Entry, settings: Mapping[str, Any]) -> SegmentationModel:
    """Build ``entry`` with some config fields changed.

    Raises:
        SettingError: a field that the network's config does not have.
    """
    known = {f.name: getattr(entry.config, f.name) for f in fields(entry.config)}
    if unknown := settings.keys() - known.keys():
        raise checks.unknown_setting(entry.name, unknown, known)
    if settings.get("encoder") is not None:
        known |= entry.encoder_defaults
    return entry.cls(type(entry.config)(**(known | dict(settings))))


def preprocessing_for(entry: Entry, model: SegmentationModel) -> Preprocessing:
    """Return what ``model`` takes: its chosen trunk's rule where it has one, else the entry's."""
    chosen = getattr(model.config, "encoder", None) is not None
    rule = getattr(getattr(model, "encoder", None), "preprocessing", None) if chosen else None
    return (rule or entry.preprocessing).for_channels(model.config.in_channels)


def settings_of(model: SegmentationModel) -> dict[str, Any]:
    """Return the network's config as a plain dictionary, for a checkpoint."""
    return asdict(model.config)

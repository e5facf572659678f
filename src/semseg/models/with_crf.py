"""A network whose logits a trained dense CRF refines at full size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from semseg.core.checks import check_images
from semseg.core.preprocess import IMAGENET
from semseg.models.base import Criterion, ModelConfig, SegmentationModel
from semseg.models.stages import load_earlier_stage
from semseg.nn.crf import CRFRNN


class WithCRF(SegmentationModel):
    """Any network with :class:`semseg.nn.crf.CRFRNN` behind it.

    The layer sees the colours of the image: ``images`` are taken to be in ImageNet's normalisation.
    A binary network (K = 1) is refined as two classes, whose logits differ by its one. Auxiliary
    heads stay as they are.

    Args:
        config: the network's own.
        base: what makes the logits; both are trained together.
        earlier: registry names whose weights ``pretrained`` may take for ``base``.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, config: ModelConfig, base: SegmentationModel, earlier: tuple[str, ...]
    ) -> None:
        super().__init__(config)
        self.base, self.earlier = base, earlier
        self.crf = CRFRNN(max(2, config.num_classes))
        rule = IMAGENET.for_channels(config.in_channels)
        for name, values in (("shift", rule.mean), ("scale", rule.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(-1, 1, 1), persistent=False)

    def pad(self, images: Tensor) -> Tensor:
        """Return checked images, grown as the base wants it."""
        check_images(type(self).__name__, images, self.config.in_channels, self.min_size)
        return self.base.pad(images)

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return what :meth:`pad` makes of images of ``size`` ``(H, W)``."""
        return self.base.padded_size(size)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at the size of the images, and the base's heads.

        Those that the CRF refined are ``"unrefined"``; the base's own loss may ask for them.
        """
        if self.logits_only:
            self.base.logits_only = True
        heads = self.base.forward_heads(images)
        scores = self.base.enlarge(heads["logits"], (images.shape[-2], images.shape[-1]))
        colours = images * self.scale.to(images) + self.shift.to(images)
        if scores.shape[1] > 1:
            refined = self.crf(colours, scores)
        else:
            two = self.crf(colours, torch.cat([torch.zeros_like(scores), scores], 1))
            refined = two[:, 1:] - two[:, :1]
        if self.logits_only:
            return {"logits": refined}
        return heads | {"logits": refined, "unrefined": heads["logits"]}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the loss of the refined logits in the place of the base's, and its other terms."""
        refined = {"logits": self.head_loss(heads["logits"], target, criterion)}
        own = dict(heads) | {"logits": heads["unrefined"]}
        return self.base.loss(own, target, criterion) | refined

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load a trained network without CRF, which is how the paper starts; or the base's trunk.

        Args:
            source: a weights file or run of an earlier stage; else what the base takes.

        Raises:
            FileError: the weights cannot be had or do not fit.
        """
        if not load_earlier_stage(self.base, source, self.earlier):
            self.base.load_pretrained(source)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the base's groups; the CRF's parameters belong to the head."""
        groups = self.base.parameter_groups()
        return groups | {"head": [*groups["head"], *self.crf.parameters()]}

    def no_weight_decay(self) -> set[str]:
        """Return the base's names as they are called here."""
        return {f"base.{name}" for name in self.base.no_weight_decay()}

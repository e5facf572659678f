"""What a trunk promises: a pyramid of features that says its own channels and strides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import IMAGENET, Preprocessing
from semseg.core.registry import Registry

OUTPUT_STRIDES = (8, 16, 32)
"""Strides of the deepest feature that a trunk may be asked for."""


class Encoder(nn.Module):
    """A trunk from images to features of falling resolution.

    Attributes:
        channels: channels of each feature, finest first.
        strides: ratio of image size to feature size of each, never falling.
        preprocessing: what its published weights take, for three channels.
        normalised: whether features have gone through a norm of their own, as decoders that begin
            with one ask.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    preprocessing: Preprocessing = IMAGENET
    normalised: bool = False

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of ``(N, C, H, W)`` images, one per entry of :attr:`channels`."""
        raise NotImplementedError

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load published weights; ``True`` from their published place, a path from that file."""
        raise InputError(f"{type(self).__name__} has no published weights")

    def index_of(self, stride: int) -> int:
        """Return the position of the deepest feature at ``stride``; decoders ask, never guess.

        Raises:
            InputError: the trunk has no feature at that stride.
        """
        found = [i for i, s in enumerate(self.strides) if s == stride]
        if not found:
            raise InputError(
                f"the decoder needs a feature at stride {stride}; this encoder has strides "
                f"{', '.join(map(str, self.strides))}. Choose another encoder or output_stride"
            )
        return found[-1]


ENCODERS: Registry[Callable[[int, int], Encoder]] = Registry("encoder", "semseg.encoders")
"""Trunks of this package by name, each built from ``(in_channels, output_stride)``."""

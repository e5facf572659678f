"""The upper part of a timm trunk, for decoders that do not look at the deepest features."""

from __future__ import annotations

from semseg.encoders.timm import TimmEncoder, _build


class ShallowTimmEncoder(TimmEncoder):
    """A timm network without the stages deeper than a stride.

    Args:
        name: timm's name, with or without a tag.
        in_channels: channels of the images.
        deepest: stride of the last feature that is kept.

    Raises:
        InputError: besides :class:`TimmEncoder`'s reasons, no feature at that stride.
    """

    def __init__(self, name: str, in_channels: int = 3, deepest: int = 8) -> None:
        super().__init__(name, in_channels)
        kept = self.index_of(deepest) + 1
        self._settings["out_indices"] = tuple(range(kept))
        self.trunk = _build(name, self._settings)
        self.channels, self.strides = self.channels[:kept], self.strides[:kept]

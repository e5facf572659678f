"""Test-time augmentation: one image seen in several ways, and the mean of what the network says.

Every view is undone on the scores. Flips and quarter turns are exact; other scales are resized
bilinearly, image and scores, with ``align_corners`` off, as mmsegmentation does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from semseg.core.checks import InputError, SettingError, unknown_name

Scores = Callable[[Tensor], Tensor]
"""From normalised images ``(N, C, H, W)`` to logits ``(N, K, H, W)``; K = 1 is one sigmoid
channel."""

TURNS = {"hflip": (0, 1), "vflip": (2, 1), "rot90": (1, 0), "rot180": (2, 0), "rot270": (3, 0)}
"""Quarter turns against the clock, after a mirror image (1) or none, of each word."""

MEANS = ("probabilities", "logits")
_SCALE = "scale="


@dataclass(frozen=True, slots=True)
class Views:
    """In which ways an image is seen; as it is, it is always one of them.

    Every word of ``turns`` doubles the views: they are all the combinations of what it does or
    leaves. ``hflip vflip rot90`` are thus the eight ways to lay down a square. All of that is done
    at the size of the image and at each of ``scales``.

    Args:
        turns: of :data:`TURNS`.
        scales: further sizes, as factors of height and width.
        mean: ``"probabilities"``, as mmsegmentation has it, or ``"logits"``.

    Raises:
        InputError: a scale that is none, or views that repeat.
        UnknownNameError: a word or a kind of mean that does not exist.

    Example:
        >>> views = Views.parse(["hflip", "scale=0.5,1.5"])
        >>> len(views), views.cost(512, 1024)
        (6, 7.0)
    """

    turns: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    mean: str = "probabilities"

    def __post_init__(self) -> None:
        if self.mean not in MEANS:
            raise unknown_name("mean", self.mean, MEANS)
        for word in self.turns:
            if word not in TURNS:
                raise unknown_name("view", word, (*TURNS, _SCALE))
        for scale in self.scales:
            if isinstance(scale, bool) or not isinstance(scale, int | float):
                raise SettingError(f"a scale is a number, got {scale!r}")
            if not (math.isfinite(scale) and scale > 0):
                raise InputError(f"a scale is a factor above 0, got {scale:g}; 0.5 halves")
        if 1 in self.scales:
            raise InputError("scale 1 repeats the image as it is, always a view; leave it out")
        if len(set(self.scales)) < len(self.scales):
            raise InputError(f"scales repeat in {self.scales}; give each one once")
        if len(set(self._places())) < 2 ** len(self.turns):
            raise InputError(
                f"views repeat among the combinations of {' '.join(self.turns)}; leave out a word "
                "that the others make up (rot180 is hflip and vflip)"
            )

    @classmethod
    def parse(cls, words: Iterable[str], mean: str = "probabilities") -> Self:
        """Read words such as ``hflip``, ``rot90`` and ``scale=0.5,0.75,1.25``.

        Raises:
            InputError: a scale that is not a number, or what the class refuses.
            UnknownNameError: a word that does not exist.
        """
        turns: list[str] = []
        scales: list[float] = []
        for word in words:
            if not word.startswith(_SCALE):
                turns.append(word)
                continue
            try:
                scales += [float(number) for number in word.removeprefix(_SCALE).split(",")]
            except ValueError as error:
                raise InputError(
                    f"{word} is not a list of numbers; write it as scale=0.5,0.75,1.25"
                ) from error
        return cls(tuple(turns), tuple(scales), mean)

    def __str__(self) -> str:
        scales = [_SCALE + ",".join(f"{scale:g}" for scale in self.scales)] if self.scales else []
        return " ".join([*self.turns, *scales]) or "none"

    def __len__(self) -> int:
        return len(self._places()) * (1 + len(self.scales))

    def cost(self, height: int, width: int) -> float:
        """Return how many times the pixels of one image of that size the network sees."""
        sizes = [_scaled(height, width, scale) for scale in (1.0, *self.scales)]
        return len(self._places()) * sum(h * w for h, w in sizes) / (height * width)

    def apply(self, scores: Scores) -> Scores:
        """Return what the views say together, in the place of ``scores``.

        Of probabilities the logarithm of the mean is returned (for K = 1 its logit), so that what
        is done with logits gives the same classes and confidence. Besides the view at work one
        running sum is held.

        Example:
            >>> both = Views(("hflip",), mean="logits").apply(lambda images: images.cumsum(-1))
            >>> both(torch.tensor([[[[1.0, 2.0, 3.0]]]])).tolist()
            [[[[3.5, 4.0, 4.5]]]]
        """

        @torch.no_grad()
        def mean(images: Tensor) -> Tensor:
            total: Tensor | None = None
            binary = False
            for seen in self._seen(scores, images):
                binary = seen.shape[1] == 1
                values = seen if self.mean == "logits" else _probabilities(seen)
                total = values.clone() if total is None else total.add_(values)
            assert total is not None  # the image as it is
            total = total.div_(len(self))
            return total if self.mean == "logits" else _logits(total, binary)

        return scores if len(self) == 1 else mean

    def _places(self) -> list[tuple[int, int]]:
        """Return the combinations of the words, one after another, as mirror image and turns."""
        places = []
        for chosen in product((False, True), repeat=len(self.turns)):
            turn, mirrored = 0, 0
            for word, used in zip(self.turns, chosen, strict=True):
                if used:
                    more, mirror = TURNS[word]
                    # a mirror image turns what was turned before the other way round
                    turn = (more - turn if mirror else more + turn) % 4
                    mirrored ^= mirror
            places.append((turn, mirrored))
        return places

    def _seen(self, scores: Scores, images: Tensor) -> Iterator[Tensor]:
        """Yield each view's logits, undone."""
        height, width = images.shape[-2:]
        for scale in (1.0, *self.scales):
            size = _scaled(height, width, scale)
            scaled = images if scale == 1 else _resize(images, size)
            for turn, mirrored in self._places():
                view = scaled.flip(-1) if mirrored else scaled
                seen = _turned(scores(_turned(view, turn)).float(), -turn)
                seen = seen.flip(-1) if mirrored else seen
                yield seen if scale == 1 else _resize(seen, (height, width))


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _turned(values: Tensor, turn: int) -> Tensor:
    return torch.rot90(values, turn, (-2, -1)) if turn else values  # which copies even if none


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values, size, mode="bilinear", align_corners=False)


def _probabilities(logits: Tensor) -> Tensor:
    """Return them for each class; one sigmoid channel becomes two, since 1 - p loses small p."""
    return torch.cat([logits, -logits], 1).sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def _logits(probabilities: Tensor, binary: bool) -> Tensor:
    logs = probabilities.clamp_min_(torch.finfo(probabilities.dtype).tiny).log_()
    return logs[:, :1] - logs[:, 1:] if binary else logs

"""A network as fast as a backend computes it, and proved equal to PyTorch before it counts."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from threading import RLock

import torch
from torch import Tensor

from semseg.core.checks import InputError, unknown_name
from semseg.encoders.weights import first_line
from semseg.models.base import SegmentationModel
from semseg.predict.backends import BACKENDS, HALF, Compute, Scores, choose
from semseg.predict.decide import labels_of, takes_own_stride

ROUNDING = 1e-3
"""Greatest difference of logits that counts as rounding, in their standard deviations."""

SHARE = 0.999
"""Least share of equal labels at which a precision below fp32 is taken by ``"auto"``."""

SIZES = 8
"""Sizes of images that are compiled for; PyTorch computes others."""

MANY = 20
"""Images of one size from which on the seconds that a conversion takes are worth it."""


class Engine:
    """A network, computed by a backend.

    The first image of each size is computed by PyTorch too. In fp32 the two may differ by rounding
    alone; below it, their labels must be equal for at least :data:`SHARE` of the pixels. Otherwise
    PyTorch computes images of that size, and :attr:`notes` says so.

    Args:
        model: the network, in eval mode on its device.
        backend: a name of :data:`semseg.predict.backends.BACKENDS`, or ``"auto"``: the fastest
            that is installed.
        precision: ``"fp32"``; ``"bf16"`` or ``"fp16"`` whatever they change; or ``"auto"``, which
            takes bf16 where the labels stay.

    Raises:
        InputError: the backend is not installed, or does not fit device or precision.
        UnknownNameError: no such backend or precision.
    """

    def __init__(
        self, model: SegmentationModel, backend: str = "eager", precision: str = "fp32"
    ) -> None:
        if precision not in (*HALF, "auto"):
            raise unknown_name("precision", precision, [*HALF, "auto"])
        self.own_stride = takes_own_stride(model)
        self.scores = Scores(model, self.own_stride).eval()
        self.backend, self.precision = backend, precision
        self.notes: list[str] = []
        self._ways = {
            (name, wanted): BACKENDS[name](self.scores, wanted)
            for name in choose(backend, next(model.parameters()).device)
            for wanted in _precisions(name, precision)
        }
        self.streams = 1
        self._lock = RLock()
        self._worth: frozenset[tuple[int, int]] | None = None
        self._ready: dict[tuple[int, ...], Compute] = {}

    @property
    def plain(self) -> bool:
        """Whether the network is computed as it is, so that nothing has to be proved."""
        return (self.backend, self.precision) == ("eager", "fp32")

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits of images as the network takes them, at its own stride where it has one."""
        size = tuple(images.shape)
        if self._worth is not None and size[-2:] not in self._worth:
            return self._plainly(images)
        if self.plain or (size not in self._ready and len(self._ready) >= SIZES):
            return self._plainly(images)
        with self._lock:  # one thread proves, the others wait for it
            if size not in self._ready:
                self._ready[size], logits = self._proved(images)
                if len(self._ready) == SIZES:
                    self.notes.append(f"PyTorch computes images of other sizes than these {SIZES}")
                return logits
        return self._ready[size](images)

    def expect(self, sizes: Mapping[tuple[int, int], int]) -> None:
        """Say how many images will come, by their size as the network takes them.

        With ``"auto"``, PyTorch computes those of which there are fewer than :data:`MANY`. OpenVINO
        then computes as many at a time as there are threads (:attr:`streams`), which takes longer
        for one and less for all.
        """
        if (
            "openvino" in (name for name, _ in self._ways)
            and max(sizes.values(), default=0) >= MANY
        ):
            self.streams = torch.get_num_threads()
        if self.backend == "auto":
            often = sorted(sizes, key=lambda size: (-sizes[size], size))[:SIZES]
            self._worth = frozenset(size for size in often if sizes[size] >= MANY)

    def _plainly(self, images: Tensor) -> Tensor:
        with self._lock:  # PyTorch takes all cores for one image
            out: Tensor = self.scores(images)
        return out

    def _proved(self, images: Tensor) -> tuple[Compute, Tensor]:
        """Return what computes images of this size, and the logits of these."""
        wanted = self._plainly(images)
        for name, precision in self._ways:
            if (found := self._try(name, precision, images, wanted)) is not None:
                return found
        return self._plainly, wanted

    def _try(
        self, name: str, precision: str, images: Tensor, wanted: Tensor
    ) -> tuple[Compute, Tensor] | None:
        what = f"{name} {precision} at {images.shape[-2]} x {images.shape[-1]}"
        try:
            with _silent():
                compute = self._ways[name, precision](images, self.streams)
            logits = compute(images)
        except Exception as error:  # of a package's own kinds
            reason = first_line(error)
            if self.backend != "auto":
                raise InputError(
                    f"{what} cannot compute {type(self.scores.model).__name__}: {reason}; "
                    "take backend='auto' or 'eager'"
                ) from error
            self.notes.append(f"{what} is not possible: {reason}")
            return None
        if precision == "fp32":
            apart = _apart(wanted, logits)
            good = apart <= ROUNDING
            told = f"logits within {apart:.0e} standard deviations of PyTorch's"
        else:
            share = equal_share(self.scores.model, wanted, logits, images)
            good = share >= SHARE or self.precision != "auto"
            told = f"{100 * share:.2f} % of the labels are those of fp32"
        self.notes.append(f"{what}: {told}{'' if good else ', so not taken'}")
        return (compute, logits) if good else None


@contextmanager
def _silent() -> Iterator[None]:
    """Keep back what PyTorch logs and prints of a network it cannot convert: the whole graph."""
    levels = [(handler, handler.level) for handler in logging.getLogger("torch").handlers]
    for handler, _ in levels:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for handler, level in levels:
            handler.setLevel(level)


def _precisions(backend: str, precision: str) -> list[str]:
    if precision != "auto":
        return [precision]
    return ["fp32"] if backend == "onnxruntime" else ["bf16", "fp32"]


def equal_share(model: SegmentationModel, wanted: Tensor, logits: Tensor, images: Tensor) -> float:
    """Return the share of pixels to which two tensors of logits give one label."""
    size = (images.shape[-2], images.shape[-1])
    same = labels_of(model, wanted, size) == labels_of(model, logits, size)
    return float(same.double().mean())


def _apart(wanted: Tensor, logits: Tensor) -> float:
    deviation = float(wanted.double().std())
    largest = float((wanted - logits).abs().max())
    return largest / deviation if deviation > 0 else largest

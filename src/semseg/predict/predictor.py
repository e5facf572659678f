"""One image in, one mask out, with the arithmetic that validation uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checks import InputError
from semseg.core.flush import FlushingThread
from semseg.core.labels import LabelMap
from semseg.core.preprocess import Preprocessing
from semseg.models.base import SegmentationModel
from semseg.postprocess import DenseCRF
from semseg.predict.decide import decide
from semseg.predict.engine import Engine
from semseg.predict.inputs import ImageInput, to_pixels
from semseg.predict.opening import chosen_device, memory_is_short, opened
from semseg.predict.refine import decide_with_crf
from semseg.predict.tiles import tiled
from semseg.predict.tiling import Tiling
from semseg.predict.tta import Views

Found = tuple[NDArray[Any], NDArray[np.float32] | None]
"""A mask, and how sure the network is."""

TILE = 1024
"""About the height and width of tiles where an image does not fit into the memory."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network sees in one image.

    Args:
        mask: ``(H, W)`` train ids; ``uint8``, or ``int32`` when there are more than 255 classes.
        confidence: ``(H, W)`` ``float32`` in [0, 1], the network's probability of the class in
            ``mask``; ``None`` if it was not asked for.
        labels: what the train ids mean.
        path: the image's file, or ``None`` if it came from memory.
    """

    mask: NDArray[Any]
    confidence: NDArray[np.float32] | None
    labels: LabelMap
    path: str | None = None


class Predictor:
    """A trained network that takes images as they come.

    The network runs on one image of its own size at a time, as it is and in float32 unless another
    backend is asked for: exactly as in validation, so that masks score what validation said.
    Subnormal floats count as zero there (:class:`semseg.core.flush.FlushingThread`).

    Args:
        model: a weights file, a run folder (its best weights) or a network; the network is put
            into eval mode and moved to ``device``.
        device: e.g. ``"cpu"`` or ``"cuda:0"``; ``None`` takes a GPU if there is one.
        labels: what the K channels mean; a weights file says it itself.
        preprocessing: what the network takes; a weights file says it itself.
        crf: refines the network's output where it is given; masks then score otherwise than in
            validation.
        backend: what computes the network: ``"eager"`` is PyTorch as in validation; ``"fused"``,
            ``"compile"``, ``"onnxruntime"`` and ``"openvino"`` are faster and proved equal on the
            first image of each size (:class:`semseg.predict.engine.Engine`); ``"auto"`` is the
            fastest that is installed.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"``, or ``"auto"``: bf16 where the labels stay.
        tile: height and width of tiles that larger images are cut into; ``None`` takes images
            whole, but for those that do not fit into the memory (:attr:`notes` names them).
        overlap: share of a tile that the next one covers too.
        blend: how tiles are put together (:class:`semseg.predict.tiling.Tiling`).
        views: in which ways each image is seen (:class:`semseg.predict.tta.Views`), e.g.
            ``Views.parse(["hflip", "scale=0.75,1.25"])``.

    Raises:
        FileError: the weights are missing or damaged.
        InputError: labels or preprocessing are not known, or do not fit the network; a backend
            that is not installed; tiles that do not fit the network, or with a CRF.
        SettingError: ``model`` is none of the three, or there is no such device.
        UnknownNameError: no such backend, precision or blend.
    """

    def __init__(
        self,
        model: SegmentationModel | str | Path,
        device: str | torch.device | None = None,
        *,
        labels: LabelMap | None = None,
        preprocessing: Preprocessing | None = None,
        crf: DenseCRF | None = None,
        backend: str = "eager",
        precision: str = "fp32",
        tile: int | None = None,
        overlap: float = 0.25,
        blend: str = "gaussian",
        views: Views | None = None,
    ) -> None:
        model, labels, preprocessing = opened(model, labels, preprocessing)
        self._thread = FlushingThread()
        self.device = chosen_device(device)
        self.model = model.eval().to(self.device, torch.float32)
        self.labels = labels
        self.preprocessing = preprocessing
        self.channels = model.config.in_channels
        self.crf = crf
        self.engine = Engine(self.model, backend, precision)
        self.views = views or Views()
        facts = {"multiple_of": model.multiple_of, "min_size": model.min_size}
        self.whole = tile is None
        self.tiling = Tiling(
            tile=_fallback(model) if tile is None else tile, overlap=overlap, blend=blend, **facts
        )
        if crf is not None and tile is not None:
            raise InputError(
                "a dense CRF sees the image as a whole; predict with tiles or with the CRF"
            )

    @property
    def notes(self) -> list[str]:
        """What the backend was found to be worth, a line for each size of images."""
        return self.engine.notes

    def expect(self, sizes: Iterable[tuple[int, int]], in_tiles: bool | None = None) -> None:
        """Say of which heights and widths the images will be that are to come.

        ``backend="auto"`` then converts the network only for sizes that it will see often. Which
        these are does not depend on where a killed run is continued.

        Args:
            sizes: of all images.
            in_tiles: whether they are cut up; as the predictor does it, if not given.
        """
        if len(self.views) > 1:
            return  # the network sees other sizes than those of the images
        tiles = not self.whole if in_tiles is None else in_tiles
        own = self.engine.own_stride
        seen: Counter[tuple[int, int]] = Counter()
        for size in sizes:
            windows = self.tiling.windows(*size) if tiles else [size]
            seen.update(self.model.padded_size(w) if own else w for w in windows)
        self.engine.expect(seen)
        if self.engine.streams > 1:
            self._thread = FlushingThread(self.engine.streams)

    def scores(self, images: Tensor) -> Tensor:
        """Return the logits ``(N, K, H, W)`` of normalised images, at their size."""
        if self.engine.plain:
            whole: Tensor = self.model(images)
            return whole
        if not self.engine.own_stride:
            return self.engine(images)
        logits = self.engine(self.model.pad(images))
        return self.model.full_size(logits, (images.shape[-2], images.shape[-1]))

    def in_thread(self, function: Callable[[], Tensor]) -> Tensor:
        """Return what ``function`` computes where subnormal floats count as zero."""
        return self._thread.run(torch.inference_mode()(function))

    def __call__(self, image: ImageInput, confidence: bool = False) -> Prediction:
        """Predict one image.

        Args:
            image: a path, a Pillow image, an array or a tensor, as
                :func:`semseg.predict.inputs.to_pixels` says; of any size.
            confidence: whether to compute :attr:`Prediction.confidence` too.

        Returns:
            The mask, at the image's own size.

        Raises:
            FileError: the file is missing or damaged.
            InputError: shape, channels or range do not fit, the image is too large for the memory,
                or the network's output is not a number.
            SettingError: not an image.
        """
        path = str(image) if isinstance(image, str | Path) else None
        pixels = to_pixels(image, self.channels, self.preprocessing.values)
        images = self.preprocessing(pixels[None]).to(self.device)
        height, width = pixels.shape[-2:]
        fits = max(height, width) <= self.tiling.tile
        try:
            mask, sure = self._thread.run(
                lambda: (
                    self._at_once(images, pixels, confidence)
                    if self.whole or fits
                    else self._in_tiles(images, confidence)
                )
            )
        except RuntimeError as error:
            if not memory_is_short(error):
                raise
            name = f"{path or 'image'} of {height} x {width} pixels"
            if fits or not self.whole or self.crf is not None:
                raise InputError(
                    f"{name} does not fit into the memory of {self.device}; make it or the tiles "
                    "smaller, or take another device"
                ) from error
            self.notes.append(f"{name}: memory is short, so in tiles of {self.tiling.tile}")
            mask, sure = self._thread.run(lambda: self._in_tiles(images, confidence))
        return Prediction(mask, sure, self.labels, path)

    @torch.inference_mode()
    def _at_once(self, images: Tensor, pixels: Tensor, confidence: bool) -> Found:
        compute = None if self.engine.plain else self.engine
        if self.crf is not None:
            scores = self.views.apply(self.scores)
            decision = decide_with_crf(scores, images, pixels, self.crf)
        elif len(self.views) > 1:
            decision = decide(self.views.apply(self.scores), images, confidence)
        else:
            decision = decide(self.model, images, confidence, compute)
        if decision.broken:
            raise InputError(
                "the network's output is not a number: its training diverged, or its weights are "
                "damaged; take an earlier checkpoint"
            )
        small = torch.uint8 if self.labels.ignore_id == 255 else torch.int32
        ids, sure = decision.ids[0].to(small).cpu().numpy(), decision.confidence
        return ids, sure[0].cpu().numpy() if confidence and sure is not None else None

    @torch.inference_mode()
    def _in_tiles(self, images: Tensor, confidence: bool) -> Found:
        rows = tiled(
            self.views.apply(self.scores),
            lambda y, x, h, w: images[0, :, y : y + h, x : x + w],
            (images.shape[-2], images.shape[-1]),
            self.tiling,
            num_classes=self.model.config.num_classes,
            confidence=confidence,
            device=self.device,
        )
        parts = list(rows)
        sure = [part.confidence for part in parts if part.confidence is not None]
        mask = np.concatenate([part.labels for part in parts])
        return mask, np.concatenate(sure) if sure else None


def _fallback(model: SegmentationModel) -> int:
    """Return the size of tiles for images that do not fit: about 1024, as the network takes it."""
    multiple = model.multiple_of
    least = -(-(model.min_size + multiple - 1) // multiple) * multiple
    return max(least, -(-TILE // multiple) * multiple)

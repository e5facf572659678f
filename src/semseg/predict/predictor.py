"""One image in, one mask out, with the arithmetic that validation uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checkpoint import read_info
from semseg.core.checks import InputError, SettingError
from semseg.core.flush import FlushingThread
from semseg.core.labels import LabelMap
from semseg.core.preprocess import Preprocessing
from semseg.models import load
from semseg.models.base import SegmentationModel
from semseg.models.hf import is_hf_folder
from semseg.models.smp import is_smp_folder
from semseg.postprocess import DenseCRF
from semseg.predict.decide import decide
from semseg.predict.inputs import ImageInput, to_pixels
from semseg.predict.refine import decide_with_crf


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

    The network runs in float32 on one image of its own size at a time, exactly as in validation, so
    that masks score what validation said. Subnormal floats count as zero there
    (:class:`semseg.core.flush.FlushingThread`).

    Args:
        model: a weights file, a run folder (its best weights) or a network; the network is put
            into eval mode and moved to ``device``.
        device: e.g. ``"cpu"`` or ``"cuda:0"``; ``None`` takes a GPU if there is one.
        labels: what the K channels mean; a weights file says it itself.
        preprocessing: what the network takes; a weights file says it itself.
        crf: refines the network's output where it is given; masks then score otherwise than in
            validation.

    Raises:
        FileError: the weights are missing or damaged.
        InputError: labels or preprocessing are not known, or do not fit the network.
        SettingError: ``model`` is none of the three, or there is no such device.
    """

    def __init__(
        self,
        model: SegmentationModel | str | Path,
        device: str | torch.device | None = None,
        *,
        labels: LabelMap | None = None,
        preprocessing: Preprocessing | None = None,
        crf: DenseCRF | None = None,
    ) -> None:
        if isinstance(model, str | Path):
            path = Path(model)
            foreign = is_smp_folder(path) or is_hf_folder(path)
            if not foreign:  # those say nothing of classes and normalisation
                info = read_info(path / "best.safetensors" if path.is_dir() else path)
                labels = labels or info.labels
                preprocessing = preprocessing or info.preprocessing
            model = load(path)
        elif not isinstance(model, SegmentationModel):
            raise SettingError(
                f"wanted a network, a weights file or a run folder, got {type(model).__name__}"
            )
        if labels is None or preprocessing is None:
            missing = "labels" if labels is None else "preprocessing"
            raise InputError(f"the network comes without {missing}; give {missing}=")
        _check_fit(model, labels, preprocessing)
        self._thread = FlushingThread()
        self.device = _device(device)
        self.model = model.eval().to(self.device, torch.float32)
        self.labels = labels
        self.preprocessing = preprocessing
        self.channels = model.config.in_channels
        self.crf = crf

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
        try:
            images = self.preprocessing(pixels[None]).to(self.device)
            mask, sure = self._thread.run(lambda: self._run(images, pixels, confidence))
        except RuntimeError as error:
            if not _memory_is_short(error):
                raise
            height, width = pixels.shape[-2:]
            raise InputError(
                f"{path or 'image'} of {height} x {width} pixels does not fit into the memory of "
                f"{self.device}; make it smaller, or take another device"
            ) from error
        return Prediction(mask, sure, self.labels, path)

    @torch.inference_mode()
    def _run(
        self, images: Tensor, pixels: Tensor, confidence: bool
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        if self.crf is None:
            decision = decide(self.model, images, confidence)
        else:
            decision = decide_with_crf(self.model, images, pixels, self.crf)
        if decision.broken:
            raise InputError(
                "the network's output is not a number: its training diverged, or its weights are "
                "damaged; take an earlier checkpoint"
            )
        small = torch.uint8 if self.labels.ignore_id == 255 else torch.int32
        ids, sure = decision.ids[0].to(small).cpu().numpy(), decision.confidence
        return ids, sure[0].cpu().numpy() if confidence and sure is not None else None


def _check_fit(model: SegmentationModel, labels: LabelMap, preprocessing: Preprocessing) -> None:
    channels, classes = model.config.in_channels, model.config.num_classes
    if len(preprocessing.mean) != channels:
        raise InputError(
            f"the preprocessing is for {len(preprocessing.mean)} channels, the network takes "
            f"{channels}; use preprocessing.for_channels({channels})"
        )
    wanted = 2 if classes == 1 else classes  # one sigmoid channel tells two classes apart
    if labels.num_classes != wanted:
        raise InputError(
            f"the label map has {labels.num_classes} classes, the network predicts {wanted}; "
            "give the labels it was trained with"
        )


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # which of them depends on the build of torch
        reason = str(error).splitlines()[0]
        raise SettingError(f"device {str(device)!r} cannot be used: {reason}") from error
    return chosen


def _memory_is_short(error: RuntimeError) -> bool:
    # the allocator of the CPU has no exception class of its own
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)

"""A network with what its channels mean, from the many forms in which people have it."""

from __future__ import annotations

from pathlib import Path

import torch

from semseg.core.checkpoint import read_info
from semseg.core.checks import InputError, SettingError
from semseg.core.labels import LabelMap
from semseg.core.preprocess import Preprocessing
from semseg.models import load, model_entry
from semseg.models.base import SegmentationModel
from semseg.models.hf import is_hf_folder
from semseg.models.smp import is_smp_folder


def opened(
    model: SegmentationModel | str | Path,
    labels: LabelMap | None = None,
    preprocessing: Preprocessing | None = None,
) -> tuple[SegmentationModel, LabelMap, Preprocessing]:
    """Return a network, its labels and its preprocessing.

    Args:
        model: a weights file, a run folder (its best weights), a folder of
            segmentation_models_pytorch or transformers, or a network.
        labels: what the K channels mean, in the place of what the file says.
        preprocessing: what the network takes, likewise.

    Raises:
        FileError: the weights are missing or damaged.
        InputError: labels or preprocessing are not known, or do not fit the network.
        SettingError: ``model`` is none of these.
    """
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
    check_fit(model, labels, preprocessing)
    return model, labels, preprocessing


def takes_clouds(model: str | Path) -> bool:
    """Return whether a weights file or a run is of a network over point clouds.

    Raises:
        FileError: it is missing or damaged.
    """
    path = Path(model)
    if is_smp_folder(path) or is_hf_folder(path):
        return False
    info = read_info(path / "best.safetensors" if path.is_dir() else path)
    return model_entry(info.model).takes == "clouds"


def check_fit(model: SegmentationModel, labels: LabelMap, preprocessing: Preprocessing) -> None:
    """Refuse labels or a preprocessing that are another network's."""
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


def chosen_device(device: str | torch.device | None) -> torch.device:
    """Return the device, for ``None`` a GPU if there is one.

    Raises:
        SettingError: there is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # which of them depends on the build of torch
        reason = str(error).splitlines()[0]
        raise SettingError(f"device {str(device)!r} cannot be used: {reason}") from error
    return chosen


def memory_is_short(error: RuntimeError) -> bool:
    """Return whether an error says that memory could not be had."""
    # the allocator of the CPU has no exception class of its own
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)

"""Networks by family; each module holds one paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semseg.core.checkpoint import load_weights
from semseg.core.checks import FileError
from semseg.models.base import MODELS, Entry, SegmentationModel, build

__all__ = ["create_model", "list_models", "load", "model_entry"]


def list_models(family: str | None = None) -> list[str]:
    """Return the names that :func:`create_model` takes, of one family or of all.

    Example:
        >>> "unet" in list_models("encoder_decoder")
        True
    """
    return [name for name in MODELS if family is None or MODELS[name].family == family]


def model_entry(name: str) -> Entry:
    """Return the registered facts of one network.

    Raises:
        UnknownNameError: there is none of that name; the nearest are shown.
    """
    return MODELS[name]


def create_model(
    name: str, *, pretrained: bool | str | Path = False, **settings: Any
) -> SegmentationModel:
    """Build a network by name.

    Args:
        name: one of :func:`list_models`.
        pretrained: ``True`` loads the trunk's published weights, a path loads them from a file.
        settings: fields of the network's config, e.g. ``num_classes``, ``in_channels``,
            ``encoder``; see ``semseg info NAME``.

    Raises:
        UnknownNameError: no network of that name.
        SettingError: a setting the network does not have.

    Example:
        >>> create_model("unet", num_classes=3, width=8).config.num_classes
        3
    """
    model = build(MODELS[name], settings)
    if pretrained:
        model.load_pretrained(pretrained)
    return model


def load(path: str | Path) -> SegmentationModel:
    """Build the network that a weights file describes and fill it; in eval mode.

    Args:
        path: a ``.safetensors`` file written by semseg, a run folder (its best weights), or a
            folder that ``save_pretrained`` of segmentation_models_pytorch or transformers wrote.

    Raises:
        FileError: missing, damaged, or tensors that do not fit the network it names.
        InputError: a network of one of these packages that has no equal here.
    """
    from semseg.models.hf import is_hf_folder, load_hf
    from semseg.models.smp import is_smp_folder, load_smp

    path = Path(path)
    if is_smp_folder(path):
        return load_smp(path)
    if is_hf_folder(path):
        return load_hf(path)
    file = path / "best.safetensors" if path.is_dir() else path
    tensors, info = load_weights(file)
    # JSON has no tuples; configs do
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in info.settings.items()}
    model = build(MODELS[info.model], settings)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if missing or unexpected:
        wrong = (missing + unexpected)[0]
        raise FileError(
            f"{file} does not fit {info.model}: {len(missing)} tensors missing, {len(unexpected)} "
            f"unknown (first: {wrong}); it was written by another version of the network"
        )
    return model.eval()

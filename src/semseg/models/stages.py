"""Training in stages: a network that starts from the finished smaller one it contains."""

from __future__ import annotations

from pathlib import Path

from semseg.core.checkpoint import load_weights, read_info
from semseg.core.checks import FileError
from semseg.models.base import SegmentationModel


def load_earlier_stage(
    model: SegmentationModel, source: bool | str | Path, earlier: tuple[str, ...]
) -> bool:
    """Copy the weights of an earlier stage into the layers of the same names.

    Args:
        model: the network of the later stage; its other layers keep their initial weights.
        source: a semseg weights file, or a run folder (its best weights).
        earlier: registry names of the networks that are an earlier stage of this one.

    Returns:
        False, with nothing done, where ``source`` is no file that semseg wrote: the caller then
        reads it as weights of the trunk.

    Raises:
        FileError: it holds another network, or the right one with other settings.
    """
    if isinstance(source, bool):
        return False
    path = Path(source)
    path = path / "best.safetensors" if path.is_dir() else path
    try:
        read_info(path)
    except FileError:
        return False
    tensors, info = load_weights(path)
    if info.model not in earlier:
        raise FileError(
            f"{path} holds {info.model}; {type(model).__name__} starts from {' or '.join(earlier)}"
        )
    own = model.state_dict()
    for key, tensor in tensors.items():
        if key not in own or own[key].shape != tensor.shape:
            raise FileError(
                f"{path} holds {info.model} with other settings than this network ({key} has shape "
                f"{tuple(tensor.shape)}); give both the same classes, channels and widths"
            )
    model.load_state_dict(tensors, strict=False)
    return True

"""Weights that others publish on the Hugging Face hub, and filling a trunk with them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from semseg.core.checks import FileError
from semseg.encoders.weights import first_line, read_tensors


def hub_tensors(repository: str, revision: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a repository's ``model.safetensors``, fetched once and kept.

    Raises:
        FileError: they cannot be had, or are no weights.
    """
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(repository, "model.safetensors", revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileError(
            f"the published weights {repository} cannot be had: {first_line(error)}; "
            "check the network, or give a local file with pretrained=PATH"
        ) from error
    return read_tensors(Path(path))


def load_exactly(trunk: nn.Module, tensors: dict[str, Tensor], where: str, name: str) -> None:
    """Copy all of ``tensors`` into all of ``trunk``, in place.

    Raises:
        FileError: tensors are missing, too many or of another shape.
    """
    own = trunk.state_dict()
    missing, extra = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    if missing or extra:
        raise FileError(
            f"{where} holds another network than {name}: {len(missing)} tensors missing, "
            f"{len(extra)} too many (first: {min(missing or extra)})"
        )
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape:
            raise FileError(
                f"{where}: {key} has shape {tuple(tensor.shape)}, this {name} has "
                f"{tuple(own[key].shape)}; give weights of the same network"
            )
    trunk.load_state_dict(tensors)

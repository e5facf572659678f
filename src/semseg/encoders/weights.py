"""Reading other people's weights files without trusting them."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from semseg.core.checks import FileError

NESTS = ("state_dict", "model")
"""Keys under which training scripts keep the tensors beside their own state."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file or of a pickled state dict, on the CPU.

    Pickles are read with ``weights_only=True``: a file cannot run code. The ``module.`` that
    ``DistributedDataParallel`` puts before every name is removed.

    Raises:
        FileError: the file is missing, damaged, or holds no state dict.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileError(f"weights {path} do not exist; give a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise FileError(
            f"{path} cannot be read as weights: {first_line(error)}; take another copy"
        ) from error
    for nest in NESTS:
        if isinstance(held, dict) and isinstance(held.get(nest), dict):
            held = held[nest]
    if not isinstance(held, dict) or not held:
        raise FileError(
            f"{path} holds {type(held).__name__}, not a state dict; save one with torch"
        )
    if strange := [k for k, v in held.items() if not isinstance(v, Tensor)]:
        raise FileError(
            f"{path} holds {strange[0]!r}, which is no tensor; save the state dict alone"
        )
    return {str(key).removeprefix("module."): value for key, value in held.items()}


def chosen_tensors(
    trunk: nn.Module, tensors: dict[str, Tensor], where: object, name: str, own_prefix: str
) -> dict[str, Tensor]:
    """Return those of ``tensors`` that a trunk has, all of them but counters of norms.

    Converted files and those of before PyTorch 0.4 lack the counters.

    Args:
        trunk: what is to be filled.
        tensors: of a file, under the trunk's names; a classifier's and the like are passed over.
        where: the file, for the message.
        name: of the trunk, for the message, e.g. ``"this DenseNet"``.
        own_prefix: of names that no other part of a network has: one of these that the trunk
            lacks means that the file holds a deeper one.

    Raises:
        FileError: tensors are missing, or the file holds more of them.
    """
    own = trunk.state_dict()
    wanted = [key for key in own if not key.endswith("num_batches_tracked")]
    missing = [key for key in wanted if key not in tensors]
    deeper = [key for key in tensors if key.startswith(own_prefix) and key not in own]
    if missing or deeper:
        raise FileError(
            f"{where} holds another network than {name}: {len(missing)} tensors missing, "
            f"{len(deeper)} too many (first: {(missing + deeper)[0]})"
        )
    return {key: tensors[key] for key in wanted}


def fill_trunk(
    trunk: nn.Module,
    tensors: dict[str, Tensor],
    where: object,
    name: str,
    same: str = "depth and width",
) -> None:
    """Copy tensors into a trunk.

    Raises:
        FileError: one has another shape; ``same`` says what must agree.
    """
    own = trunk.state_dict()
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape:
            raise FileError(
                f"{where}: {key} has shape {tuple(tensor.shape)}, {name} has "
                f"{tuple(own[key].shape)}; give weights of the same {same}"
            )
    trunk.load_state_dict(tensors, strict=False)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where it has none.

    Example:
        >>> first_line(OSError("no such host.")), first_line(ValueError())
        ('no such host', 'ValueError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")

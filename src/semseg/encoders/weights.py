"""Reading other people's weights files without trusting them."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

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


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""Networks of segmentation_models_pytorch, with their weights, as networks of this library.

That package need not be installed for a saved folder, and is never imported: its ``config.json``
and its tensors say everything. What its classes are called here stands in
:mod:`semseg.models.smp_kinds`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.encoders.mit import renamed
from semseg.encoders.weights import read_tensors
from semseg.models.base import MODELS, SegmentationModel, build
from semseg.models.smp_kinds import FIXED, FREE, KINDS, OWN, PORTED, SYNONYMS, Kind

MIX_PARTS = ("encoder.patch_embed", "encoder.block", "encoder.norm")
CONFIG, TENSORS = "config.json", "model.safetensors"
"""Files that ``save_pretrained`` writes; a README lies beside them."""


def is_smp_folder(path: str | Path) -> bool:
    """Return whether ``path`` is a folder that segmentation_models_pytorch saved a network in."""
    config = Path(path) / CONFIG
    return config.is_file() and "_model_class" in _read(config)


def load_smp(source: nn.Module | str | Path) -> SegmentationModel:
    """Build the network that segmentation_models_pytorch holds or saved, with its weights.

    Args:
        source: one of its networks, or a folder that its ``save_pretrained`` wrote.

    Returns:
        The network of the same kind, in eval mode; its outputs are the same numbers. The package
        keeps no names of classes, so there are none.

    Raises:
        InputError: a class, trunk or setting that this library has no equal of.
        FileError: a folder without the two files, or tensors that do not fit.
    """
    if isinstance(source, nn.Module):
        settings = getattr(source, "config", None)
        name, where = _class_of(source), type(source).__name__
        if not isinstance(settings, Mapping):
            raise InputError(
                f"{where} has no config, as networks of segmentation_models_pytorch 0.4 and later "
                "have; save it with save_pretrained and give the folder"
            )
        _check_head(source)
        settings, tensors = dict(settings), source.state_dict()
    else:
        folder = Path(source)
        settings, where = _read(folder / CONFIG), str(folder)
        name = settings.pop("_model_class", None)
        tensors = read_tensors(folder / TENSORS)
    if name not in KINDS:
        raise InputError(f"{where}: load_smp has no equal of {name}; it takes {', '.join(KINDS)}")
    kind = KINDS[name]
    model = build(MODELS[kind.network], _settings(where, kind, settings))
    _fill(model, where, kind, tensors)
    return model.eval()


def _class_of(model: nn.Module) -> str:
    """Return the class that it is or derives from, or its own name where that is none of them."""
    names = [cls.__name__ for cls in type(model).__mro__]
    return next((name for name in names if name in KINDS), names[0])


def _check_head(model: nn.Module) -> None:
    # an activation given as a function is not in the settings: JSON cannot hold it
    known = ("SegmentationHead", "Conv2d", "Upsample", "Activation", "Identity")
    head = model.get_submodule("segmentation_head")
    names = [type(part).__name__ for part in head.modules()]
    if strange := [name for name in names if name not in known]:
        raise InputError(
            f"{type(model).__name__} has activation={strange[0]}; load_smp takes None alone; its "
            "networks return logits"
        )


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} cannot be read ({error}); give the folder that save_pretrained wrote"
        ) from error
    if not isinstance(held, dict):
        raise FileError(f"{path} holds no settings; give the folder that save_pretrained wrote")
    return held


def _settings(where: str, kind: Kind, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return our settings for theirs; refuse those that would compute something else."""
    left = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    for key in (*FREE, *kind.free):
        left.pop(key, None)
    encoder = str(left.pop("encoder_name"))
    settings: dict[str, Any] = {
        "encoder": _encoder(where, encoder, kind),
        "in_channels": left.pop("in_channels", 3),
        "num_classes": left.pop("classes", 1),
        **kind.own,
    }
    if any(f.name == "dilate_first" for f in fields(MODELS[kind.network].config)):
        settings["dilate_first"] = encoder in OWN
    for theirs, ours in kind.fields.items():
        if theirs in left:
            settings[ours] = left.pop(theirs)
    wanted = FIXED | dict(kind.fixed)
    for key, value in left.items():
        value = SYNONYMS.get(key, {}).get(value, value) if isinstance(value, str | bool) else value
        if value != wanted.get(key):  # what is not known here must not be set
            hint = "; its networks return logits" if key == "activation" else ""
            raise InputError(
                f"{where} has {key}={value!r}; load_smp takes {wanted.get(key)!r} alone{hint}"
            )
    return settings


def _encoder(where: str, name: str, kind: Kind) -> str:
    if kind.trunks:
        if name in kind.trunks:
            return name
        raise InputError(
            f"{where} has encoder_name={name!r}, over which it is another network than "
            f"{kind.network}; load_smp takes {', '.join(kind.trunks)}"
        )
    if name in OWN:
        return OWN[name]
    if name.startswith("tu-"):
        return name.removeprefix("tu-")
    timm = name.removeprefix("timm-")
    if timm != name and timm.startswith(PORTED):
        return f"tf_{timm}" if timm.startswith("mobilenetv3") else timm
    raise InputError(
        f"{where} has encoder_name={name!r}, a trunk that timm has no equal of; load_smp takes "
        f"{', '.join(OWN)} and every 'tu-' name"
    )


def _fill(model: SegmentationModel, where: str, kind: Kind, tensors: Mapping[str, Tensor]) -> None:
    """Copy all of ``tensors`` into all of ``model``, name by name and shape by shape."""
    own = model.state_dict()
    problem = f"{where} does not fit {kind.network} over {getattr(model.config, 'encoder', None)}"
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if kind.unused is not None and re.match(kind.unused, key):
            continue
        name = _translate(key, kind)
        if name not in own or name in found or own[name].shape != tensor.shape:
            raise FileError(f"{problem}: it has no {key} of shape {tuple(tensor.shape)}")
        found[name] = tensor
    counters = "num_batches_tracked"  # absent in files of before PyTorch 0.4
    if missing := [name for name in own if name not in found and not name.endswith(counters)]:
        raise FileError(f"{problem}: {len(missing)} tensors are missing (first: {missing[0]})")
    model.load_state_dict(found, strict=False)


def _translate(key: str, kind: Kind) -> str:
    if key.startswith(MIX_PARTS):
        return "encoder." + renamed(key.removeprefix("encoder."))
    if key.startswith("encoder."):
        return re.sub(r"^encoder\.(model\.)?", "encoder.trunk.", key)
    if not key.startswith("decoder."):
        return re.sub(r"^segmentation_head\.0\.", kind.head, key)
    for pattern, replacement in kind.rules:
        key = re.sub(pattern, replacement, key)
    return key

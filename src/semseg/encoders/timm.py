"""Trunks of timm behind the encoder contract; the only module that imports timm.

timm is imported when a trunk is built, not before: it loads several hundred modules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError, unknown_name
from semseg.core.preprocess import Preprocessing
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.beit import set_grid, take_any_size
from semseg.encoders.weights import first_line, read_tensors

DILATABLE = "ResNet, ResNeXt, RegNet, ResNeSt, ConvNeXt, EfficientNet, MobileNetV3, Xception65"
"""Families that timm builds at output strides 8 and 16; named in the refusal of the others."""


class TimmEncoder(Encoder):
    """Any timm network that gives features.

    Args:
        name: timm's name, with or without a tag.
        in_channels: channels of the images.
        output_stride: stride of the deepest feature.

    Shapes:
        - images: ``(N, C, H, W)``; trunks differ in which H and W they take, multiples of the
          largest stride always work.
        - features: ``(N, channels[i], H / strides[i], W / strides[i])``; slightly less from a few
          old trunks with unpadded convolutions (Inception, Xception).

    Raises:
        UnknownNameError: timm has no such network.
        InputError: it gives no features, takes one image size only, or cannot have this
            ``output_stride``.
    """

    def __init__(self, name: str, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        self.name = name
        self._settings = _settings(name, in_channels, output_stride)
        self.trunk = _build(name, self._settings)
        info: Any = self.trunk.feature_info
        self.channels = tuple(info.channels())
        self.strides = tuple(info.reduction())
        if output_stride < 32 and self.strides[-1] != output_stride:
            raise _refusal(name, self._settings)
        cfg: Any = self.trunk.pretrained_cfg
        self.preprocessing = Preprocessing(mean=tuple(cfg["mean"]), std=tuple(cfg["std"]))
        # Swin and some others compute with channels last, and timm passes that on
        self._channels_last = getattr(self.trunk, "output_fmt", None) == "NHWC"
        self._beit: nn.Module | None = None
        if _is_beit(name):
            self._beit = self.trunk.get_submodule("model")
            take_any_size(self._beit)

    @property
    def is_plain(self) -> bool:
        """Whether all features have one stride, as those of a plain vision transformer."""
        return len(self.strides) > 1 and len(set(self.strides)) == 1

    def spread(self) -> None:
        """Give four features of a plain transformer, spread over its depth as BEiT has them.

        They stand after a third, a half, two thirds and all of its blocks; without this they are
        those of the last blocks.

        Raises:
            InputError: it has fewer than four blocks.
        """
        trunk: Any = self.trunk
        depth = len(trunk.model.blocks)
        if depth < 4:
            raise InputError(f"encoder {self.name!r} has {depth} blocks; four features need 4")
        trunk.out_indices = [depth // 3 - 1, depth // 2 - 1, -(-depth * 2 // 3) - 1, depth - 1]
        self.channels, self.strides = self.channels[:1] * 4, self.strides[:1] * 4

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of ``(N, C, H, W)`` images, finest first."""
        if self._beit is not None:
            stride = self.strides[0]
            set_grid(self._beit, (images.shape[-2] // stride, images.shape[-1] // stride))
        features: list[Tensor] = self.trunk(images)
        if self._channels_last:
            return [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load timm's weights of this trunk, its stem adapted to the number of channels.

        Args:
            source: ``True`` fetches them from timm's published place; a path reads a local
                ``.safetensors`` or ``.pth`` file of the same weights (a classifier is dropped).

        Raises:
            FileError: the weights cannot be fetched or read, or are those of another network.
        """
        import timm

        overlay = None
        if not isinstance(source, bool):
            tensors = read_tensors(Path(source))
            self._check_complete(tensors, Path(source))
            overlay = {"state_dict": tensors}
        try:
            donor = timm.create_model(
                self.name,
                pretrained=True,
                features_only=True,
                pretrained_cfg_overlay=overlay,
                **self._settings,
            )
        except (OSError, RuntimeError) as error:
            reason = first_line(error)
            if overlay is None:
                raise FileError(
                    f"the published weights of {self.name} cannot be had: {reason}; "
                    "check the network, or give a local file with pretrained=PATH"
                ) from error
            raise FileError(f"{source} does not fit {self.name}: {reason}") from error
        self.trunk.load_state_dict(donor.state_dict())

    def _check_complete(self, tensors: dict[str, Tensor], path: Path) -> None:
        # timm loads what fits by name and leaves the rest random without a word
        import timm

        with torch.device("meta"):
            whole = timm.create_model(self.name, num_classes=0).state_dict()
        counters = ("num_batches_tracked",)  # absent in files of before PyTorch 0.4
        missing = [k for k in whole if k not in tensors and not k.endswith(counters)]
        if missing:
            raise FileError(
                f"{path} does not hold timm's weights of {self.name}: {len(missing)} of "
                f"{len(whole)} tensors are missing (first: {missing[0]})"
            )


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Return the weight ``(O, 3, h, w)`` of a first convolution for other channels, as timm does.

    One channel: the sum over RGB, so that grey images give what they gave as RGB. Otherwise RGB
    is repeated and scaled by 3 / ``in_channels``, so that the response keeps its size.
    """
    from timm.models import adapt_input_conv

    adapted: Tensor = adapt_input_conv(in_channels, weight)
    return adapted


def _settings(name: str, in_channels: int, output_stride: int) -> dict[str, Any]:
    """Return the arguments of ``timm.create_model``; refuse names that timm does not know."""
    import timm
    from timm.models import get_arch_pretrained_cfgs

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise unknown_name("encoder", name, {*ENCODERS, *timm.list_models()})
    tagged = get_arch_pretrained_cfgs(architecture)
    if name != architecture and name not in tagged:
        raise unknown_name("encoder", name, tagged)
    settings: dict[str, Any] = {"in_chans": in_channels}
    if output_stride != 32:
        settings["output_stride"] = output_stride
    facts = timm.get_pretrained_cfg(name)
    if facts is not None and facts.fixed_input_size and not _is_beit(name):
        settings["dynamic_img_size"] = True
    return settings


def _is_beit(name: str) -> bool:
    from timm.models import is_model_in_modules

    return bool(is_model_in_modules(name.partition(".")[0], ("beit",)))


def _build(name: str, settings: dict[str, Any]) -> nn.Module:
    import timm

    try:
        trunk: nn.Module = timm.create_model(name, features_only=True, **settings)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError) as error:
        # timm has no one way to say no to a setting: each family fails in its own
        raise _refusal(name, settings) from error
    return trunk


def _refusal(name: str, settings: dict[str, Any]) -> InputError:
    if "output_stride" in settings:
        return InputError(
            f"encoder {name!r} cannot have output_stride {settings['output_stride']}; use 32, "
            f"or a trunk whose strides can be dilated ({DILATABLE})"
        )
    if "dynamic_img_size" in settings:
        return InputError(
            f"encoder {name!r} takes one image size only; "
            "use a trunk for any size, e.g. 'resnet34', 'convnext_tiny' or a Swin"
        )
    return InputError(
        f"encoder {name!r} gives no features; use another trunk, e.g. 'resnet34' or 'convnext_tiny'"
    )

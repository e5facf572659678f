"""VGG16's thirteen convolutions as Caffe computes them, and readers of published weights.

Paper:
    Simonyan, Zisserman. "Very Deep Convolutional Networks for Large-Scale Image Recognition."
    ICLR 2015. arXiv:1409.1556, Table 1, column D.

FCN, DeepLab v1 and v2, the dilation networks and SegNet start from it.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.timm import adapt_stem
from semseg.encoders.weights import read_tensors
from semseg.nn.init import he_normal_

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Width as a multiple of the first, and number of convolutions, of each stage."""

NAMES = tuple(
    f"conv{stage}_{i}" for stage, (_, count) in enumerate(STAGES, 1) for i in range(1, count + 1)
)
"""Caffe's names of the thirteen convolutions, in order."""

CONV_KEY = re.compile(r"features\.\d+\.weight$")
"""Names of the convolutions in published files."""


class VGG16(Encoder):
    """The convolutions of VGG16: 3x3 with bias and ReLU, a 2x2 max-pool after each stage.

    Args:
        in_channels: channels of the images.
        width: channels of the first stage; the paper's is 64.
        first_padding: zeros around the image in ``conv1_1``; FCN takes 100.

    Shapes (first_padding 1; w = width):
        - images: ``(N, C, H, W)``, any H and W.
        - features: each stage before its pool, ``(N, w, H, W)``, ``(N, 2w, H/2, W/2)``,
          ``(N, 4w, H/4, W/4)``, ``(N, 8w, H/8, W/8)``, ``(N, 8w, H/16, W/16)``, and the last
          pool ``(N, 8w, H/32, W/32)``.

    Sizes are rounded up at a pool, as Caffe does; PyTorch's own VGG rounds down. New weights are
    He-normal: the paper's N(0, 0.01) does not train at this depth without stages.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, first_padding: int = 1) -> None:
        super().__init__()
        widths = [width * factor for factor, count in STAGES for _ in range(count)]
        convs = {
            name: nn.Conv2d(cin, cout, 3, padding=first_padding if name == NAMES[0] else 1)
            for name, cin, cout in zip(NAMES, [in_channels, *widths], widths, strict=False)
        }
        self.convs = nn.ModuleDict(convs)
        he_normal_(self.convs)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.in_channels = in_channels
        self.width = width
        self.channels = (*(width * factor for factor, _ in STAGES), 8 * width)
        self.strides = (1, 2, 4, 8, 16, 32)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the last convolution of each stage, then the last pool."""
        x, features = images, []
        for stage, (_, count) in enumerate(STAGES, 1):
            for i in range(1, count + 1):
                x = F.relu(self.convs[f"conv{stage}_{i}"](x))
            features.append(x)
            x = self.pool(x)
        return [*features, x]

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load the thirteen convolutions of published weights; see :func:`read_vgg16_weights`."""
        self.copy_weights(read_vgg16_weights(source))

    def copy_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy the convolutions among ``weights``, the first adapted to the image's channels.

        Raises:
            InputError: this trunk does not have the paper's width.
        """
        own = {key: value for key, value in weights.items() if key.startswith("conv")}
        own["conv1_1.weight"] = adapt_stem(own["conv1_1.weight"], self.in_channels)
        if self.width != own["conv1_1.weight"].shape[0]:
            raise InputError(
                f"published VGG16 weights have width {own['conv1_1.weight'].shape[0]}, this trunk "
                f"has {self.width}; create it with width=64 or without pretrained"
            )
        self.convs.load_state_dict(own)


def _build_vgg16(in_channels: int, output_stride: int) -> VGG16:
    if output_stride != 32:
        raise InputError(
            f"encoder 'vgg16' cannot have output_stride {output_stride}; use 32, "
            "or a network made for a dilated VGG16"
        )
    return VGG16(in_channels)


ENCODERS.add("vgg16", _build_vgg16)


def read_vgg16_weights(source: bool | str | Path = True) -> dict[str, Tensor]:
    """Read VGG16 as torchvision or timm publish it, under Caffe's names.

    Args:
        source: ``True`` fetches torchvision's ``IMAGENET1K_V1``; a path reads a local file in
            torchvision's layout (``classifier.0``) or in timm's (``pre_logits.fc1``).

    Returns:
        ``conv1_1.weight`` ``(64, 3, 3, 3)``, ``conv1_1.bias`` ``(64,)``, … ``conv5_3.bias``, and
        the hidden layers as convolutions: ``fc6.weight`` ``(4096, 512, 7, 7)``, ``fc7.weight``
        ``(4096, 4096, 1, 1)`` with their biases. The classifier is left out.

    Raises:
        FileError: the weights cannot be fetched or read, or are not those of a plain VGG16.
    """
    tensors = _published() if isinstance(source, bool) else read_tensors(Path(source))
    where = "torchvision's VGG16" if isinstance(source, bool) else str(source)
    convs = [k for k, v in tensors.items() if CONV_KEY.match(k) and v.dim() == 4]
    convs.sort(key=lambda key: int(key.split(".")[1]))  # files may hold "features.10" before ".2"
    hidden = ("classifier.0", "classifier.3")
    if "pre_logits.fc1.weight" in tensors:
        hidden = ("pre_logits.fc1", "pre_logits.fc2")
    layers = [key.removesuffix(".weight") for key in convs] + list(hidden)
    if len(convs) != len(NAMES) or any(f"{layer}.bias" not in tensors for layer in layers):
        raise FileError(
            f"{where} is not a plain VGG16: {len(convs)} convolutions below 'features' and "
            f"{'a' if f'{hidden[0]}.weight' in tensors else 'no'} hidden layer; "
            "give torchvision's vgg16 or timm's vgg16.tv_in1k"
        )
    found = {}
    for name, layer in zip((*NAMES, "fc6", "fc7"), layers, strict=True):
        found[f"{name}.weight"] = tensors[f"{layer}.weight"]
        found[f"{name}.bias"] = tensors[f"{layer}.bias"]
    fc6, fc7 = found["fc6.weight"], found["fc7.weight"]
    found["fc6.weight"] = fc6.reshape(len(fc6), -1, 7, 7)
    found["fc7.weight"] = fc7.reshape(len(fc7), -1, 1, 1)
    return found


def _published() -> dict[str, Tensor]:
    from torchvision.models import VGG16_Weights

    try:
        tensors: dict[str, Tensor] = VGG16_Weights.IMAGENET1K_V1.get_state_dict(
            progress=True, check_hash=True
        )
    except (OSError, RuntimeError) as error:
        raise FileError(
            f"torchvision's VGG16 weights cannot be had: {error}; "
            "check the network, or give a local file with pretrained=PATH"
        ) from error
    return tensors

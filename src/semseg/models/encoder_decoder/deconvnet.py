r"""DeconvNet: VGG16 down to one pixel and back by unpooling, object proposal by object proposal.

Paper:
    Noh, Hong, Han. "Learning Deconvolution Network for Semantic Segmentation." ICCV 2015.
    arXiv:1505.04366. Layers follow the authors' ``training/002_stage_2/stage_2_train.prototxt``,
    inference ``inference/generate_EDeconvNet_CRF_results.m``.

Shapes (every image or proposal is resized to 224 x 224; w = width = 64):
    images       (N, C, H, W), then (N, C, 224, 224)
    encoder      (N, 8w, 7, 7)     VGG16's convolutions, each normalised; the switches are kept
    fc6, fc7     (N, 64w, 1, 1)    7x7, 1x1
    fc6-deconv   (N, 8w, 7, 7)     transposed 7x7
    decoder      (N, 8w, 14, 14), (N, 4w, 28, 28), (N, 2w, 56, 56), (N, w, 112, 112),
                 (N, w, 224, 224)  each unpooled, then 3, 3, 3, 2, 2 transposed 3x3
    logits       (N, K, 224, 224)

Parameters:
    251,805,653 at w = 64, K = 21, counted from the prototxt.

Deviations:
    - The paper takes its 50 proposals from edge boxes. ``predict_boxes`` takes any boxes;
      ``forward`` takes the whole image and, where that is larger than 224 pixels, nine windows of
      half its height and width at steps of a quarter.
    - Scores are the maximum over the proposals that cover a pixel, 0 where none does; the released
      script takes the maximum with 0 as well.
    - Batch normalisation keeps running averages (epsilon 1e-5); the authors recompute its
      statistics after training.
    - The ensemble with FCN-8s and the CRF of the paper's best results are not part of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.vgg import STAGES, read_vgg16_weights
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.encoder_decoder.segnet import Encoder
from semseg.nn.init import gaussian_, he_normal_

SIDE = 224
"""Height and width that the network computes at."""

Box = tuple[int, int, int, int]
"""Top, left, bottom and right in pixels; the last two are exclusive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeconvNetConfig(ModelConfig):
    """Settings of :class:`DeconvNet`."""

    width: int = 64
    """Channels of VGG16's first stage; all others are multiples of it."""


def deconvolutions(channels: list[int], kernel: int, padding: int) -> nn.Sequential:
    """Return transposed convolutions with bias, BatchNorm, ReLU, from each width to the next."""
    layers: list[nn.Module] = []
    for cin, cout in pairwise(channels):
        layers.append(nn.ConvTranspose2d(cin, cout, kernel, padding=padding))
        layers += [nn.BatchNorm2d(cout), nn.ReLU()]
    return nn.Sequential(*layers)


def proposals(height: int, width: int) -> list[Box]:
    """Return the boxes that ``forward`` looks at: the image, and windows of half its sides.

    Example:
        >>> proposals(224, 100)
        [(0, 0, 224, 100)]
        >>> len(proposals(375, 500)), proposals(375, 500)[1]
        (10, (0, 0, 187, 250))
    """
    boxes = [(0, 0, height, width)]
    if max(height, width) <= SIDE:
        return boxes
    tall, wide = max(height // 2, 1), max(width // 2, 1)
    for i in range(3):
        for j in range(3):
            top, left = i * (height - tall) // 2, j * (width - wide) // 2
            boxes.append((top, left, top + tall, left + wide))
    return boxes


@register(
    "deconvnet",
    DeconvNetConfig(),
    title="DeconvNet",
    paper="arXiv:1505.04366",
    year=2015,
    idea="A mirrored VGG16 unpools and deconvolves an object's code into its shape, so that "
    "proposals of all sizes are segmented at one size.",
    repository="https://github.com/HyeonwooNoh/DeconvNet",
    num_params=251_805_653,
    paper_size=(SIDE, SIDE),
    published=(Published("PASCAL VOC 2012 test", 69.6, "paper, table 1; 50 proposals, no CRF"),),
    verified="reference output",
    small={"width": 4},
    xfail={
        "test_onnx_computes_the_same": "where two values of a pooling window are equal to "
        "rounding, another engine remembers the other one: 0.1 % of the logits differ",
    },
)
class DeconvNet(SegmentationModel):
    """DeconvNet; see the module docstring."""

    def __init__(self, config: DeconvNetConfig) -> None:
        super().__init__(config)
        widths = [config.width * factor for factor, _ in STAGES]
        deepest, hidden = widths[-1], 64 * config.width
        self.encoder = Encoder(config.in_channels, config.width)
        self.hidden = nn.Sequential(
            nn.Conv2d(deepest, hidden, SIDE // 32),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
        )
        self.shape_code = deconvolutions([hidden, deepest], SIDE // 32, 0)
        self.decoder = nn.ModuleList()
        for i, (_, count) in reversed(list(enumerate(STAGES))):
            # the last layer of a stage has the width of the stage above it
            channels = [widths[i]] * count + [widths[max(i - 1, 0)]]
            self.decoder.append(deconvolutions(channels, 3, 1))
        self.classifier = nn.Conv2d(widths[0], config.num_classes, 1)
        self._initialise()

    def _initialise(self) -> None:
        he_normal_(self.encoder)  # the authors start from VGG16, which takes the place of both
        he_normal_(self.hidden)
        for new in (self.shape_code, self.decoder, self.classifier):
            gaussian_(new, std=0.01)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.constant_(norm.bias, 0.001)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, 224, 224)`` of images of any size, each as one proposal.

        Raises:
            InputError: a batch of one in training.
        """
        if self.training and len(images) == 1:
            raise InputError(
                "DeconvNet cannot train on one image: fc6 leaves a single pixel of it, which batch "
                "normalisation turns into zeros; take a batch of two or more"
            )
        x, pools = self.encoder(_resize(images, (SIDE, SIDE)))
        x = self.shape_code(self.hidden(x))
        for stage, (switches, _) in zip(self.decoder, reversed(pools), strict=True):
            x = stage(F.max_unpool2d(x, switches, (2, 2)))
        return {"logits": self.classifier(x)}

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits at ``size``; averaged where that is smaller than 224 x 224."""
        return _resize(logits, size)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores ``(N, K, H, W)`` over the boxes of :func:`proposals`.

        Raises:
            InputError: wrong number of dimensions or channels.
            SettingError: integer images.
        """
        images = self.pad(images)
        return self.predict_boxes(images, proposals(images.shape[-2], images.shape[-1]))

    def predict_boxes(self, images: Tensor, boxes: Sequence[Box]) -> Tensor:
        """Return class scores ``(N, K, H, W)``: of each pixel the largest over boxes that hold it.

        Args:
            images: ``(N, C, H, W)``.
            boxes: inside the images, the same for all; the paper takes the best 50 of at least
                112 pixels and draws them larger by 1.2.

        Raises:
            InputError: a box that is empty or reaches beyond the images.
        """
        height, width = images.shape[-2:]
        scores = images.new_full((len(images), self.config.num_classes, height, width), -torch.inf)
        for box in boxes:
            top, left, bottom, right = box
            if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                raise InputError(
                    f"box {box} is not inside the image of {height} x {width} pixels; "
                    "give (top, left, bottom, right)"
                )
            logits = self.forward_heads(images[..., top:bottom, left:right])["logits"]
            inside = (..., slice(top, bottom), slice(left, right))
            found = self.enlarge(logits, (bottom - top, right - left))
            scores[inside] = torch.maximum(scores[inside], found)
        return scores.masked_fill(scores.isneginf(), 0)

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load VGG16 with its two hidden layers, as the authors start.

        Args:
            source: see :func:`semseg.encoders.vgg.read_vgg16_weights`.

        Raises:
            FileError: the weights cannot be had or are not VGG16's.
            InputError: this network does not have the paper's width.
        """
        weights = read_vgg16_weights(source)
        self.encoder.copy_weights(weights)
        convs = [layer for layer in self.hidden if isinstance(layer, nn.Conv2d)]
        for name, conv in zip(("fc6", "fc7"), convs, strict=True):
            conv.load_state_dict({k: weights[f"{name}.{k}"] for k in ("weight", "bias")})


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as Matlab's ``imresize`` does, which averages where it shrinks."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)

r"""RTSeg: three ways to decode over four trunks, twelve networks made comparable.

Paper:
    Siam, Gamal, Abdel-Razek, Yogamani, Jagersand. "RTSeg: Real-time Semantic Segmentation
    Comparative Study." ICIP 2018. arXiv:1803.02758, sections 2 and 3. Layers follow the authors'
    TensorFlow 1 files, ``models/*.py`` and ``models/encoders/*.py``.

Shapes (H, W divisible by 32, for Dilation by 8):
    images         (N, C, H, W)
    SkipNet        class scores at 1/32, 1/16 and 1/8, added as in FCN-8s
    UNet           the trunk's last feature, enlarged by 2 and added to the next finer one, until
                   (N, c, H, W): c is 64 over VGG16, 32 over MobileNet, 24 over ShuffleNet;
                   over ResNet-18 it is LinkNet
    Dilation       trunk at stride 8, its deeper layers dilated by 2 and 4: scores (N, K, H/8, W/8)
    logits         (N, K, H, W)    learned: 16x16 transposed convolution; 1x1 or 2x2 in UNet

Parameters:
    At K = 20, by trunk: VGG16, ResNet-18, MobileNet, ShuffleNet.
    SkipNet   134,473,144   11,309,752   3,369,240   1,014,682
    UNet       28,072,020   11,536,820   8,846,196   6,380,870
    Dilation   41,578,344   11,289,192   8,574,544     987,242
    Of the authors' code, what reaches the logits: it also builds what follows in the trunk, 1.07
    million in UNet over MobileNet. Over ResNet-18 see below.

Deviations:
    - The authors count "unlabelled" as twentieth class; K = 20 is their network.
    - ResNet-18 is timm's, with torchvision's weights. The authors' has no norms in its three
      shortcuts (1,792 parameters less) and, below LinkNet, a bias in each convolution (4,800
      more); folded norms make both equal in eval mode.
    - In ``dilation_resnet18.py`` the rate reaches nothing but 1x1 convolutions, so nothing is
      dilated there. Here 3x3 convolutions are, as timm dilates a ResNet.
    - Over VGG16, Dilation begins with the published conv4_3 and conv5; the authors draw new ones.
      SkipNet's deepest scores start new; the authors average ImageNet's classes.
    - New layers are Xavier-uniform and transposed ones bilinear, as the authors'; only those of a
      VGG16 without published weights are He-normal.
    - Preprocessing is that of the trunk's published weights. The authors take BGR without
      Cityscapes' means; without published weights, ShuffleNet gets that in RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import IMAGENET, Preprocessing
from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.encoders.mobilenet_v1 import MobileNetV1, separable
from semseg.encoders.shufflenet_v1 import ShuffleNetV1, norm, xavier_
from semseg.encoders.vgg import STAGES, VGG16, read_vgg16_weights
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.realtime.shuffleseg import SkipNetDecoder, enlarging
from semseg.nn.init import bilinear_, he_normal_
from semseg.nn.norm import check_batch_norm

DECODERS = {"skipnet": "SkipNet", "unet": "RTSeg U-Net", "dilation": "RTSeg Dilation"}
"""Decoders, and how they are called."""

TRUNKS: dict[str, tuple[str, int, Preprocessing, dict[str, float]]] = {
    "vgg16": ("VGG16", 64, IMAGENET, {"width": 1 / 16}),
    "resnet18": ("ResNet-18", 64, IMAGENET, {}),
    "mobilenet": ("MobileNet", 32, MobileNetV1.preprocessing, {"width": 1 / 8}),
    "shufflenet": ("ShuffleNet", 24, ShuffleNetV1.preprocessing, {"width": 1 / 2}),
}
"""Trunks: how they are called, channels of the first convolution, input, and a tiny form."""

RESNET = "resnet18.tv_in1k"


@dataclass(frozen=True, kw_only=True, slots=True)
class RTSegConfig(ModelConfig):
    """Settings of :class:`RTSeg`: a cell of the paper's grid."""

    decoder: str = "skipnet"
    """"skipnet", "unet" or "dilation"."""

    trunk: str = "mobilenet"
    """"vgg16", "resnet18", "mobilenet" or "shufflenet"."""

    width: float = 1.0
    """Multiplier of all channels of the trunk."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        for field, value, known in (
            ("decoder", self.decoder, tuple(DECODERS)),
            ("trunk", self.trunk, tuple(TRUNKS)),
        ):
            if value not in known:
                raise InputError(f"RTSeg has {field} {', '.join(known)}; got {value!r}")
        if self.trunk == "resnet18" and self.width != 1:
            raise InputError(f"RTSeg has ResNet-18 in one width only; got {self.width}, take 1")
        if round(TRUNKS[self.trunk][1] * self.width) < 1:
            raise InputError(f"RTSeg takes a width above 0, got {self.width}")

    @property
    def channels(self) -> int:
        """Channels of the trunk's first convolution."""
        return round(TRUNKS[self.trunk][1] * self.width)


# ---- trunks ------------------------------------------------------------------------------------


class PooledVGG16(VGG16):
    """VGG16 by its pools: conv1_1, then each stage pooled; the last may get hidden layers.

    Args:
        in_channels: channels of the images.
        width: channels of the first stage.
        hidden: channels of fc6 and fc7 as convolutions; 0 for none.
        dilated: leave out the last two pools and dilate what follows by 2, and fc6 by 4.
    """

    def __init__(self, in_channels: int, width: int, hidden: int, *, dilated: bool) -> None:
        super().__init__(in_channels, width)
        self.pooled = 3 if dilated else 5
        rate = 4 if dilated else 1
        if dilated:
            for i in range(1, STAGES[-1][1] + 1):
                conv = self.convs[f"conv{len(STAGES)}_{i}"]
                assert isinstance(conv, nn.Conv2d)
                conv.dilation = conv.padding = (2, 2)
        self.hidden = nn.Sequential()
        if hidden:
            fc6 = nn.Conv2d(8 * width, hidden, 7, padding=3 * rate, dilation=rate)
            fc7 = nn.Conv2d(hidden, hidden, 1)
            self.hidden.extend([fc6, nn.ReLU(), nn.Dropout(0.5), fc7, nn.ReLU(), nn.Dropout(0.5)])
            he_normal_(self.hidden)
        self.channels = (width, *self.channels[:4], hidden or self.channels[-1])
        self.strides = (1, 2, 4, 8, 8, 8) if dilated else (1, 2, 4, 8, 16, 32)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return conv1_1 and the end of each stage."""
        x, features = images, list[Tensor]()
        for stage, (_, count) in enumerate(STAGES, 1):
            for i in range(1, count + 1):
                x = F.relu(self.convs[f"conv{stage}_{i}"](x))
                features = features or [x]
            x = self.pool(x) if stage <= self.pooled else x
            features.append(x)
        return [*features[:-1], self.hidden(x)]

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load published weights, hidden layers included where they have the paper's size.

        Args:
            source: see :func:`semseg.encoders.vgg.read_vgg16_weights`.
        """
        weights = read_vgg16_weights(source)
        self.copy_weights(weights)
        if not self.hidden or weights["fc6.weight"].shape != self.hidden[0].weight.shape:
            return
        for name, layer in (("fc6", self.hidden[0]), ("fc7", self.hidden[3])):
            layer.load_state_dict({k: weights[f"{name}.{k}"] for k in ("weight", "bias")})


def build_trunk(config: RTSegConfig) -> Encoder:
    """Return the trunk, without the layers that the decoder does not look at."""
    dilated, w = config.decoder == "dilation", config.channels
    if config.trunk == "vgg16":
        hidden = {"skipnet": 64 * w, "unet": 0, "dilation": 16 * w}[config.decoder]
        return PooledVGG16(config.in_channels, w, hidden, dilated=dilated)
    if config.trunk == "resnet18":
        return build_encoder(RESNET, config.in_channels, 8 if dilated else 32)
    if config.trunk == "mobilenet":
        depth = {"skipnet": 14, "unet": 13, "dilation": 6}[config.decoder]
        return MobileNetV1(config.in_channels, w, depth)
    return ShuffleNetV1(config.in_channels, w, 8 if dilated else 32)


# ---- decoders ----------------------------------------------------------------------------------


class SkipNet(SkipNetDecoder):
    """Scores at strides 32, 16 and 8; where a stride has several features, of the first."""

    def __init__(self, encoder: Encoder, config: RTSegConfig) -> None:
        self.places = (encoder.strides.index(8), encoder.strides.index(16), -1)
        fine, middle, deep = (encoder.channels[place] for place in self.places)
        norms = config.trunk in ("mobilenet", "shufflenet")
        super().__init__((fine, middle, deep), config.num_classes, norms=norms)

    def forward(self, features: list[Tensor]) -> Tensor:  # type: ignore[override]
        """Return ``(N, K, H, W)``."""
        fine, middle, deep = (features[place] for place in self.places)
        return super().forward(fine, middle, deep)


def pointwise(cin: int, cout: int) -> nn.Sequential:
    """1x1 and norm, no activation."""
    return nn.Sequential(nn.Conv2d(cin, cout, 1), norm(cout))


def doubling(cin: int, cout: int) -> nn.Sequential:
    """4x4 transposed convolution and norm, no activation."""
    return nn.Sequential(enlarging(cin, cout, 4), norm(cout))


class UNet(nn.Module):
    """Sums with the trunk's features from coarse to fine, without activations.

    Over VGG16 five sums, two 3x3 convolutions after each; else four, between normalised 1x1.
    """

    def __init__(self, encoder: Encoder, config: RTSegConfig) -> None:
        super().__init__()
        plain = config.trunk == "vgg16"
        self.places = [encoder.index_of(stride) for stride in (32, 16, 8, 4, 2, 1)[: 5 + plain]]
        cin, *widths = (encoder.channels[place] for place in self.places)
        self.ups, self.mixes = nn.ModuleList(), nn.ModuleList()
        for cout in widths:
            if plain:
                self.ups.append(enlarging(cin, cout, 4))
                convs = (nn.Conv2d(cout, cout, 3, padding=1) for _ in range(2))
                self.mixes.append(nn.Sequential(*convs))
            else:
                self.ups.append(nn.Sequential(pointwise(cin, cout), doubling(cout, cout)))
                self.mixes.append(pointwise(cout, cout))
            cin = cout
        cout = encoder.channels[0]
        self.last = nn.Sequential()
        if not plain:
            self.last.extend([doubling(cin, cin), pointwise(cin, cout), nn.Dropout(0.5)])
        self.score = nn.Conv2d(cout, config.num_classes, 1)
        xavier_(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return ``(N, K, H, W)``."""
        x, *skips = (features[place] for place in self.places)
        for up, mix, skip in zip(self.ups, self.mixes, skips, strict=True):
            x = up(x)
            # ShuffleNet's first features are a pixel short
            missing = (0, x.shape[-1] - skip.shape[-1], 0, x.shape[-2] - skip.shape[-2])
            x = mix(x + F.pad(skip, missing))
        logits: Tensor = self.score(self.last(x))
        return logits


class Cut(nn.Module):
    """Leaves out the last row and column, as TensorFlow does after a 3x3 that doubles."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H - 1, W - 1)``."""
        return x[..., :-1, :-1]


def activated(*layers: nn.Module, channels: int) -> nn.Sequential:
    """Return the layers, then norm and ReLU."""
    return nn.Sequential(*layers, norm(channels), nn.ReLU())


def deconv3(cin: int, cout: int, stride: int) -> nn.Sequential:
    """3x3 transposed convolution, norm, ReLU: ``(N, cin, h, w) -> (N, cout, s h, s w)``."""
    conv = nn.ConvTranspose2d(cin, cout, 3, stride, padding=2 - stride)
    bilinear_(conv)
    return activated(conv, *([Cut()] if stride == 2 else []), channels=cout)


class LinkNet(nn.Module):
    """Over ResNet-18: LinkNet's decoder; the last stage's input is not added."""

    def __init__(self, encoder: Encoder, config: RTSegConfig) -> None:
        super().__init__()
        cin, *widths = reversed(encoder.channels)
        blocks = []
        for cout in widths:
            narrow, stride = cin // 4, 1 if cin == cout else 2
            first = activated(nn.Conv2d(cin, narrow, 1), channels=narrow)
            last = activated(nn.Conv2d(narrow, cout, 1), channels=cout)
            blocks.append(nn.Sequential(first, deconv3(narrow, narrow, stride), last))
            cin = cout
        self.blocks = nn.ModuleList(blocks)
        inner = cin // 2
        conv = nn.Conv2d(inner, inner, 3, padding=1)
        self.head = nn.Sequential(deconv3(cin, inner, 2), activated(conv, channels=inner))
        self.score = nn.ConvTranspose2d(inner, config.num_classes, 2, stride=2)
        bilinear_(self.score)
        xavier_(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return ``(N, K, H, W)``."""
        x, *skips = reversed(features[1:])
        for i, block in enumerate(self.blocks):
            x = block(x) + skips[i] if i < len(skips) else block(x)
        logits: Tensor = self.score(self.head(x))
        return logits


class Dilation(nn.Module):
    """Scores of the trunk at stride 8, enlarged at once; MobileNet's deeper layers are here."""

    def __init__(self, encoder: Encoder, config: RTSegConfig) -> None:
        super().__init__()
        cin, score_norm = encoder.channels[-1], config.trunk == "mobilenet"
        self.front = nn.Sequential()
        if score_norm:
            cin = 32 * config.channels
            self.front = dilated_mobilenet(encoder.channels[-1])
        score = nn.Conv2d(cin, config.num_classes, 1)
        self.score = nn.Sequential(score, norm(config.num_classes)) if score_norm else score
        self.up8 = enlarging(config.num_classes, config.num_classes, 16)
        xavier_(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return ``(N, K, H, W)``."""
        logits: Tensor = self.up8(self.score(self.front(features[-1])))
        return logits


def dilated_mobilenet(cin: int) -> nn.Sequential:
    """MobileNet from stride 8 on: what halved is a full 3x3 with dilation 2, then 4; no ReLU6."""
    layers: list[nn.Module] = []
    for rate, separables in ((2, 5), (4, 1)):
        conv = nn.Conv2d(cin, 2 * cin, 3, padding=rate, dilation=rate)
        cin *= 2
        layers.append(activated(conv, channels=cin))
        layers += [separable(cin, cin, activation=nn.ReLU) for _ in range(separables)]
    return nn.Sequential(*layers)


# ---- the grid ----------------------------------------------------------------------------------


class RTSeg(SegmentationModel):
    """A decoder over a trunk, as the authors' code builds them; see the module docstring.

    Raises:
        InputError: a width that the trunk cannot have.
    """

    def __init__(self, config: RTSegConfig) -> None:
        super().__init__(config)
        self.multiple_of = 8 if config.decoder == "dilation" else 32
        self.normalised = config.trunk != "vgg16"
        self.encoder = build_trunk(config)
        kind = {"skipnet": SkipNet, "unet": UNet, "dilation": Dilation}[config.decoder]
        if (config.decoder, config.trunk) == ("unet", "resnet18"):
            kind = LinkNet
        self.decoder: nn.Module = kind(self.encoder, config)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``: the last enlargement is learned."""
        if self.normalised:
            check_batch_norm(type(self).__name__, images, self.multiple_of, self.training)
        return {"logits": self.decoder(self.encoder(images))}


VAL, TEST, COARSE = "Cityscapes val", "Cityscapes test", "Cityscapes val, coarse labels first"

GRID: tuple[tuple[str, str, int, dict[str, float]], ...] = (
    ("skipnet", "vgg16", 134_473_144, {TEST: 65.3}),
    ("skipnet", "resnet18", 11_309_752, {}),
    ("skipnet", "mobilenet", 3_369_240, {TEST: 61.5, VAL: 61.3, COARSE: 62.4}),
    ("skipnet", "shufflenet", 1_014_682, {TEST: 58.3, VAL: 55.5, COARSE: 59.3}),
    ("unet", "vgg16", 28_072_020, {}),
    ("unet", "resnet18", 11_536_820, {VAL: 57.9}),
    ("unet", "mobilenet", 8_846_196, {VAL: 61.0}),
    ("unet", "shufflenet", 6_380_870, {VAL: 57.0}),
    ("dilation", "vgg16", 41_578_344, {}),
    ("dilation", "resnet18", 11_289_192, {}),
    ("dilation", "mobilenet", 8_574_544, {VAL: 57.8}),
    ("dilation", "shufflenet", 987_242, {VAL: 53.9}),
)
"""Decoder, trunk, parameters at K = 20 and the authors' results."""

for _decoder, _trunk, _count, _results in GRID:
    register(
        f"{_decoder if _decoder == 'skipnet' else f'{_decoder}_rtseg'}_{_trunk}",
        RTSegConfig(num_classes=20, decoder=_decoder, trunk=_trunk),
        title=f"{DECODERS[_decoder]} ({TRUNKS[_trunk][0]})",
        paper="arXiv:1803.02758",
        year=2018,
        idea="Trunk and decoder of a fast network are chosen separately, so that each choice can "
        "be measured.",
        repository="https://github.com/MSiam/TFSegmentation",
        num_params=_count,
        paper_size=(512, 1024),
        published=tuple(
            Published(dataset, miou, "authors' README") for dataset, miou in _results.items()
        ),
        preprocessing=TRUNKS[_trunk][2],
        verified="reference output",
        small=TRUNKS[_trunk][3],
    )(RTSeg)

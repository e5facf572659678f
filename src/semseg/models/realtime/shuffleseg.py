r"""ShuffleSeg: ShuffleNet's grouped and shuffled units under FCN-8s' skips of class scores.

Paper:
    Gamal, Siam, Abdel-Razek. "ShuffleSeg: Real-time Semantic Segmentation Network." 2018.
    arXiv:1803.03816. Layers follow the authors' ``models/fcn8s_shufflenet.py`` and
    ``models/encoders/shufflenet.py`` (TensorFlow 1).

Shapes (H, W divisible by 32):
    images       (N, C,   H,    W)
    stage 2..4   (N, 240, H/8,  W/8), (N, 480, H/16, W/16), (N, 960, H/32, W/32)
    scores       (N, K,   H/32, W/32)    1x1
    upscore 2    (N, K,   H/16, W/16)    4x4 transposed, and the scores of stage 3 added
    upscore 4    (N, K,   H/8,  W/8)     the same with stage 2
    logits       (N, K,   H,    W)       16x16 transposed

Parameters:
    1,014,682 at K = 20: 865,602 of ShuffleNet with 3 groups, 149,080 of the decoder, of which
    102,420 are the last transposed convolution. At K = 19 and without the biases before norms,
    which do nothing, 989,888.

Deviations:
    - The authors count "unlabelled" as twentieth class; K = 20 is their network, and with an
      ignored label 19 are enough.
    - The authors turn RGB to BGR before they take off the means; here images stay RGB.
    - They start from ShuffleNet's ImageNet weights in a TensorFlow pickle, which is not fetched.
    - The paper's text writes of 2x2 max-pooling; the code has 3x3 with stride 2, as ShuffleNet.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from semseg.encoders.shufflenet_v1 import CENTRED, ShuffleNetV1, norm, xavier_
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import bilinear_
from semseg.nn.norm import check_batch_norm


@dataclass(frozen=True, kw_only=True, slots=True)
class ShuffleSegConfig(ModelConfig):
    """Settings of :class:`ShuffleSeg`."""

    width: int = 24
    """Channels of the first convolution, a multiple of 12; all others are multiples of it."""


def enlarging(cin: int, cout: int, kernel: int) -> nn.ConvTranspose2d:
    """Return a learned transposed convolution that at first is bilinear, by half its kernel."""
    deconv = nn.ConvTranspose2d(cin, cout, kernel, stride=kernel // 2, padding=kernel // 4)
    bilinear_(deconv)
    return deconv


class SkipNetDecoder(nn.Module):
    """FCN-8s' decoder, learned: features at 1/8, 1/16 and 1/32 to ``(N, K, H, W)``.

    Args:
        channels: of the three features, finest first.
        num_classes: K.
        norms: whether all scores but the deepest are normalised before they are added.
    """

    def __init__(self, channels: tuple[int, int, int], num_classes: int, *, norms: bool) -> None:
        super().__init__()
        fine, middle, deep = channels

        def normalised(layer: nn.Module) -> nn.Module:
            return nn.Sequential(layer, norm(num_classes)) if norms else layer

        self.score = nn.Conv2d(deep, num_classes, 1)
        self.up2 = normalised(enlarging(num_classes, num_classes, 4))
        self.score_middle = normalised(nn.Conv2d(middle, num_classes, 1))
        self.up4 = normalised(enlarging(num_classes, num_classes, 4))
        self.score_fine = normalised(nn.Conv2d(fine, num_classes, 1))
        self.up8 = enlarging(num_classes, num_classes, 16)
        xavier_(self)

    def forward(self, fine: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Return the enlarged sum of the scores."""
        x = self.up2(self.score(deep)) + self.score_middle(middle)
        x = self.up4(x) + self.score_fine(fine)
        logits: Tensor = self.up8(x)
        return logits


@register(
    "shuffleseg",
    ShuffleSegConfig(num_classes=20),
    title="ShuffleSeg",
    paper="arXiv:1803.03816",
    year=2018,
    idea="A trunk of grouped convolutions and channel shuffles, whose scores at three strides are "
    "added as in FCN-8s.",
    repository="https://github.com/MSiam/TFSegmentation",
    num_params=1_014_682,
    paper_size=(512, 1024),
    published=(
        Published("Cityscapes test", 58.3, "authors' README; coarse labels first"),
        Published("Cityscapes val", 59.3, "authors' README; coarse labels first"),
        Published("Cityscapes val", 55.5, "authors' README; fine labels alone"),
    ),
    preprocessing=CENTRED,
    verified="reference output",
    small={"width": 12},
)
class ShuffleSeg(SegmentationModel):
    """ShuffleSeg as the authors' TensorFlow code builds it; see the module docstring.

    Raises:
        InputError: a width that is no multiple of 12.
    """

    multiple_of = 32

    def __init__(self, config: ShuffleSegConfig) -> None:
        super().__init__(config)
        self.encoder = ShuffleNetV1(config.in_channels, config.width)
        fine, middle, deep = self.encoder.channels[-3:]
        self.decoder = SkipNetDecoder((fine, middle, deep), config.num_classes, norms=True)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``: the last enlargement is learned."""
        check_batch_norm(type(self).__name__, images, self.multiple_of, self.training)
        *_, fine, middle, deep = self.encoder(images)
        return {"logits": self.decoder(fine, middle, deep)}

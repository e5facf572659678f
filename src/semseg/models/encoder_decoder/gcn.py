r"""GCN: kernels as large as the feature map, made of two thin ones, classify; residuals refine.

Paper:
    Peng, Zhang, Yu, Luo, Sun. "Large Kernel Matters - Improve Semantic Segmentation by Global
    Convolutional Network." CVPR 2017. arXiv:1703.02719, section 3 and figure 2. No code of the
    authors is public.

Shapes (H, W divisible by 32; sizes at 512 x 512):
    images         (N, C, 512, 512)
    res2 … res5    (N, 256, 128, 128), (N, 512, 64, 64), (N, 1024, 32, 32), (N, 2048, 16, 16)
    GCN, BR        (N, K, ...) of each, k = 15
    merge          (N, K, 32, 32), (N, K, 64, 64), (N, K, 128, 128)   enlarged sum, BR
    then           (N, K, 256, 256)   enlarged, BR
    logits         (N, K, 512, 512)   enlarged, BR

Parameters:
    60,723,364 with ResNet-152 at K = 21: 58,143,808 of the trunk, 2,472,456 of four GCNs,
    71,820 of nine BRs and 35,280 of five 4x4 transposed convolutions; 26,087,588 with ResNet-50
    and 45,079,716 with ResNet-101. The paper states no count.

Deviations:
    - The trunk halves in its 3x3 convolutions, as torchvision publishes it; the authors' Caffe
      ResNet halves in the 1x1 before.
    - The paper's "deconvolution" is read as 4x4 with stride 2, all classes connected, no bias,
      starting as bilinear. Of other new weights it says nothing; N(0, 0.01) here.
    - The common PyTorch port has k = 7 and enlarges bilinearly without learning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import bilinear_, gaussian_
from semseg.nn.norm import check_batch_norm

STRIDES = (32, 16, 8, 4)
"""Strides of the trunk's features, in the order they are merged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GCNConfig(ModelConfig):
    """Settings of :class:`GCN`."""

    encoder: str = "resnet152.tv_in1k"
    """Trunk with features at strides 4 to 32; the paper's is ResNet-152."""

    kernel: int = 15
    """k, odd; the paper takes 25 for Cityscapes."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(f"GCN takes an odd kernel, got {self.kernel}")


class GlobalConv(nn.Module):
    """k x k in two separable paths, with nothing between: ``(N, cin, h, w) -> (N, K, h, w)``."""

    def __init__(self, cin: int, num_classes: int, kernel: int) -> None:
        super().__init__()
        column: tuple[int, int] = (kernel, 1)
        row: tuple[int, int] = (1, kernel)
        self.paths = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(cin, num_classes, first, padding="same"),
                nn.Conv2d(num_classes, num_classes, second, padding="same"),
            )
            for first, second in ((column, row), (row, column))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both paths."""
        one, other = self.paths
        out: Tensor = one(x) + other(x)
        return out


class BoundaryRefinement(nn.Module):
    """Scores and a residual of two 3x3 convolutions: ``(N, K, h, w) -> (N, K, h, w)``."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_classes, num_classes, 3, padding=1)
        self.conv2 = nn.Conv2d(num_classes, num_classes, 3, padding=1)

    def forward(self, scores: Tensor) -> Tensor:
        """Return the refined scores."""
        out: Tensor = scores + self.conv2(F.relu(self.conv1(scores)))
        return out


def enlarging(num_classes: int) -> nn.ConvTranspose2d:
    """Return a transposed convolution that doubles scores, at first bilinearly."""
    deconv = nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2, padding=1, bias=False)
    bilinear_(deconv)
    return deconv


FACTS = {
    "paper": "arXiv:1703.02719",
    "year": 2017,
    "idea": "Classification wants every pixel connected to all of the feature map, localisation "
    "wants it convolutional: large separable kernels give both.",
    "paper_size": (512, 512),
    "verified": "reference output",
    "small": {"encoder": "test_resnet", "kernel": 5},
}


@register(
    "gcn",
    GCNConfig(encoder="resnet50.tv_in1k"),
    title="GCN (any trunk)",
    num_params=26_087_588,
    **FACTS,
)
@register(
    "gcn_resnet50",
    GCNConfig(encoder="resnet50.tv_in1k"),
    title="GCN (ResNet-50)",
    num_params=26_087_588,
    **FACTS,
)
@register(
    "gcn_resnet101",
    GCNConfig(encoder="resnet101.tv_in1k"),
    title="GCN (ResNet-101)",
    num_params=45_079_716,
    **FACTS,
)
@register(
    "gcn_resnet152",
    GCNConfig(),
    title="GCN (ResNet-152)",
    num_params=60_723_364,
    published=(
        Published("PASCAL VOC 2012 test", 82.2, "paper, abstract; COCO in training, CRF"),
        Published("Cityscapes test", 76.9, "paper, abstract; k = 25"),
    ),
    **FACTS,
)
class GCN(SegmentationModel):
    """Global convolutional network; see the module docstring."""

    multiple_of = 32

    def __init__(self, config: GCNConfig) -> None:
        super().__init__(config)
        classes = config.num_classes
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.places = [self.encoder.index_of(stride) for stride in STRIDES]
        self.global_convs = nn.ModuleList(
            GlobalConv(self.encoder.channels[i], classes, config.kernel) for i in self.places
        )
        self.refine = nn.ModuleList(BoundaryRefinement(classes) for _ in STRIDES)
        self.enlargements = nn.ModuleList(enlarging(classes) for _ in range(5))
        self.refine_enlarged = nn.ModuleList(BoundaryRefinement(classes) for _ in range(5))
        for new in (self.global_convs, self.refine, self.refine_enlarged):
            gaussian_(new, std=0.01)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``."""
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), self.training)
        features = self.encoder(images)
        scores = [
            refine(conv(features[i]))
            for i, conv, refine in zip(self.places, self.global_convs, self.refine, strict=True)
        ]
        x, *finer = scores
        for i, (deconv, refine) in enumerate(
            zip(self.enlargements, self.refine_enlarged, strict=True)
        ):
            x = deconv(x)
            if i < len(finer):
                x = x + finer[i]
            x = refine(x)
        return {"logits": x}

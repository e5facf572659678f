r"""Probabilistic U-Net: one short random vector decides which of several segmentations is drawn.

Paper:
    Kohl, Romera-Paredes, Meyer, De Fauw, Ledsam, Maier-Hein, Eslami, Rezende, Ronneberger. "A
    Probabilistic U-Net for Segmentation of Ambiguous Images." NeurIPS 2018. arXiv:1806.05034.
    Layers and settings follow the authors' code for Cityscapes, ``model/probabilistic_unet.py`` and
    ``training/prob_unet_config.py``.

Shapes (any H, W; a size is halved upwards; w = widths, the authors' 32, 64, 128, 192 ... 192; L):
    images       (N, C, H, W)
    down, 7      (N, w0, H, W), (N, w1, H/2, W/2), ..., (N, w6, H/64, W/64)
    features     (N, w0, H, W)   after as many steps up
    prior        (N, 2, L)       means and logarithms of deviations, from a second way down
    posterior    (N, 2, L)       the same from a third, which sees C + K channels; in the loss only
    logits       (N, K, H, W)    1x1 convolutions of the features and one vector, the prior's mean

Parameters:
    17,954,736 at C = 3, K = 24, L = 6; 4,996,233 at C = K = 1, L = 2 with the first four widths.

Deviations:
    - ``forward`` takes the prior's mean, which is the most likely answer. The paper's answers are
      drawn from the prior: :meth:`ProbabilisticUNet.sample`.
    - The reconstruction is the recipe's criterion, a mean over labelled pixels, times their number
      per image. With cross-entropy that is the authors' sum.
    - With K = 1 the posterior sees the one mask; the authors' code has no such setting.
    - Weights start He-normal without the authors' cut at two deviations.
    - The authors' penalty on weights, 1e-5 outside the last layer, is the recipe's weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import UNIT
from semseg.models.base import Criterion, ModelConfig, SegmentationModel, register

BIAS = 0.001
"""Deviation of the biases at the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbabilisticUNetConfig(ModelConfig):
    """Settings of :class:`ProbabilisticUNet`."""

    widths: tuple[int, ...] = (32, 64, 128, 192, 192, 192, 192)
    """Channels of each scale, finest first; of all three ways down."""

    convs: int = 3
    """Convolutions of each scale."""

    latent: int = 6
    """L, length of the random vector."""

    combined: int = 3
    """1x1 convolutions with ReLU between features and classifier."""

    beta: float = 1.0
    """Weight of the divergence of posterior and prior."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if not self.widths or min(*self.widths, self.convs, self.latent, self.combined) < 1:
            raise InputError(
                "ProbabilisticUNet needs widths, convs, latent and combined of at least 1, got "
                f"{self.widths}, {self.convs}, {self.latent} and {self.combined}"
            )
        if self.beta < 0:
            raise InputError(f"ProbabilisticUNet takes a beta of at least 0, got {self.beta}")


class Gaussian(NamedTuple):
    """A normal distribution without correlations, ``(N, L)`` each."""

    mean: Tensor
    log_sigma: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> Self:
        """Return the distribution of ``(N, 2, L)`` means and logarithms of deviations."""
        return cls(*parameters.unbind(1))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(N, L)``, through which gradients reach both parameters."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.log_sigma.exp() * noise

    def divergence(self, other: Gaussian) -> Tensor:
        """Return Kullback and Leibler's divergence from ``other``, ``(N,)``."""
        ratio = (2 * (self.log_sigma - other.log_sigma)).exp()
        apart = ((self.mean - other.mean) / other.log_sigma.exp()).square()
        return (ratio + apart - 1).sum(1) / 2 + (other.log_sigma - self.log_sigma).sum(1)


def stage(cin: int, cout: int, count: int, kernel: int = 3) -> nn.Sequential:
    """Return convolutions with bias and ReLU."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers.append(nn.Conv2d(cout if i else cin, cout, kernel, padding=kernel // 2))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Down(nn.Module):
    """The way down: ``(N, C, H, W)`` to the features of every scale, finest first."""

    def __init__(self, cin: int, widths: tuple[int, ...], convs: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stage(a, b, convs) for a, b in pairwise((cin, *widths)))
        self.pool = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features."""
        features: list[Tensor] = []
        for layers in self.stages:
            features.append(layers(self.pool(features[-1]) if features else x))
        return features


class UNet(nn.Module):
    """Down and up again, with a bilinear step and the features of each scale beside it."""

    def __init__(self, cin: int, widths: tuple[int, ...], convs: int) -> None:
        super().__init__()
        self.down = Down(cin, widths, convs)
        steps = list(pairwise(widths))[::-1]
        self.up = nn.ModuleList(stage(above + below, above, convs) for above, below in steps)

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``(N, w0, H, W)``."""
        features: list[Tensor] = self.down(images)
        *sides, x = features
        for layers, side in zip(self.up, sides[::-1], strict=True):
            x = F.interpolate(x, side.shape[-2:], mode="bilinear", align_corners=True)
            x = layers(torch.cat([x, side], dim=1))
        return x


class Latent(nn.Module):
    """From an image, or an image and a mask, to a Gaussian: ``(N, C, H, W)`` to ``(N, 2, L)``."""

    def __init__(self, cin: int, config: ProbabilisticUNetConfig) -> None:
        super().__init__()
        self.down = Down(cin, config.widths, config.convs)
        self.out = nn.Conv2d(config.widths[-1], 2 * config.latent, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return means and logarithms of deviations."""
        deepest = self.down(x)[-1].mean(dim=(2, 3), keepdim=True)
        out: Tensor = self.out(deepest)
        return out.reshape(len(x), 2, -1)


@register(
    "probabilistic_unet",
    ProbabilisticUNetConfig(num_classes=24),
    title="Probabilistic U-Net",
    paper="arXiv:1806.05034",
    year=2018,
    idea="A U-Net joined with a conditional variational autoencoder draws whole segmentations that "
    "agree with themselves, as often as the people who annotated do.",
    repository="https://github.com/SimonKohl/probabilistic_unet",
    num_params=17_954_736,
    paper_size=(256, 512),
    preprocessing=UNIT,
    verified="reference output",
    small={"widths": (8, 12, 16), "latent": 3},
)
class ProbabilisticUNet(SegmentationModel):
    """Probabilistic U-Net; see the module docstring."""

    def __init__(self, config: ProbabilisticUNetConfig) -> None:
        super().__init__(config)
        finest, self.beta = config.widths[0], config.beta
        self.unet = UNet(config.in_channels, config.widths, config.convs)
        self.prior = Latent(config.in_channels, config)
        self.posterior = Latent(config.in_channels + config.num_classes, config)
        self.combine = stage(finest + config.latent, finest, config.combined, kernel=1)
        self.classifier = nn.Conv2d(finest, config.num_classes, 1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                assert conv.bias is not None
                nn.init.trunc_normal_(conv.bias, std=BIAS, a=-2 * BIAS, b=2 * BIAS)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at the prior's mean; ``"features"``, ``"prior"`` and ``"images"``.

        The last three are what :meth:`loss` draws its own logits from: it has the target, on which
        the posterior depends.
        """
        features, prior = self.unet(images), self.prior(images)
        logits = self.decode(features, Gaussian.of(prior).mean)
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "features": features, "prior": prior, "images": images}

    def decode(self, features: Tensor, vector: Tensor) -> Tensor:
        """Return the logits ``(N, K, H, W)`` that a vector ``(N, L)`` makes of the features."""
        everywhere = vector[:, :, None, None].expand(-1, -1, *features.shape[-2:])
        logits: Tensor = self.classifier(self.combine(torch.cat([features, everywhere], dim=1)))
        return logits

    def posterior_of(self, images: Tensor, target: Tensor) -> Gaussian:
        """Return where vectors lie that draw ``target`` ``(N, H, W)``; ignored pixels are -1/2."""
        classes = self.config.num_classes
        ids = torch.arange(classes, device=target.device) + int(classes == 1)
        masks = (target[:, None] == ids[:, None, None]).to(images.dtype) - 0.5
        return Gaussian.of(self.posterior(torch.cat([images, masks], dim=1)))

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the two terms of the negative lower bound, per image: equation 4 of the paper."""
        posterior = self.posterior_of(heads["images"], target)
        logits = self.decode(heads["features"], posterior.sample())
        labelled = (target >= 0) & (target < max(self.config.num_classes, 2))
        rebuilt = self.head_loss(logits, target, criterion) * (labelled.sum() / len(target))
        divergence = posterior.divergence(Gaussian.of(heads["prior"])).mean()
        return {"reconstruction": rebuilt, "divergence": self.beta * divergence}

    def sample(
        self, images: Tensor, count: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return logits ``(count, N, K, H, W)``, each with vectors of its own from the prior.

        All but the 1x1 convolutions are computed once.

        Args:
            images: as :meth:`forward` takes them.
            count: how many answers.
            generator: of the draws, on the images' device.

        Raises:
            InputError: no answer is wanted, or what :meth:`forward` refuses.
            SettingError: integer images.
        """
        if count < 1:
            raise InputError(f"ProbabilisticUNet draws at least 1 sample, got a count of {count}")
        images = self.pad(images)
        features, prior = self.unet(images), Gaussian.of(self.prior(images))
        return torch.stack([self.decode(features, prior.sample(generator)) for _ in range(count)])

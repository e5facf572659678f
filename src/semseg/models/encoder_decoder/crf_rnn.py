r"""CRF-RNN: mean field of a dense CRF as the last layers of a network, trained with it.

Paper:
    Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang, Torr. "Conditional Random Fields as
    Recurrent Neural Networks." ICCV 2015, arXiv:1502.03240. Widths and weights follow the nets that
    the authors released (``crfasrnn``).

Shapes (any H, W; sizes at H = W = 500, K = 21):
    images       (N, 3, 500, 500)
    scores       (N, K, 70,  70)     FCN-8s
    full size    (N, K, 500, 500)    unary logits
    a round      (N, K, 500, 500)    softmax, two filters, K x K weights, K x K compatibility
    logits       (N, K, 500, 500)    after 5 rounds in training, 10 at test

Parameters:
    134,378,207 for ``crf_rnn_fcn_8s`` at K = 21: FCN-8s with trained deconvolutions of 4 x 4
    (134,376,884) and three K x K matrices (1,323). ``crf_rnn`` adds the matrices alone to any
    network: 134,364,074 with FCN-8s.

Deviations:
    - Both filters are normalised by what they give for ones, a pixel's message from itself
      included, as in the released layer; the paper leaves the pixel out.
    - The authors train the CRF's matrices 1,000 and 10,000 times as fast as the rest. Here they
      learn with the head.
    - Images come in ImageNet's normalisation, from which the layer takes colours of 0 to 255.
    - No gradient flows through the filters' features, as in the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import IMAGENET
from semseg.models.base import (
    ModelConfig,
    Published,
    preprocessing_for,
    register,
)
from semseg.models.encoder_decoder.fcn import FCN, FCNConfig
from semseg.models.with_crf import WithCRF
from semseg.nn.upsample import BilinearDeconv


@dataclass(frozen=True, kw_only=True, slots=True)
class CRFRNNConfig(ModelConfig):
    """Settings of :class:`CRFRNNOver`."""

    network: str = "fcn_8s_vgg16"
    """Registry name of the network below the CRF."""

    settings: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    """Settings of that network besides classes and channels, by name or as pairs."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.network.startswith("crf_rnn"):
            raise InputError(f"{self.network} has a CRF already; name the network below it")
        # pairs come back from a file as lists; one form makes equal settings equal
        pairs = tuple((str(key), value) for key, value in dict(self.settings).items())
        object.__setattr__(self, "settings", pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class CRFRNNFCN8sConfig(ModelConfig):
    """Settings of :class:`CRFRNNFCN8s`."""

    width: int = 64
    """Channels of VGG16's first stage; all others are multiples of it."""


class LearnedFCN8s(FCN):
    """FCN-8s whose two inner deconvolutions are trained, and bilinear at first."""

    def __init__(self, config: FCNConfig) -> None:
        super().__init__(config)
        del self.upscore2
        self.upscore_fr = bilinear_deconv(config.num_classes, bias=True)
        self.upscore_pool4 = bilinear_deconv(config.num_classes, bias=False)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` before the last deconvolution, which stays fixed."""
        *_, conv3, conv4, _, pool5 = self.encoder(images)
        x = self.dropout(F.relu(self.fc6(pool5)))
        x = self.dropout(F.relu(self.fc7(x)))
        scores = self.upscore_fr(self.score_fr(x))
        scores = _plus(scores, self.score_pool4(self.encoder.pool(conv4)), self.crops[0])
        scores = self.upscore_pool4(scores)
        return {"logits": _plus(scores, self.score_pool3(self.encoder.pool(conv3)), self.crops[1])}


def bilinear_deconv(classes: int, bias: bool) -> nn.ConvTranspose2d:
    """Return a deconvolution by 2 that begins as bilinear enlargement of each class.

    Example:
        >>> bilinear_deconv(2, bias=True).weight[0, 1].abs().sum().item()
        0.0
    """
    deconv = nn.ConvTranspose2d(classes, classes, 4, stride=2, bias=bias)
    with torch.no_grad():
        deconv.weight.zero_()
        deconv.weight[range(classes), range(classes)] = BilinearDeconv(2).kernel[0, 0]
        if deconv.bias is not None:
            deconv.bias.zero_()
    return deconv


def _plus(coarse: Tensor, fine: Tensor, start: int) -> Tensor:
    """Add the part of ``fine`` that ``coarse`` covers."""
    height, width = coarse.shape[-2:]
    return coarse + fine[..., start : start + height, start : start + width]


NO_EXPORT = "the lattice of an image has as many points as its colours make: no fixed graph"

PAPER = {
    "paper": "arXiv:1502.03240",
    "year": 2015,
    "idea": "Mean field of a fully connected CRF is written as recurrent layers, so that its "
    "weights are trained together with the network that makes its unary terms.",
    "repository": "https://github.com/torrvision/crfasrnn",
    "paper_size": (500, 500),
    "verified": "arithmetic",
    "xfail": {
        "test_torch_export_computes_the_same": NO_EXPORT,
        "test_onnx_computes_the_same": NO_EXPORT,
    },
}


@register(
    "crf_rnn_fcn_8s",
    CRFRNNFCN8sConfig(),
    title="CRF-RNN (FCN-8s)",
    num_params=134_378_207,
    published=(
        Published("PASCAL VOC 2012 test", 72.0, "paper, Table 2; without COCO"),
        Published("PASCAL VOC 2012 test", 74.7, "paper, Table 2; COCO"),
    ),
    small={"width": 4},
    **PAPER,
)
class CRFRNNFCN8s(WithCRF):
    """The paper's network; see the module docstring. It starts from a trained FCN-8s."""

    def __init__(self, config: CRFRNNFCN8sConfig) -> None:
        inner = FCNConfig(
            num_classes=config.num_classes, in_channels=config.in_channels, width=config.width
        )
        super().__init__(config, LearnedFCN8s(inner), ("fcn_8s_vgg16", "fcn_16s_vgg16"))


@register(
    "crf_rnn",
    CRFRNNConfig(),
    title="CRF-RNN over any network",
    num_params=134_364_074,
    small={"settings": (("width", 4),)},
    **PAPER,
)
class CRFRNNOver(WithCRF):
    """Any registered network with the paper's layer behind it; see the module docstring."""

    def __init__(self, config: CRFRNNConfig) -> None:
        from semseg.models import create_model, model_entry

        settings: dict[str, Any] = dict(config.settings)
        base = create_model(
            config.network,
            num_classes=config.num_classes,
            in_channels=config.in_channels,
            **settings,
        )
        rule = preprocessing_for(model_entry(config.network), base)
        if rule != IMAGENET.for_channels(config.in_channels):
            raise InputError(
                f"crf_rnn takes images in ImageNet's normalisation, {config.network} in another; "
                "name another network"
            )
        super().__init__(config, base, (config.network,))

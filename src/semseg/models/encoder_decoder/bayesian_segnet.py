r"""Bayesian SegNet: SegNet with dropout in its deepest half, left on to sample the posterior.

Paper:
    Kendall, Badrinarayanan, Cipolla. "Bayesian SegNet: Model Uncertainty in Deep Convolutional
    Encoder-Decoder Architectures for Scene Understanding." BMVC 2017. arXiv:1511.02680. Layers
    follow the authors' ``Models/bayesian_segnet_train.prototxt`` and
    ``Models/bayesian_segnet_basic_train.prototxt``.

Shapes (any H, W): those of SegNet and SegNet-Basic. Dropout stands
    after pools 3, 4, 5 and decoders 5, 4, 3 of SegNet,
    after pools 3, 4    and decoders 4, 3    of SegNet-Basic:
    in both, stages 1 and 2 keep all they have (the paper's "central" and "encoder-decoder"
    variants; dropout everywhere fits the training set too slowly).

Parameters:
    29,449,355 and 1,416,587 at K = 11: dropout adds none, and state dicts are those of ``segnet``
    and ``segnet_basic``.

Deviations:
    - Those of SegNet and SegNet-Basic.
    - In eval mode this network is the weight-averaged one. The paper's prediction, the mean of
      softmax samples, and its uncertainty are :func:`semseg.predict.mc_dropout.mc_predict`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import UNIT
from semseg.models.base import Published, register
from semseg.models.encoder_decoder.segnet import SegNet, SegNetConfig
from semseg.models.encoder_decoder.segnet_basic import BYTES, SegNetBasic, SegNetBasicConfig
from semseg.nn.norm import check_batch_norm

KEEP = 2
"""Stages, from the finest, without dropout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BayesianSegNetConfig(SegNetConfig):
    """Settings of :class:`BayesianSegNet`."""

    dropout: float = 0.5
    """Share of values zeroed at each place."""

    def __post_init__(self) -> None:
        SegNetConfig.__post_init__(self)
        check_dropout(self.dropout)


@dataclass(frozen=True, kw_only=True, slots=True)
class BayesianSegNetBasicConfig(SegNetBasicConfig):
    """Settings of :class:`BayesianSegNetBasic`."""

    dropout: float = 0.5
    """Share of values zeroed at each place."""

    def __post_init__(self) -> None:
        SegNetBasicConfig.__post_init__(self)
        check_dropout(self.dropout)


def check_dropout(dropout: float) -> None:
    """Refuse a share outside (0, 1): without dropout there is nothing to sample."""
    if not 0 < dropout < 1:
        raise InputError(
            f"Bayesian SegNet takes dropout between 0 and 1, got {dropout}; "
            "use segnet or segnet_basic for none"
        )


def encode_decode(
    x: Tensor, encoder: Iterable[nn.Module], decoder: Iterable[nn.Module], dropout: nn.Module
) -> Tensor:
    """Return the finest decoder's features, with dropout after the pools and decoders named above.

    Args:
        x: ``(N, C, H, W)``.
        encoder: stages from the finest on, each followed by a pool.
        decoder: as many stages from the deepest on, each preceded by an unpooling.
        dropout: what is applied; it comes after a pool, not before, so that the switches do not
            depend on it.
    """
    pools = []
    for stage in encoder:
        before = stage(x)
        x, switches = F.max_pool2d(before, 2, ceil_mode=True, return_indices=True)
        pools.append((switches, before.shape[-2:]))
        if len(pools) > KEEP:
            x = dropout(x)
    for stage in decoder:
        depth = len(pools)
        switches, size = pools.pop()
        x = stage(F.max_unpool2d(x, switches, (2, 2), output_size=size))
        if depth > KEEP:
            x = dropout(x)
    return x


def deepest(decoder: nn.ModuleList) -> int:
    """Return the stride of the last encoder's features; a pool follows them."""
    stride: int = 2 ** (len(decoder) - 1)
    return stride


FACTS = {
    "paper": "arXiv:1511.02680",
    "year": 2015,
    "idea": "Dropout kept on at test time samples networks, whose mean is the prediction and whose "
    "variance says how unsure the network is of itself.",
    "repository": "https://github.com/alexgkendall/SegNet-Tutorial",
    "paper_size": (360, 480),
    "verified": "reference output",
    "small": {"width": 4},
}


@register(
    "bayesian_segnet",
    BayesianSegNetConfig(num_classes=11),
    title="Bayesian SegNet",
    num_params=29_449_355,
    published=(
        Published("CamVid test", 63.1, "paper, CamVid table; 3,500 further images"),
        Published("PASCAL VOC 2012 test", 60.5, "paper, VOC table; 50 samples"),
        Published("SUN RGB-D test", 30.7, "paper, SUN table; 37 classes, RGB"),
    ),
    preprocessing=UNIT,
    **FACTS,
)
class BayesianSegNet(SegNet):
    """SegNet with dropout; see the module docstring."""

    def __init__(self, config: BayesianSegNetConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``, one sample where dropout is on."""
        check_batch_norm(type(self).__name__, images, deepest(self.decoder), self.training)
        x = encode_decode(images, self.encoder.stages, self.decoder, self.dropout)
        return {"logits": self.classifier(x)}


@register(
    "bayesian_segnet_basic",
    BayesianSegNetBasicConfig(num_classes=11),
    title="Bayesian SegNet-Basic",
    num_params=1_416_587,
    published=(Published("CamVid test", 55.8, "paper, CamVid table; CamVid's 367 images"),),
    preprocessing=BYTES,
    **FACTS,
)
class BayesianSegNetBasic(SegNetBasic):
    """SegNet-Basic with dropout; see the module docstring."""

    def __init__(self, config: BayesianSegNetBasicConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``, one sample where dropout is on."""
        check_batch_norm(type(self).__name__, images, deepest(self.decoder), self.training)
        x = encode_decode(self.norm(images), self.encoder, self.decoder, self.dropout)
        return {"logits": self.classifier(x)}

r"""Dilation8 with a CRF-RNN behind its context module.

Paper:
    Yu, Koltun. "Multi-Scale Context Aggregation by Dilated Convolutions." ICLR 2016,
    arXiv:1511.07122, section 5 ("Front end + large context + CRF-RNN"). The layer is that of Zheng
    et al., "Conditional Random Fields as Recurrent Neural Networks", arXiv:1502.03240.

Shapes (H, W divisible by 8):
    images       (N, C, H,   W)
    scores       (N, K, H/8, W/8)    of the front end and the large context module
    full size    (N, K, H,   W)      unary logits
    logits       (N, K, H,   W)      after 5 rounds in training, 10 at test

Parameters:
    141,151,043 at K = 21: Dilation8 for PASCAL VOC (141,149,720) and three K x K matrices (1,323).

Deviations:
    - Those of ``dilation.py``, and those of the layer: its matrices learn as fast as the head, and
      colours are taken from images in ImageNet's normalisation.
    - The authors say that front end, context and CRF-RNN are trained together and give no widths;
      those of the CRF-RNN's release are taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from semseg.models.base import ModelConfig, Published, register
from semseg.models.dilated.dilation import Dilation, DilationConfig
from semseg.models.with_crf import WithCRF

NO_EXPORT = "the lattice of an image has as many points as its colours make: no fixed graph"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dilation8CRFRNNConfig(ModelConfig):
    """Settings of :class:`Dilation8CRFRNN`."""

    width: int = 64
    """Channels of VGG16's first stage; all others are multiples of it."""


@register(
    "dilation8_crf_rnn",
    Dilation8CRFRNNConfig(),
    title="Dilation8 with CRF-RNN (PASCAL VOC)",
    paper="arXiv:1511.07122",
    year=2016,
    idea="Scores that know their surroundings by dilation are sharpened at edges of the image by a "
    "CRF that is trained with them.",
    repository="https://github.com/fyu/dilation",
    num_params=141_151_043,
    published=(Published("PASCAL VOC 2012 test", 75.3, "paper, Table 4; COCO"),),
    verified="arithmetic",
    small={"width": 2},
    xfail={
        "test_torch_export_computes_the_same": NO_EXPORT,
        "test_onnx_computes_the_same": NO_EXPORT,
    },
)
class Dilation8CRFRNN(WithCRF):
    """See the module docstring. It starts from a trained ``dilation8``."""

    multiple_of = 8

    def __init__(self, config: Dilation8CRFRNNConfig) -> None:
        inner = DilationConfig(
            num_classes=config.num_classes,
            in_channels=config.in_channels,
            width=config.width,
            context="large",
        )
        super().__init__(config, Dilation(inner), ("dilation8", "dilation_frontend"))

"""Small networks of transformers, by the names that the tests of reading them use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf
from torch import nn

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def convnext(**settings: Any) -> Any:
    shape = {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}
    return hf.ConvNextConfig(out_features=STAGES, **{**shape, **settings})


def swin(**settings: Any) -> Any:
    shape = {"embed_dim": 16, "depths": [1, 2, 1, 2], "num_heads": [1, 2, 2, 4], "window_size": 3}
    return hf.SwinConfig(out_features=STAGES, **{**shape, **settings})


def resnet(**settings: Any) -> Any:
    shape = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
    return hf.ResNetConfig(out_features=STAGES, **{**shape, **settings})


def segformer(**settings: Any) -> nn.Module:
    known = {"decoder_hidden_size": 16, "num_labels": 5, **settings}
    return hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**known))


def dpt(**settings: Any) -> nn.Module:
    known = {
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "intermediate_size": 192,
        "backbone_out_indices": [0, 2, 3, 5],
        "image_size": 64,
        "neck_hidden_sizes": [8, 12, 16, 16],
        "fusion_hidden_size": 8,
        "use_batch_norm_in_fusion_residual": True,
        "num_labels": 5,
        **settings,
    }
    return hf.DPTForSemanticSegmentation(hf.DPTConfig(**known))


def upernet(trunk: Any = None, **settings: Any) -> nn.Module:
    known = {"backbone_config": trunk or convnext(), "hidden_size": 16, "num_labels": 5}
    return hf.UperNetForSemanticSegmentation(hf.UperNetConfig(**{**known, **settings}))


def maskformer(trunk: Any = None, **settings: Any) -> nn.Module:
    known = {"fpn_feature_size": 32, "mask_feature_size": 32, "num_labels": 5, **settings}
    decoder = {"model_type": "detr", "d_model": 32, "decoder_layers": 2, "num_queries": 7}
    known["decoder_config"] = decoder | known.get("decoder_config", {})
    return hf.MaskFormerForInstanceSegmentation(
        hf.MaskFormerConfig(backbone_config=trunk or swin(), **known)
    )


def mask2former(trunk: Any = None, **settings: Any) -> nn.Module:
    width = {"hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32}
    known = {"num_queries": 7, "encoder_layers": 2, "decoder_layers": 4, "num_labels": 5}
    return hf.Mask2FormerForUniversalSegmentation(
        hf.Mask2FormerConfig(backbone_config=trunk or swin(), **{**width, **known, **settings})
    )


def eomt(**settings: Any) -> nn.Module:
    shape = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2}
    known = {"image_size": 96, "num_queries": 7, "num_blocks": 3, "num_labels": 5}
    return hf.EomtForUniversalSegmentation(hf.EomtConfig(**{**shape, **known, **settings}))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "segformer": segformer,
    "dpt": dpt,
    "upernet": lambda trunk=None, **s: upernet(convnext(**(trunk or {})), **s),
    "upernet_swin": lambda trunk=None, **s: upernet(
        swin(**(trunk or {})), auxiliary_in_channels=64, **s
    ),
    "maskformer": lambda trunk=None, **s: maskformer(swin(**(trunk or {})), **s),
    "maskformer_resnet": lambda trunk=None, **s: maskformer(resnet(**(trunk or {})), **s),
    "mask2former": lambda trunk=None, **s: mask2former(swin(**(trunk or {})), **s),
    "mask2former_resnet": lambda trunk=None, **s: mask2former(resnet(**(trunk or {})), **s),
    "eomt": eomt,
}

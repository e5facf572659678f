"""Networks of transformers that predict masks: MaskFormer, Mask2Former and EoMT."""

from __future__ import annotations

from dataclasses import replace

from semseg.encoders.dinov2 import VARIANTS as DINO
from semseg.models.hf_kind import Kind, Rules
from semseg.models.hf_trunks import (
    RESNET_FIXED,
    RESNET_SHAPE,
    RESNET_TRUNKS,
    SWIN_FIXED,
    SWIN_SHAPE,
    SWIN_TRUNKS,
    SWIN_UNUSED,
    resnet_rules,
    swin_rules,
)

TRUNK = r"model\.pixel_level_module\.encoder\."
PIXELS = r"^model\.pixel_level_module\.decoder\."
QUERIES = r"^model\.transformer_module\."

ATTENTION: Rules = (
    (r"\.q_proj\.", ".qkv.@0."),
    (r"\.k_proj\.", ".qkv.@1."),
    (r"\.v_proj\.", ".qkv.@2."),
    (r"\.in_proj_", ".qkv."),
    (r"\.out_proj\.", ".out."),
)

MASKFORMER_RULES: Rules = (
    (rf"{PIXELS}fpn\.stem\.", "pixel_decoder.top."),
    (rf"{PIXELS}fpn\.layers\.(\d)\.proj\.", r"pixel_decoder.lateral.\1."),
    (rf"{PIXELS}fpn\.layers\.(\d)\.block\.", r"pixel_decoder.smooth.\1."),
    (rf"{PIXELS}mask_projection\.", "pixel_decoder.out."),
    (rf"{QUERIES}queries_embedder\.weight$", "places"),
    (rf"{QUERIES}input_projection\.", "project."),
    (rf"{QUERIES}decoder\.layernorm\.", "norm."),
    (rf"{QUERIES}decoder\.layers\.", "layers."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.final_layer_norm\.", ".norm3."),
    (r"\.self_attn\.", ".own."),
    (r"\.encoder_attn\.", ".cross."),
    *ATTENTION,
    (r"^(layers\.\d+)\.(mlp\.)?fc1\.", r"\1.ffn.0."),
    (r"^(layers\.\d+)\.(mlp\.)?fc2\.", r"\1.ffn.2."),
    (r"^class_predictor\.", "classify."),
    *((rf"^mask_embedder\.{i}\.0\.", f"mask_head.{2 * i}.") for i in range(3)),
)

_maskformer = Kind(
    "maskformer",
    (*swin_rules(TRUNK), *MASKFORMER_RULES),
    trunk="encoder",
    shape=SWIN_SHAPE,
    trunks=SWIN_TRUNKS,
    fields={
        "mask_feature_size": "width",
        "decoder_config.num_queries": "queries",
        "decoder_config.decoder_layers": "layers",
    },
    fixed={
        "decoder_config.model_type": ("detr",),
        "decoder_config.decoder_attention_heads": (8,),
        "decoder_config.decoder_ffn_dim": (2048,),
        "decoder_config.activation_function": ("relu",),
        **SWIN_FIXED,
    },
    unused=rf"criterion\.|{SWIN_UNUSED}",
    inside="backbone_config",
    model_types=("swin", "maskformer-swin"),
)


def _over_resnet(kind: Kind, rules: Rules) -> Kind:
    """Return the kind over a ResNet for that over a Swin; ``rules`` are of all but the trunk."""
    return replace(
        kind,
        rules=(*resnet_rules(TRUNK), *rules),
        shape=RESNET_SHAPE,
        trunks=RESNET_TRUNKS,
        fixed={k: v for k, v in kind.fixed.items() if k not in SWIN_FIXED} | RESNET_FIXED,
        model_types=("resnet",),
    )


MASKFORMER = (_maskformer, _over_resnet(_maskformer, MASKFORMER_RULES))

MASK2FORMER_RULES: Rules = (
    (rf"{PIXELS}input_projections\.", "pixel_decoder.project."),
    (rf"{PIXELS}level_embed$", "pixel_decoder.scale"),
    (rf"{PIXELS}adapter_1\.", "pixel_decoder.lateral."),
    (rf"{PIXELS}layer_1\.", "pixel_decoder.smooth."),
    (rf"{PIXELS}mask_projection\.", "pixel_decoder.out."),
    (rf"{PIXELS}encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"pixel_decoder.layers.\1.norm1."),
    (rf"{PIXELS}encoder\.layers\.(\d+)\.final_layer_norm\.", r"pixel_decoder.layers.\1.norm2."),
    (rf"{PIXELS}encoder\.layers\.", "pixel_decoder.layers."),
    (r"\.self_attn\.sampling_offsets\.", ".attention.offsets."),
    (r"\.self_attn\.attention_weights\.", ".attention.shares."),
    (r"\.self_attn\.value_proj\.", ".attention.values."),
    (r"\.self_attn\.output_proj\.", ".attention.out."),
    (rf"{QUERIES}queries_embedder\.weight$", "query_places"),
    (rf"{QUERIES}queries_features\.weight$", "queries"),
    (rf"{QUERIES}level_embed\.weight$", "scale"),
    (rf"{QUERIES}decoder\.layernorm\.", "norm."),
    *(
        (rf"{QUERIES}decoder\.mask_predictor\.mask_embedder\.{i}\.0\.", f"mask_head.{2 * i}.")
        for i in range(3)
    ),
    (rf"{QUERIES}decoder\.layers\.", "layers."),
    (r"\.cross_attn_layer_norm\.", ".norm1."),
    (r"\.self_attn_layer_norm\.", ".norm2."),
    (r"\.final_layer_norm\.", ".norm3."),
    (r"\.self_attn\.", ".own."),
    (r"\.cross_attn\.", ".cross."),
    *ATTENTION,
    (r"^((?:pixel_decoder\.)?layers\.\d+)\.fc1\.", r"\1.ffn.0."),
    (r"^((?:pixel_decoder\.)?layers\.\d+)\.fc2\.", r"\1.ffn.2."),
    (r"^class_predictor\.", "classify."),
)

_mask2former = Kind(
    "mask2former",
    (*swin_rules(TRUNK), *MASK2FORMER_RULES),
    trunk="encoder",
    shape=SWIN_SHAPE,
    trunks=SWIN_TRUNKS,
    fields={
        "hidden_dim": "width",
        "num_queries": "queries",
        "encoder_layers": "pixel_layers",
        "decoder_layers": "query_layers",
        "train_num_points": "points",
    },
    fixed={
        "feature_strides": ((4, 8, 16, 32),),
        "common_stride": (4,),
        "encoder_feedforward_dim": (1024,),
        "dim_feedforward": (2048,),
        "num_attention_heads": (8,),
        "activation_function": ("relu",),
        "pre_norm": (False,),
        "enforce_input_projection": (False,),
        **SWIN_FIXED,
    },
    unused=rf"criterion\.|{SWIN_UNUSED}",
    inside="backbone_config",
    model_types=("swin",),
    less=("query_layers",),
)

MASK2FORMER = (_mask2former, _over_resnet(_mask2former, MASK2FORMER_RULES))

EOMT = Kind(
    "eomt",
    (
        (r"^embeddings\.cls_token$", "encoder.cls_token"),
        (r"^embeddings\.register_tokens$", "encoder.reg_token"),
        (r"^embeddings\.position_embeddings\.weight$", "encoder.pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "encoder.patch_embed."),
        (r"^layers\.", "encoder.blocks."),
        (r"^layernorm\.", "encoder.norm."),
        (r"\.attention\.q_proj\.", ".attn.qkv.@0."),
        (r"\.attention\.k_proj\.", ".attn.qkv.@1."),
        (r"\.attention\.v_proj\.", ".attn.qkv.@2."),
        (r"\.attention\.out_proj\.", ".attn.proj."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"^query\.weight$", "queries"),
        (r"^class_predictor\.", "classify."),
        *((rf"^mask_head\.fc{i + 1}\.", f"mask_head.{2 * i}.") for i in range(3)),
        (r"^upscale_block\.block\.(\d)\.conv1\.", r"enlarge_patches.\1.0."),
        (r"^upscale_block\.block\.(\d)\.conv2\.", r"enlarge_patches.\1.2."),
        (r"^upscale_block\.block\.(\d)\.layernorm2d\.", r"enlarge_patches.\1.3."),
    ),
    trunk="trunk",
    shape=("hidden_size", "num_hidden_layers", "num_attention_heads"),
    trunks={(v.width, v.depth, v.heads): name for name, v in DINO.items()},
    fields={
        "image_size": "image_size",
        "num_queries": "queries",
        "num_blocks": "blocks",
        "train_num_points": "points",
        "num_channels": "in_channels",
    },
    fixed={
        "patch_size": (16,),
        "num_register_tokens": (4,),
        "num_upscale_blocks": (2,),
        "mlp_ratio": (4,),
        "use_swiglu_ffn": (False,),
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-6,),
    },
    unused=r"criterion\.",
    zero=r"attn_mask_probs$",
)

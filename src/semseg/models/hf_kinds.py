"""What classes of transformers are called here, by their names in :data:`KINDS`.

A kind names the network, says which settings mean what, and how names of tensors translate;
:func:`semseg.models.hf.load_hf` does the rest.
"""

from __future__ import annotations

from dataclasses import replace

from semseg.encoders.mit import VARIANTS as MIT
from semseg.encoders.vit import VARIANTS as VIT
from semseg.models.hf_kind import Kind
from semseg.models.hf_masks import EOMT, MASK2FORMER, MASKFORMER
from semseg.models.hf_trunks import (
    CONVNEXT,
    CONVNEXT_RULES,
    SWIN_FIXED,
    SWIN_SHAPE,
    SWIN_TRUNKS,
    SWIN_UNUSED,
    swin_rules,
)


def quarters(depth: int) -> tuple[int, ...]:
    """Return the last block of each quarter of a trunk, counted from 0."""
    return tuple(depth * i // 4 - 1 for i in range(1, 5))


SEGFORMER = Kind(
    "segformer_b0",
    (
        (r"^segformer\.encoder\.patch_embeddings\.(\d)\.proj\.", r"encoder.stages.\1.embed."),
        (
            r"^segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.",
            r"encoder.stages.\1.embed_norm.",
        ),
        (r"^segformer\.encoder\.block\.(\d)\.(\d+)\.", r"encoder.stages.\1.blocks.\2."),
        (r"^segformer\.encoder\.layer_norm\.(\d)\.", r"encoder.stages.\1.norm."),
        (r"\.layer_norm_([12])\.", r".norm\1."),
        (r"\.attention\.self\.query\.", ".attn.q."),
        (r"\.attention\.self\.key\.", ".attn.kv.@0."),
        (r"\.attention\.self\.value\.", ".attn.kv.@1."),
        (r"\.attention\.self\.sr\.", ".attn.sr."),
        (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
        (r"\.dwconv\.dwconv\.", ".dwconv."),
        (r"^decode_head\.linear_c\.(\d)\.proj\.", r"head.project.\1."),
        (r"^decode_head\.linear_fuse\.", "head.fuse."),
        (r"^decode_head\.batch_norm\.", "head.norm."),
        (r"^decode_head\.classifier\.", "head.classify."),
    ),
    trunk="encoder",
    shape=("hidden_sizes", "depths"),
    trunks={(v.widths, v.depths): name for name, v in MIT.items()},
    fields={"decoder_hidden_size": "width", "num_channels": "in_channels"},
    fixed={
        "num_attention_heads": ((1, 2, 5, 8),),
        "sr_ratios": ((8, 4, 2, 1),),
        "patch_sizes": ((7, 3, 3, 3),),
        "strides": ((4, 2, 2, 2),),
        "mlp_ratios": ((4, 4, 4, 4),),
        "hidden_act": ("gelu",),
        "reshape_last_stage": (True,),
    },
)

DPT = Kind(
    "dpt",
    (
        (r"^dpt\.embeddings\.cls_token$", "encoder.cls_token"),
        (r"^dpt\.embeddings\.position_embeddings$", "encoder.pos_embed"),
        (r"^dpt\.embeddings\.patch_embeddings\.projection\.", "encoder.patch_embed."),
        (r"^dpt\.encoder\.layer\.(\d+)\.", r"encoder.blocks.\1."),
        (r"\.attention\.attention\.query\.", ".attn.qkv.@0."),
        (r"\.attention\.attention\.key\.", ".attn.qkv.@1."),
        (r"\.attention\.attention\.value\.", ".attn.qkv.@2."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"^neck\.reassemble_stage\.readout_projects\.(\d)\.0\.", r"reassemble.\1.readout."),
        (r"^neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"reassemble.\1.project."),
        (r"^neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"reassemble.\1.resize."),
        (r"^neck\.convs\.(\d)\.", r"reassemble.\1.out."),
        (r"^neck\.fusion_stage\.layers\.(\d)\.projection\.", r"fusions.\1.project."),
        (r"^neck\.fusion_stage\.layers\.(\d)\.residual_layer1\.", r"fusions.\1.side."),
        (r"^neck\.fusion_stage\.layers\.(\d)\.residual_layer2\.", r"fusions.\1.unit."),
        (r"\.convolution([12])\.", r".conv\1."),
        (r"\.batch_norm([12])\.", r".norm\1."),
        (r"^head\.head\.", "head."),
        (r"^auxiliary_head\.head\.", "aux."),
    ),
    trunk="trunk",
    shape=(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "backbone_out_indices",
    ),
    trunks={
        (v.width, v.depth, v.heads, v.ratio * v.width, quarters(v.depth)): name
        for name, v in VIT.items()
    },
    fields={
        "image_size": "image_size",
        "neck_hidden_sizes": "neck",
        "fusion_hidden_size": "width",
        "num_channels": "in_channels",
    },
    fixed={
        "is_hybrid": (False,),
        "backbone_config": (None,),
        "readout_type": ("project",),
        "reassemble_factors": ((4, 2, 1, 0.5),),
        "use_batch_norm_in_fusion_residual": (True,),
        "use_bias_in_fusion_residual": (None, False),
        "use_auxiliary_head": (True,),
        "hidden_act": ("gelu",),
        "patch_size": (16,),
        "qkv_bias": (True,),
    },
    unused=r"dpt\.(layernorm|pooler)\.|neck\.fusion_stage\.layers\.0\.residual_layer1\.",
)

HEADS = (
    (r"^decode_head\.psp_modules\.(\d)\.1\.conv\.", r"context.pooling.levels.\1.1."),
    (r"^decode_head\.psp_modules\.(\d)\.1\.batch_norm\.", r"context.pooling.levels.\1.2."),
    (r"\.conv\.(?=\w+$)", ".0."),
    (r"\.batch_norm\.(?=\w+$)", ".1."),
    (r"^decode_head\.bottleneck\.", "context.join."),
    (r"^decode_head\.lateral_convs\.", "pyramid.lateral."),
    (r"^decode_head\.fpn_convs\.", "pyramid.out."),
    (r"^decode_head\.fpn_bottleneck\.", "fusion."),
    (r"^decode_head\.classifier\.", "head.1."),
    (r"^auxiliary_head\.convs\.0\.", "aux."),
    (r"^auxiliary_head\.classifier\.", "aux.4."),
)
"""Names in the two heads of UPerNet."""

UPERNET = Kind(
    "upernet_convnext_tiny",
    (*CONVNEXT_RULES, *HEADS),
    trunk="encoder",
    shape=("hidden_sizes", "depths"),
    trunks=CONVNEXT,
    fields={"hidden_size": "width"},
    fixed={
        "pool_scales": ((1, 2, 3, 6),),
        "use_auxiliary_head": (True,),
        "auxiliary_channels": (256,),
        "auxiliary_num_convs": (1,),
        "auxiliary_concat_input": (False,),
        "hidden_act": ("gelu",),
    },
    inside="backbone_config",
    model_types=("convnext",),
)

UPERNET_SWIN = replace(
    UPERNET,
    network="upernet_swin_tiny",
    rules=(*swin_rules(r"backbone\."), *HEADS),
    shape=SWIN_SHAPE,
    trunks=SWIN_TRUNKS,
    fixed={**UPERNET.fixed, **SWIN_FIXED},
    unused=SWIN_UNUSED,
    model_types=("swin",),
)

KINDS: dict[str, tuple[Kind, ...]] = {
    "SegformerForSemanticSegmentation": (SEGFORMER,),
    "DPTForSemanticSegmentation": (DPT,),
    "UperNetForSemanticSegmentation": (UPERNET, UPERNET_SWIN),
    "MaskFormerForInstanceSegmentation": MASKFORMER,
    "Mask2FormerForUniversalSegmentation": MASK2FORMER,
    "EomtForUniversalSegmentation": (EOMT,),
}
"""Classes that are taken, each with a kind for every kind of trunk."""

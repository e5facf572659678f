"""What classes of transformers are called here, one :class:`Kind` each in :data:`KINDS`.

A kind names the network, says which settings mean what, and how names of tensors translate;
:func:`semseg.models.hf.load_hf` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from semseg.encoders.mit import VARIANTS as MIT
from semseg.encoders.vit import VARIANTS as VIT

Rules = tuple[tuple[str, str], ...]
"""Patterns and replacements, applied to a name one after the other. ``@0.``, ``@1.`` … in a
replacement mark parts of one of our tensors, which are joined in that order."""

NOTHING = r"(?!)"
"""A pattern that matches no name."""


def quarters(depth: int) -> tuple[int, ...]:
    """Return the last block of each quarter of a trunk, counted from 0."""
    return tuple(depth * i // 4 - 1 for i in range(1, 5))


@dataclass(frozen=True, slots=True)
class Kind:
    """One class of transformers.

    Args:
        network: registry name of the same network here.
        rules: from its names to ours.
        trunk: field of our config that names the trunk.
        shape: its settings that decide the trunk.
        trunks: our trunk by their values.
        fields: settings that are fields of our config, by the field's name.
        fixed: settings, also of the trunk, with the only values taken, the default first.
        unused: tensors that it holds and no output depends on.
        inside: setting that holds those of the trunk.
    """

    network: str
    rules: Rules
    trunk: str
    shape: tuple[str, ...]
    trunks: Mapping[tuple[Any, ...], str]
    fields: Mapping[str, str]
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    unused: str = NOTHING
    inside: str | None = None


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

CONVNEXT = {
    ((96, 192, 384, 768), (3, 3, 9, 3)): "convnext_tiny",
    ((96, 192, 384, 768), (3, 3, 27, 3)): "convnext_small",
    ((128, 256, 512, 1024), (3, 3, 27, 3)): "convnext_base",
    ((192, 384, 768, 1536), (3, 3, 27, 3)): "convnext_large",
    ((256, 512, 1024, 2048), (3, 3, 27, 3)): "convnext_xlarge",
}

UPERNET = Kind(
    "upernet_convnext_tiny",
    (
        (r"^backbone\.embeddings\.patch_embeddings\.", "encoder.trunk.stem_0."),
        (r"^backbone\.embeddings\.layernorm\.", "encoder.trunk.stem_1."),
        (r"^backbone\.encoder\.stages\.", "encoder.trunk.stages_"),
        (r"\.downsampling_layer\.", ".downsample."),
        (r"\.layers\.(\d+)\.dwconv\.", r".blocks.\1.conv_dw."),
        (r"\.layers\.(\d+)\.layernorm\.", r".blocks.\1.norm."),
        (r"\.layers\.(\d+)\.pwconv([12])\.", r".blocks.\1.mlp.fc\2."),
        (r"\.layers\.(\d+)\.layer_scale_parameter$", r".blocks.\1.gamma"),
        *((rf"^backbone\.hidden_states_norms\.stage{i + 1}\.", f"norms.{i}.") for i in range(4)),
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
    ),
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
)

KINDS: dict[str, Kind] = {
    "SegformerForSemanticSegmentation": SEGFORMER,
    "DPTForSemanticSegmentation": DPT,
    "UperNetForSemanticSegmentation": UPERNET,
}
"""Classes that are taken."""

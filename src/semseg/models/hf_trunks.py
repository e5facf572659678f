"""What trunks of transformers are called here: shapes, and names of tensors."""

from __future__ import annotations

from semseg.encoders.swin import VARIANTS as SWIN
from semseg.models.hf_kind import Rules

STAGES = ("stage1", "stage2", "stage3", "stage4")

CONVNEXT = {
    ((96, 192, 384, 768), (3, 3, 9, 3)): "convnext_tiny",
    ((96, 192, 384, 768), (3, 3, 27, 3)): "convnext_small",
    ((128, 256, 512, 1024), (3, 3, 27, 3)): "convnext_base",
    ((192, 384, 768, 1536), (3, 3, 27, 3)): "convnext_large",
    ((256, 512, 1024, 2048), (3, 3, 27, 3)): "convnext_xlarge",
}

CONVNEXT_RULES: Rules = (
    (r"^backbone\.embeddings\.patch_embeddings\.", "encoder.trunk.stem_0."),
    (r"^backbone\.embeddings\.layernorm\.", "encoder.trunk.stem_1."),
    (r"^backbone\.encoder\.stages\.", "encoder.trunk.stages_"),
    (r"\.downsampling_layer\.", ".downsample."),
    (r"\.layers\.(\d+)\.dwconv\.", r".blocks.\1.conv_dw."),
    (r"\.layers\.(\d+)\.layernorm\.", r".blocks.\1.norm."),
    (r"\.layers\.(\d+)\.pwconv([12])\.", r".blocks.\1.mlp.fc\2."),
    (r"\.layers\.(\d+)\.layer_scale_parameter$", r".blocks.\1.gamma"),
    *((rf"^backbone\.hidden_states_norms\.stage{i + 1}\.", f"norms.{i}.") for i in range(4)),
)

SWIN_SHAPE = ("embed_dim", "depths", "num_heads", "window_size")
SWIN_TRUNKS = {(v.width, v.depths, v.heads, v.window): name for name, v in SWIN.items()}
SWIN_FIXED = {
    "patch_size": (4,),
    "mlp_ratio": (4.0,),
    "qkv_bias": (True,),
    "use_absolute_embeddings": (False,),
    "hidden_act": ("gelu",),
    "out_features": (STAGES,),
}
SWIN_UNUSED = r".*\.(model|swin)\.layernorm\.|.*\.relative_position_index$"


def swin_rules(prefix: str) -> Rules:
    """Return the rules of a Swin whose names begin with the pattern ``prefix``."""
    prefix = rf"{prefix}(?:model\.|swin\.)?"
    deepest = max(max(v.depths) for v in SWIN.values())
    return (
        (rf"^{prefix}embeddings\.patch_embeddings\.projection\.", "encoder.patch_embed."),
        (rf"^{prefix}embeddings\.norm\.", "encoder.patch_norm."),
        *(
            (rf"^{prefix}hidden_states_norms\.(stage{i + 1}|{i})\.", f"encoder.norms.{i}.")
            for i in range(4)
        ),
        # a stage of theirs ends with merging, one of ours begins with it
        *(
            (rf"^{prefix}encoder\.layers\.{i}\.downsample\.", f"encoder.stages.{i + 1}.0.")
            for i in range(3)
        ),
        (rf"^{prefix}encoder\.layers\.0\.blocks\.", "encoder.stages.0."),
        *(
            (rf"^{prefix}encoder\.layers\.([123])\.blocks\.{j}\.", rf"encoder.stages.\1.{j + 1}.")
            for j in range(deepest)
        ),
        (r"\.attention\.self\.query\.", ".attn.qkv.@0."),
        (r"\.attention\.self\.key\.", ".attn.qkv.@1."),
        (r"\.attention\.self\.value\.", ".attn.qkv.@2."),
        (r"\.attention\.self\.relative", ".attn.relative"),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
    )


def _resnets() -> dict[tuple[object, ...], str]:
    basic, deep = (64, 128, 256, 512), (256, 512, 1024, 2048)
    depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
    depths[152] = (3, 8, 36, 3)
    return {
        (("basic", basic, depth) if layers < 50 else ("bottleneck", deep, depth)): f"resnet{layers}"
        for layers, depth in depths.items()
    }


RESNET_SHAPE = ("layer_type", "hidden_sizes", "depths")
RESNET_TRUNKS = _resnets()
RESNET_FIXED = {
    "embedding_size": (64,),
    "downsample_in_bottleneck": (False,),
    "downsample_in_first_stage": (False,),
    "hidden_act": ("relu",),
    "out_features": (STAGES,),
}


def resnet_rules(prefix: str) -> Rules:
    """Return the rules of a ResNet whose names begin with the pattern ``prefix``."""
    return (
        (rf"^{prefix}embedder\.embedder\.convolution\.", "encoder.trunk.conv1."),
        (rf"^{prefix}embedder\.embedder\.normalization\.", "encoder.trunk.bn1."),
        *(
            (rf"^{prefix}encoder\.stages\.{i}\.layers\.", f"encoder.trunk.layer{i + 1}.")
            for i in range(4)
        ),
        (r"\.shortcut\.convolution\.", ".downsample.0."),
        (r"\.shortcut\.normalization\.", ".downsample.1."),
        *((rf"\.layer\.{k}\.convolution\.", f".conv{k + 1}.") for k in range(3)),
        *((rf"\.layer\.{k}\.normalization\.", f".bn{k + 1}.") for k in range(3)),
    )

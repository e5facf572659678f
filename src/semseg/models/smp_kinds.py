"""What classes of segmentation_models_pytorch are called here, one line each in :data:`KINDS`.

A line names the network, how names of tensors in its decoder translate, and which settings mean
what; :func:`semseg.models.smp.load_smp` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Rules = tuple[tuple[str, str], ...]
"""Patterns and replacements, applied to a name one after the other."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One class of segmentation_models_pytorch.

    Args:
        network: registry name of the same network here.
        rules: from its names that begin with ``decoder.`` to ours; encoder and head are the same
            for all.
        fixed: settings with the only value that is taken, before those of :data:`FIXED`.
        fields: settings that are fields of our config, by the field's name.
        free: settings that matter in training alone, besides those of :data:`FREE`.
        own: fields of our config that make it the same network.
        trunks: the only ones over which it is our network, where not all are.
        unused: tensors that it holds and never computes with.
        head: where its last convolution is here.
    """

    network: str
    rules: Rules
    fixed: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)
    trunks: tuple[str, ...] = ()
    unused: str | None = None
    head: str = "head."


FIXED: dict[str, Any] = {
    "encoder_depth": 5,
    "decoder_use_norm": "batchnorm",
    "decoder_attention_type": None,
    "decoder_interpolation": "nearest",
    "activation": None,
    "aux_params": None,
}
"""Settings of all classes with the only value that is taken."""

FREE = ("encoder_weights", "drop_rate", "drop_path_rate")
"""Settings of all classes that change nothing about trained weights."""

SYNONYMS: dict[str, dict[Any, Any]] = {
    "decoder_use_norm": {True: "batchnorm"},
    "activation": {"identity": None},
}
"""Other ways of writing such a value."""

WIDTHS = {"decoder_channels": (256, 128, 64, 32, 16)}

UNET: Rules = ((r"\.conv1\.", ".0."), (r"\.conv2\.", ".1."))

UNET_PLUS_PLUS: Rules = ((r"\.blocks\.x_(\d)_(\d)\.", r".rows.\2.nodes.\1."), *UNET)

MANET: Rules = (
    (r"\.center\.center_conv\.", ".attention.query."),
    (r"\.center\.top_conv\.", ".attention.key."),
    (r"\.center\.bottom_conv\.", ".attention.value."),
    (r"\.center\.out_conv\.", ".attention.out."),
    (r"\.hl_conv\.", ".reduce."),
    (r"\.SE_ll\.", ".fine."),
    (r"\.SE_hl\.", ".coarse."),
    (r"\.conv1\.", ".convs.0."),
    (r"\.conv2\.", ".convs.1."),
)

LINKNET: Rules = ((r"\.block\.", "."),)

FPN: Rules = (
    (r"^decoder\.p5\.", "pyramid.lateral.0."),
    (r"^decoder\.p4\.skip_conv\.", "pyramid.lateral.1."),
    (r"^decoder\.p3\.skip_conv\.", "pyramid.lateral.2."),
    (r"^decoder\.p2\.skip_conv\.", "pyramid.lateral.3."),
    (r"^decoder\.seg_blocks\.(\d)\.block\.(\d)\.block\.", r"branches.\1.convs.\2."),
)

FPN_FIXED = {
    "decoder_pyramid_channels": 256,
    "decoder_segmentation_channels": 128,
    "decoder_merge_policy": "add",
    "upsampling": 4,
}

PAN: Rules = (
    (r"\.conv\.(?=\w+$)", ".0."),
    (r"\.bn\.(?=\w+$)", ".1."),
    (r"^decoder\.fpa\.branch1\.1\.", "attention.image."),
    (r"^decoder\.fpa\.mid\.0\.", "attention.middle."),
    (r"^decoder\.fpa\.down1\.1\.", "attention.down.0."),
    (r"^decoder\.fpa\.down2\.1\.", "attention.down.1."),
    (r"^decoder\.fpa\.down3\.1\.", "attention.down.2."),
    (r"^decoder\.fpa\.conv1\.", "attention.across.0."),
    (r"^decoder\.fpa\.conv2\.", "attention.across.1."),
    (r"^decoder\.fpa\.down3\.2\.", "attention.across.2."),
    (r"^decoder\.gau3\.", "upsamples.0."),
    (r"^decoder\.gau2\.", "upsamples.1."),
    (r"^decoder\.gau1\.", "upsamples.2."),
    (r"\.conv1\.1\.", ".weight."),
    (r"\.conv2\.", ".reduce."),
)

PAN_FIXED = {
    "encoder_output_stride": 16,
    "decoder_channels": 32,
    "decoder_interpolation": "bilinear",
    "upsampling": 4,
}

PSPNET: Rules = (
    (r"^decoder\.psp\.blocks\.(\d)\.pool\.1\.0\.", r"pooling.levels.\1.1."),
    (r"^decoder\.psp\.blocks\.(\d)\.pool\.1\.1\.", r"pooling.levels.\1.2."),
    (r"^decoder\.conv\.", "join."),
)

PSPNET_FIXED = {"encoder_depth": 3, "psp_out_channels": 512, "upsampling": 8}

UPERNET: Rules = (
    (r"^decoder\.feature_norms\.", "norms."),
    (r"^decoder\.psp\.blocks\.(\d)\.1\.0\.", r"context.pooling.levels.\1.1."),
    (r"^decoder\.psp\.blocks\.(\d)\.1\.1\.", r"context.pooling.levels.\1.2."),
    (r"^decoder\.psp\.out_conv\.", "context.join."),
    # its levels run from coarse to fine, ours from fine to coarse
    (r"^decoder\.fpn_lateral_blocks\.0\.conv_norm_relu\.", "pyramid.lateral.2."),
    (r"^decoder\.fpn_lateral_blocks\.1\.conv_norm_relu\.", "pyramid.lateral.1."),
    (r"^decoder\.fpn_lateral_blocks\.2\.conv_norm_relu\.", "pyramid.lateral.0."),
    (r"^decoder\.fpn_conv_blocks\.0\.", "pyramid.out.2."),
    (r"^decoder\.fpn_conv_blocks\.1\.", "pyramid.out.1."),
    (r"^decoder\.fpn_conv_blocks\.2\.", "pyramid.out.0."),
    (r"^decoder\.fusion_block\.", "fusion."),
)

DEEPLAB: Rules = (
    (r"^decoder\.aspp\.(?:0\.)?convs\.4\.1\.", "aspp.image.0."),
    (r"^decoder\.aspp\.(?:0\.)?convs\.4\.2\.", "aspp.image.1."),
    (r"^decoder\.aspp\.(?:0\.)?project\.", "aspp.join."),
)

DEEPLAB_V3: Rules = (
    *DEEPLAB,
    (r"^decoder\.aspp\.convs\.", "aspp.branches."),
    (r"^decoder\.conv\.", "refine.0."),
    (r"^decoder\.bn\.", "refine.1."),
)

DEEPLAB_V3_PLUS: Rules = (
    *DEEPLAB,
    (r"^decoder\.aspp\.0\.convs\.([123])\.1\.", r"aspp.branches.\1.2."),
    (r"^decoder\.aspp\.0\.convs\.([123])\.0\.(\d)\.", r"aspp.branches.\1.\2."),
    (r"^decoder\.aspp\.0\.convs\.0\.", "aspp.branches.0."),
    (r"^decoder\.aspp\.1\.", "refine."),
    (r"^decoder\.aspp\.2\.", "refine.2."),
    (r"^decoder\.block1\.", "project_low."),
    (r"^decoder\.block2\.0\.", "decoder."),
    (r"^decoder\.block2\.1\.", "decoder.2."),
)

SEGFORMER: Rules = (
    # its projections run from coarse to fine, ours from fine to coarse
    (r"^decoder\.mlp_stage\.0\.linear\.", "head.project.3."),
    (r"^decoder\.mlp_stage\.1\.linear\.", "head.project.2."),
    (r"^decoder\.mlp_stage\.2\.linear\.", "head.project.1."),
    (r"^decoder\.mlp_stage\.3\.linear\.", "head.project.0."),
    (r"^decoder\.fuse_stage\.0\.", "head.fuse."),
    (r"^decoder\.fuse_stage\.1\.", "head.norm."),
)

DEEPLAB_FIELDS = {
    "encoder_output_stride": "output_stride",
    "decoder_atrous_rates": "rates",
    "decoder_channels": "width",
}
V3_FIXED = {"decoder_aspp_separable": False, "upsampling": None}
V3_PLUS_FIXED = {"decoder_aspp_separable": True, "upsampling": 4}
ASPP_DROPOUT = ("decoder_aspp_dropout",)
DEEPER = r"^encoder\.layer[34]\."

KINDS: dict[str, Kind] = {
    "Unet": Kind("unet", UNET, WIDTHS),
    "UnetPlusPlus": Kind("unet_plus_plus", UNET_PLUS_PLUS, WIDTHS),
    "MAnet": Kind("manet", MANET, {**WIDTHS, "decoder_pab_channels": 64}),
    "Linknet": Kind("linknet", LINKNET),
    "FPN": Kind("fpn", FPN, FPN_FIXED, free=("decoder_dropout",)),
    "PAN": Kind("pan", PAN, PAN_FIXED),
    "PSPNet": Kind("pspnet", PSPNET, PSPNET_FIXED, free=("psp_dropout",), unused=DEEPER),
    "UPerNet": Kind("upernet", UPERNET, {"upsampling": 4}, {"decoder_channels": "width"}),
    "DeepLabV3": Kind("deeplab_v3", DEEPLAB_V3, V3_FIXED, DEEPLAB_FIELDS, ASPP_DROPOUT),
    "DeepLabV3Plus": Kind(
        "deeplab_v3_plus", DEEPLAB_V3_PLUS, V3_PLUS_FIXED, DEEPLAB_FIELDS, ASPP_DROPOUT
    ),
    "Segformer": Kind(
        "segformer_b0",
        SEGFORMER,
        {"upsampling": 4},
        {"decoder_segmentation_channels": "width"},
        own={"align_corners": True},
        trunks=tuple(f"mit_b{i}" for i in range(6)),
        head="head.classify.",
    ),
}
"""Classes that are taken."""

OWN = {f"resnet{depth}": f"resnet{depth}.tv_in1k" for depth in (18, 34, 50, 101, 152)} | {
    name: name
    for name in ("resnext50_32x4d", *(f"resnext101_32x{width}d" for width in (4, 8, 16, 32)))
}
"""Its own trunks that timm has with the same names of tensors, by the name there."""

PORTED = ("regnet", "res2", "resnest", "mobilenetv3", "gernet")
"""Beginnings of the names after ``timm-`` that mean timm's trunk, as ``tu-`` does."""

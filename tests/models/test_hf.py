"""Networks of transformers, taken over with their weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from semseg.core.checks import FileError, InputError
from semseg.models import load
from semseg.models.hf import is_hf_folder, load_hf
from semseg.models.hf_kinds import KINDS
from tests.models import support

Save = Callable[..., nn.Module]


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """Build a small network of transformers, filled with noise, and save it in ``tmp_path``."""
    pytest.importorskip("transformers")
    for name in ("maskformer", "mask2former", "eomt"):  # scipy is for their losses alone
        module = import_module(f"transformers.models.{name}.modeling_{name}")
        monkeypatch.setattr(module, "requires_backends", lambda *_: None)

    from tests.models.hf_networks import NETWORKS

    def build(kind: str, **settings: Any) -> nn.Module:
        model = support.fill(NETWORKS[kind](**settings))
        if kind == "eomt":
            model.attn_mask_probs.zero_()  # as at the end of training
        model.save_pretrained(tmp_path)
        return model

    return build


@pytest.mark.parametrize("kind", ["segformer", "dpt", "upernet", "upernet_swin"])
def test_a_saved_folder_computes_the_same(kind: str, save: Save, tmp_path: Path) -> None:
    theirs = save(kind).double()
    assert is_hf_folder(tmp_path)
    ours = load(tmp_path)
    assert not ours.training
    # another size than that of positions; theirs of DPT takes squares alone; windows do not fit
    size = (96, 96) if kind == "dpt" else (96, 64)
    images = support.image(1, 3, *size).double()
    with torch.no_grad():
        want = theirs(images).logits
        got = ours.double()(images)
    want = F.interpolate(want, size, mode="bilinear", align_corners=ours.align_corners)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.std().item())


MASKS = ["maskformer", "maskformer_resnet", "mask2former", "mask2former_resnet", "eomt"]


@pytest.mark.parametrize("kind", MASKS)
def test_a_saved_folder_predicts_the_same_masks(kind: str, save: Save, tmp_path: Path) -> None:
    theirs = save(kind).double().eval()
    ours = load(tmp_path)
    assert not ours.training
    size = (96, 96) if kind == "eomt" else (64, 96)  # windows do not divide the latter
    images = support.image(2, 3, *size).double()
    with torch.no_grad():
        want = theirs(images)
        got = ours.double().forward_heads(images)
    for name, held in (
        ("masks", want.masks_queries_logits),
        ("classes", want.class_queries_logits),
    ):
        tolerance = 1e-4 * held.std().item()
        torch.testing.assert_close(got[name], held, rtol=1e-4, atol=tolerance)
    classes, masks = want.class_queries_logits, want.masks_queries_logits
    scores = torch.einsum("nqk,nqhw->nkhw", classes.softmax(-1)[..., :-1], masks.sigmoid())
    torch.testing.assert_close(got["logits"], scores.log(), rtol=1e-4, atol=1e-4)


def test_settings_are_taken_over(save: Save, tmp_path: Path) -> None:
    save("segformer", hidden_sizes=[64, 128, 320, 512], depths=[2, 2, 2, 2], num_channels=4)
    config = load_hf(tmp_path).config
    assert (config.encoder, config.width) == ("mit_b1", 16)
    assert (config.num_classes, config.in_channels) == (5, 4)
    save("segformer", num_labels=2)
    described = json.loads((tmp_path / "config.json").read_text())
    described.pop("id2label", None)  # left out where it is the package's default
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert load_hf(tmp_path).config.num_classes == 2


def test_settings_of_networks_of_masks_are_taken_over(save: Save, tmp_path: Path) -> None:
    save("maskformer", trunk={"num_channels": 4}, decoder_config={"num_queries": 9})
    config = load_hf(tmp_path).config
    assert (config.encoder, config.in_channels, config.num_classes) == ("swin_smallest", 4, 5)
    assert (config.width, config.queries, config.layers) == (32, 9, 2)
    save("mask2former_resnet", train_num_points=99)
    config = load_hf(tmp_path).config
    assert (config.encoder, config.width, config.queries) == ("resnet18", 32, 7)
    assert (config.pixel_layers, config.query_layers, config.points) == (2, 3, 99)


def test_masks_that_still_act_in_prediction_are_refused(save: Save, tmp_path: Path) -> None:
    save("eomt")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["attn_mask_probs"][-1] = 0.5
    save_file(tensors, file)
    wrong = "has attn_mask_probs other than zero; load_hf takes zeros alone"
    with pytest.raises(InputError, match=wrong):
        load_hf(tmp_path)


def test_the_older_file_is_read(save: Save, tmp_path: Path) -> None:
    save("dpt")
    new = load_hf(tmp_path).state_dict()
    file = tmp_path / "model.safetensors"
    torch.save(load_file(file), tmp_path / "pytorch_model.bin")
    file.unlink()
    old = load_hf(tmp_path).state_dict()
    assert all(torch.equal(old[key], tensor) for key, tensor in new.items())


RELU = {"trunk": {"hidden_act": "relu"}}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("segformer", {"hidden_act": "relu"}, "has hidden_act='relu'; load_hf takes 'gelu' alone"),
        ("segformer", {"depths": [1, 1, 1, 1]}, "depths=(1, 1, 1, 1); load_hf takes mit_b0, mit_b"),
        ("dpt", {"readout_type": "add"}, "has readout_type='add'; load_hf takes 'project' alone"),
        ("dpt", {"backbone_out_indices": [1, 2, 3, 5]}, "backbone_out_indices=(1, 2, 3, 5); load"),
        ("upernet", {"pool_scales": [1, 2]}, "has pool_scales=(1, 2); load_hf takes (1, 2, 3, 6)"),
        ("upernet", RELU, "has hidden_act='relu'; load_hf takes 'gelu' alone"),
        ("upernet", {"trunk": {"depths": [1] * 4}}, "depths=(1, 1, 1, 1); load_hf takes convnext_"),
        ("upernet_swin", RELU, "has hidden_act='relu'; load_hf takes 'gelu' alone"),
        (
            "upernet_swin",
            {"trunk": {"window_size": 5}},
            "has a trunk (swin) with embed_dim=16, depths=(1, 2, 1, 2), num_heads=(1, 2, 2, 4), "
            "window_size=5; load_hf takes swin_tiny, swin_small, ",
        ),
    ],
)
def test_settings_without_an_equal_are_refused(
    kind: str, settings: dict[str, Any], message: str, save: Save, tmp_path: Path
) -> None:
    save(kind, **settings)
    with pytest.raises(InputError, match=re.escape(message)):
        load_hf(tmp_path)


SWIN = {
    "patch_size": 2,
    "mlp_ratio": 2.0,
    "qkv_bias": False,
    "use_absolute_embeddings": True,
    "hidden_act": "relu",
    "out_features": ["stage2", "stage3", "stage4"],
}
RESNET = {
    "embedding_size": 32,
    "downsample_in_bottleneck": True,
    "downsample_in_first_stage": True,
    "hidden_act": "gelu",
    "out_features": ["stage4"],
}
OTHERS = {
    "MaskFormerForInstanceSegmentation": {
        "decoder_config.model_type": "other",
        "decoder_config.decoder_attention_heads": 4,
        "decoder_config.decoder_ffn_dim": 64,
        "decoder_config.activation_function": "gelu",
    },
    "Mask2FormerForUniversalSegmentation": {
        "feature_strides": [4, 8],
        "common_stride": 8,
        "encoder_feedforward_dim": 64,
        "dim_feedforward": 64,
        "num_attention_heads": 4,
        "activation_function": "gelu",
        "pre_norm": True,
        "enforce_input_projection": True,
    },
}
EOMT = {
    "patch_size": 14,
    "num_register_tokens": 0,
    "num_upscale_blocks": 1,
    "mlp_ratio": 2,
    "use_swiglu_ffn": True,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-5,
}


def wrong_settings() -> Iterator[tuple[str, str, Any, str | None]]:
    for name, own in OTHERS.items():
        for trunk, inner in (("swin", SWIN), ("resnet", RESNET)):
            yield from ((name, key, value, trunk) for key, value in (own | inner).items())
    for key, value in SWIN.items():
        yield "UperNetForSemanticSegmentation", key, value, "swin"
    for key, value in EOMT.items():
        yield "EomtForUniversalSegmentation", key, value, None


@pytest.mark.parametrize(("owner", "key", "value", "trunk"), [*wrong_settings()])
def test_what_would_compute_something_else_is_refused(
    owner: str, key: str, value: Any, trunk: str | None, tmp_path: Path
) -> None:
    described: dict[str, Any] = {"architectures": [owner]}
    if trunk is not None:
        described["backbone_config"] = {"model_type": trunk}
    place = described
    if trunk is not None and key not in OTHERS.get(owner, {}):
        place = described["backbone_config"]
    *way, last = key.split(".")
    for part in way:
        place = place.setdefault(part, {})
    place[last] = value
    (tmp_path / "config.json").write_text(json.dumps(described))
    shown = tuple(value) if isinstance(value, list) else value
    with pytest.raises(InputError, match=re.escape(f"has {key}={shown!r}; load_hf takes ")):
        load_hf(tmp_path)


def test_other_trunks_are_refused(tmp_path: Path) -> None:
    described = {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "backbone_config": {"model_type": "convnext"},
    }
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="a trunk of kind convnext; load_hf takes swin, resnet"):
        load_hf(tmp_path)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    wrong = f"load_hf has no equal of BertModel; it takes {', '.join(KINDS)}"
    with pytest.raises(InputError, match=wrong):
        load(tmp_path)


def test_tensors_that_do_not_fit_are_refused(save: Save, tmp_path: Path) -> None:
    save("segformer")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    key = "segformer.encoder.block.0.1.attention.self.key.weight"
    save_file({k: v for k, v in tensors.items() if k != key}, file)
    wrong = r"over mit_b0: it has no encoder\.stages\.0\.blocks\.1\.attn\.kv\.weight of shape"
    with pytest.raises(FileError, match=wrong):
        load_hf(tmp_path)
    save_file({k: v for k, v in tensors.items() if "classifier" not in k}, file)
    with pytest.raises(FileError, match=r"2 tensors are missing \(first: head\.classify\.weight"):
        load_hf(tmp_path)
    save_file({k: v for k, v in tensors.items() if "batch_norm.running_mean" not in k}, file)
    with pytest.raises(FileError, match=r"1 tensors are missing \(first: head\.norm\.running_mean"):
        load_hf(tmp_path)
    save_file({**tensors, "extra": torch.zeros(2)}, file)
    with pytest.raises(FileError, match=r"it has no extra of shape \(2,\)"):
        load_hf(tmp_path)
    file.unlink()
    with pytest.raises(FileError, match=r"holds no weights; it needs model\.safetensors or pyt"):
        load_hf(tmp_path)


def test_other_folders_are_none(tmp_path: Path) -> None:
    assert not is_hf_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"_model_class": "Unet"}')
    assert not is_hf_folder(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(FileError, match="holds no settings; give the folder that save_pretrained"):
        is_hf_folder(tmp_path)

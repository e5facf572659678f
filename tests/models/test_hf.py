"""Networks of transformers, taken over with their weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
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
STAGES = ["stage1", "stage2", "stage3", "stage4"]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Build a small network of transformers, filled with noise, and save it in ``tmp_path``."""
    hf = pytest.importorskip("transformers")

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

    def upernet(**settings: Any) -> nn.Module:
        shape = {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]}
        act = settings.pop("act", "gelu")
        trunk = hf.ConvNextConfig(out_features=STAGES, hidden_act=act, **shape)
        config = {"backbone_config": trunk, "hidden_size": 16, "num_labels": 5}
        return hf.UperNetForSemanticSegmentation(hf.UperNetConfig(**{**config, **settings}))

    def swin(**settings: Any) -> nn.Module:
        trunk = hf.SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, out_features=STAGES)
        return upernet(backbone_config=trunk, **settings)

    kinds = {"segformer": segformer, "dpt": dpt, "upernet": upernet, "swin": swin}

    def build(kind: str, **settings: Any) -> nn.Module:
        model = support.fill(kinds[kind](**settings))
        model.save_pretrained(tmp_path)
        return model

    return build


@pytest.mark.parametrize("kind", ["segformer", "dpt", "upernet"])
def test_a_saved_folder_computes_the_same(kind: str, save: Save, tmp_path: Path) -> None:
    theirs = save(kind).double()
    assert is_hf_folder(tmp_path)
    ours = load(tmp_path)
    assert not ours.training
    images = support.image(1, 3, 96, 96).double()  # another size than that of the positions
    with torch.no_grad():
        want = theirs(images).logits
        got = ours.double()(images)
    size, corners = (96, 96), ours.align_corners
    want = F.interpolate(want, size, mode="bilinear", align_corners=corners)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.std().item())


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


def test_the_older_file_is_read(save: Save, tmp_path: Path) -> None:
    save("dpt")
    new = load_hf(tmp_path).state_dict()
    file = tmp_path / "model.safetensors"
    torch.save(load_file(file), tmp_path / "pytorch_model.bin")
    file.unlink()
    old = load_hf(tmp_path).state_dict()
    assert all(torch.equal(old[key], tensor) for key, tensor in new.items())


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("segformer", {"hidden_act": "relu"}, "has hidden_act='relu'; load_hf takes 'gelu' alone"),
        ("segformer", {"depths": [1, 1, 1, 1]}, "depths=(1, 1, 1, 1); load_hf takes mit_b0, mit_b"),
        ("dpt", {"readout_type": "add"}, "has readout_type='add'; load_hf takes 'project' alone"),
        ("dpt", {"backbone_out_indices": [1, 2, 3, 5]}, "backbone_out_indices=(1, 2, 3, 5); load"),
        ("upernet", {"pool_scales": [1, 2]}, "has pool_scales=(1, 2); load_hf takes (1, 2, 3, 6)"),
        ("upernet", {"act": "relu"}, "has hidden_act='relu'; load_hf takes 'gelu' alone"),
        ("swin", {}, "has a trunk (swin) with hidden_sizes=None, depths=(1, 1, 1, 1); load_hf tak"),
    ],
)
def test_settings_without_an_equal_are_refused(
    kind: str, settings: dict[str, Any], message: str, save: Save, tmp_path: Path
) -> None:
    save(kind, **settings)
    with pytest.raises(InputError, match=re.escape(message)):
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

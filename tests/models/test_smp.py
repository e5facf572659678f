"""Networks of segmentation_models_pytorch, taken over with their weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.models import create_model, load
from semseg.models.base import SegmentationModel
from semseg.models.smp import is_smp_folder, load_smp
from semseg.models.smp_kinds import KINDS
from tests.models import support

# ---- with the package --------------------------------------------------------------------------

Make = Callable[..., nn.Module]


@pytest.fixture
def make() -> Make:
    """Build a network of the package, filled with noise; it warns of its own old settings."""
    smp = pytest.importorskip("segmentation_models_pytorch")

    def build(kind: str, encoder: str, **settings: Any) -> nn.Module:
        model = getattr(smp, kind)(encoder, encoder_weights=None, **settings)
        return support.fill(model)

    return build


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return what it computes in eval and in train mode, in float64 and without dropout."""
    model = support.without_dropout(model).double()
    with torch.no_grad():
        return [model.train(mode)(images.double()) for mode in (False, True)]


def assert_equal(theirs: nn.Module, ours: SegmentationModel, channels: int = 3) -> None:
    # the least size of PAN; batch statistics need more than a pixel
    images = support.image(2, channels, 128, 160)
    for want, got in zip(outputs(theirs, images), outputs(ours, images), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * want.std().item())


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_100"])
@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if not kind.trunks])
def test_a_live_network_computes_the_same(kind: str, encoder: str, make: Make) -> None:
    theirs = make(kind, encoder, classes=3)
    assert_equal(theirs, load_smp(theirs))


def test_segformer_over_its_own_trunk(make: Make) -> None:
    theirs = make("Segformer", "mit_b0", classes=3, decoder_segmentation_channels=32)
    ours = load_smp(theirs)
    assert (ours.config.encoder, ours.config.align_corners) == ("mit_b0", True)
    assert_equal(theirs, ours)


@pytest.mark.parametrize("kind", ["PAN", "DeepLabV3", "DeepLabV3Plus"])
def test_the_same_resnet_is_dilated_in_two_ways(kind: str, make: Make) -> None:
    own, timms = load_smp(make(kind, "resnet18")), load_smp(make(kind, "tu-resnet18"))
    assert own.config.dilate_first
    assert not timms.config.dilate_first
    assert_equal(make(kind, "tu-resnet18"), timms)


@pytest.mark.parametrize("kind", ["Unet", "UnetPlusPlus", "MAnet", "Linknet"])
def test_a_trunk_without_stride_2(kind: str, make: Make) -> None:
    theirs = make(kind, "tu-test_convnext")
    assert_equal(theirs, load_smp(theirs))


def test_settings_are_taken_over(make: Make) -> None:
    settings = {
        "encoder_output_stride": 16,
        "decoder_atrous_rates": [1, 2, 3],
        "decoder_channels": 32,
        "in_channels": 4,
        "classes": 7,
    }
    theirs = make("DeepLabV3", "resnet18", **settings)
    ours = load_smp(theirs)
    config = ours.config
    assert (config.output_stride, config.rates, config.width) == (16, (1, 2, 3), 32)
    assert (config.in_channels, config.num_classes) == (4, 7)
    assert config.encoder == "resnet18.tv_in1k", "the package's ImageNet weights are torchvision's"
    assert_equal(theirs, ours, channels=4)


@pytest.mark.parametrize("kind", ["FPN", "UPerNet"])
def test_a_saved_folder_computes_the_same(kind: str, make: Make, tmp_path: Path) -> None:
    theirs = make(kind, "tu-test_resnet", classes=4)
    theirs.save_pretrained(tmp_path)
    assert is_smp_folder(tmp_path)
    same = zip(
        load(tmp_path).state_dict().values(), load_smp(tmp_path).state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in same)
    ours = load_smp(tmp_path)
    assert not ours.training
    assert_equal(theirs, ours)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Unet", {"decoder_attention_type": "scse"}, "has decoder_attention_type='scse'; load_smp"),
        ("Unet", {"aux_params": {"classes": 2}}, "Unet has aux_params={'classes': 2}; load_smp"),
        ("Unet", {"activation": "sigmoid"}, "activation=Sigmoid; load_smp takes None alone; its"),
        ("Unet", {"activation": nn.Sigmoid}, "activation=Sigmoid; load_smp takes None alone; its"),
        ("PAN", {"encoder_output_stride": 32}, "encoder_output_stride=32; load_smp takes 16 alone"),
        (
            "FPN",
            {"decoder_merge_policy": "cat"},
            "decoder_merge_policy='cat'; load_smp takes 'add'",
        ),
        (
            "Segformer",
            {},
            "it is another network than segformer_b0; load_smp takes mit_",
        ),
        ("FPN", {"upsampling": 2}, "FPN has upsampling=2; load_smp takes 4 alone"),
    ],
)
def test_settings_without_an_equal_are_refused(
    kind: str, settings: dict, message: str, make: Make
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        load_smp(make(kind, "tu-test_resnet", **settings))


def test_a_copy_that_the_package_does_not_make_is_refused(make: Make) -> None:
    wanted = "Unet does not fit unet over vgg11: it has no decoder.blocks.4.conv1.0.weight of shape"
    with pytest.raises(FileError, match=re.escape(wanted)):
        load_smp(make("Unet", "tu-vgg11"))


# ---- without it --------------------------------------------------------------------------------


class Linknet(nn.Module):
    """A stand-in with the names and settings of the package's class, without its arithmetic."""

    def __init__(self, tensors: dict[str, Tensor], **settings: Any) -> None:
        super().__init__()
        self.tensors = tensors
        self.segmentation_head = nn.Identity()
        self.config = {"encoder_name": "tu-test_resnet", "classes": 2} | settings

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return dict(self.tensors)


def own_linknet() -> SegmentationModel:
    return support.fill(create_model("linknet", encoder="test_resnet", num_classes=2))


def their_names(model: SegmentationModel) -> dict[str, Tensor]:
    """Return the tensors of LinkNet under the package's names."""
    rules = (
        (r"^encoder\.trunk\.", "encoder.model."),
        (r"^decoder\.blocks\.(\d)\.", r"decoder.blocks.\1.block."),
        (r"^head\.", "segmentation_head.0."),
    )
    named = {}
    for key, tensor in model.state_dict().items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        named[key] = tensor
    return named


def save(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    config = Linknet({}, **settings).config | {"_model_class": "Linknet"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("form", ["live", "folder"])
def test_every_tensor_is_copied(form: str, tmp_path: Path) -> None:
    ours = own_linknet()
    tensors = their_names(ours)
    source = Linknet(tensors) if form == "live" else save(tmp_path, tensors)
    loaded = load_smp(source)
    assert loaded.config == ours.config
    assert not loaded.training
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[key]), key


def test_counters_of_old_files_may_be_missing(tmp_path: Path) -> None:
    tensors = their_names(own_linknet())
    kept = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    assert len(kept) < len(tensors)
    load_smp(save(tmp_path, kept))


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tensors = their_names(own_linknet())
    first = "decoder.blocks.0.block.0.0.weight"
    problem = f"{tmp_path} does not fit linknet over test_resnet: "
    extra = f"{problem}it has no decoder.blocks.7.weight of shape (2,)"
    with pytest.raises(FileError, match=re.escape(extra)):
        load_smp(save(tmp_path, tensors | {"decoder.blocks.7.weight": torch.zeros(2)}))
    with pytest.raises(FileError, match=re.escape(f"{problem}it has no {first} of shape (3, 3)")):
        load_smp(save(tmp_path, tensors | {first: torch.zeros(3, 3)}))
    # one tensor under both names that it may have; which of them comes first is the file's choice
    twice = {"encoder.bn1.weight": tensors["encoder.model.bn1.weight"].clone()}
    with pytest.raises(FileError, match=r"over test_resnet: it has no encoder\.(model\.)?bn1"):
        load_smp(save(tmp_path, tensors | twice))
    del tensors[first]
    missing = f"{problem}1 tensors are missing (first: decoder.blocks.0.0.0.weight)"
    with pytest.raises(FileError, match=re.escape(missing)):
        load_smp(save(tmp_path, tensors))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder_name": "vgg11"}, "has encoder_name='vgg11', a trunk that timm has no equal of"),
        ({"encoder_name": "efficientnet-b0"}, "resnext101_32x32d and every 'tu-' name"),
        ({"encoder_depth": 4}, "Linknet has encoder_depth=4; load_smp takes 5 alone"),
        ({"decoder_use_norm": "layernorm"}, "decoder_use_norm='layernorm'; load_smp takes 'batchn"),
        ({"activation": "sigmoid"}, "takes None alone; its networks return logits"),
        ({"novelty": 1}, "Linknet has novelty=1; load_smp takes None alone"),
    ],
)
def test_settings_are_checked_by_name(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        load_smp(Linknet(their_names(own_linknet()), **settings))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("resnet34", "resnet34.tv_in1k"),
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("tu-convnext_tiny.fb_in22k", "convnext_tiny.fb_in22k"),
        ("timm-mobilenetv3_small_100", "tf_mobilenetv3_small_100"),
        ("timm-resnest14d", "resnest14d"),
    ],
)
def test_names_of_trunks(theirs: str, ours: str) -> None:
    tensors = {"decoder.wrong": torch.zeros(1)}
    with pytest.raises(FileError, match=re.escape(f"does not fit linknet over {ours}: it has no")):
        load_smp(Linknet(tensors, encoder_name=theirs, encoder_weights="imagenet"))


def test_other_ways_to_write_a_setting() -> None:
    settings = {"decoder_use_norm": True, "activation": "identity", "drop_path_rate": 0.1}
    load_smp(Linknet(their_names(own_linknet()), **settings))


def test_what_is_no_network_of_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Linear has no config, as networks of segmentation_mod"):
        load_smp(nn.Linear(2, 2))
    assert not is_smp_folder(tmp_path)
    with pytest.raises(FileError, match="give the folder that save_pretrained wrote"):
        load_smp(tmp_path)
    (tmp_path / "config.json").write_text('{"_model_class": "DPT", "encoder_name": "x"}')
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    wanted = f"{tmp_path}: load_smp has no equal of DPT; it takes Unet, UnetPlusPlus, MAnet, Link"
    with pytest.raises(InputError, match=re.escape(wanted)):
        load_smp(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(FileError, match=r"config\.json holds no settings"):
        load_smp(tmp_path)

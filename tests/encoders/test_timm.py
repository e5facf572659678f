"""Trunks of timm: what they promise, what they refuse, and their weights."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import semseg
from semseg.core.checks import FileError, InputError, UnknownNameError
from semseg.encoders import build_encoder
from semseg.encoders.timm import TimmEncoder, adapt_stem
from tests.models.support import fill, image


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("test_resnet", 32),
        ("test_resnet", 16),
        ("test_resnet", 8),
        ("test_convnext", 32),
        ("test_convnext", 8),
        ("test_mambaout", 32),  # computes with channels last
    ],
)
def test_features_have_the_stated_channels_and_strides(name: str, output_stride: int) -> None:
    encoder = build_encoder(name, in_channels=2, output_stride=output_stride).eval()
    features = encoder(image(1, 2, 64, 96))
    assert encoder.strides[-1] == output_stride
    assert list(encoder.strides) == sorted(encoder.strides)
    assert [tuple(f.shape) for f in features] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]


def test_channels_last_features_are_turned_not_reshaped() -> None:
    encoder = TimmEncoder("test_mambaout").eval()
    images = image(1, 3, 64, 96)
    for turned, own in zip(encoder(images), encoder.trunk(images), strict=True):
        assert torch.equal(turned[0, 1], own[0, :, :, 1])


def test_a_dilated_trunk_computes_with_the_same_weights() -> None:
    whole, dilated = build_encoder("test_resnet"), build_encoder("test_resnet", output_stride=8)
    dilated.load_state_dict(fill(whole).state_dict())
    fine = dilated.eval()(image(1, 3, 64, 64))
    coarse = whole(image(1, 3, 64, 64))
    assert torch.equal(fine[2], coarse[2]), "nothing changes down to the output stride"
    assert fine[-1].shape[-1] == 4 * coarse[-1].shape[-1]


def test_the_deepest_of_several_features_at_one_stride_is_found() -> None:
    encoder = build_encoder("test_resnet", output_stride=8)
    assert encoder.strides == (2, 4, 8, 8, 8)
    assert encoder.index_of(8) == 4
    with pytest.raises(InputError, match=r"feature at stride 16; this encoder has strides 2, 4, 8"):
        encoder.index_of(16)


def test_preprocessing_is_that_of_the_weights() -> None:
    assert build_encoder("resnet18").preprocessing.mean == (0.485, 0.456, 0.406)
    assert build_encoder("test_vit").preprocessing.mean == (0.5, 0.5, 0.5)


# ---- transformers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224.ms_in1k", "beit_base_patch16_224", "test_vit"]
)
def test_attention_takes_any_size(name: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name).eval()
        for size in ((224, 224), (64, 96), (32, 160), (352, 288)):
            for feature, stride in zip(
                encoder(torch.empty(1, 3, *size)), encoder.strides, strict=True
            ):
                assert feature.shape[2:] == (size[0] // stride, size[1] // stride)


def test_a_beit_is_told_how_many_patches_come() -> None:
    with torch.device("meta"):
        encoder = build_encoder("beit_base_patch16_224").eval()
        encoder(torch.empty(1, 3, 64, 96))
    assert {block.attn.grid for block in encoder.trunk.model.blocks} == {(4, 6)}


def test_features_of_a_plain_transformer_are_spread_over_its_blocks() -> None:
    encoder = build_encoder("test_vit")
    assert encoder.is_plain
    assert len(encoder.strides) == 3
    with torch.device("meta"):
        deeper = build_encoder("vit_small_patch14_dinov2")
        largest = build_encoder("vit_large_patch14_dinov2")
    for held, places in ((deeper, [3, 5, 7, 11]), (largest, [7, 11, 15, 23])):
        held.spread()
        assert held.trunk.out_indices == places
        assert held.strides == (14, 14, 14, 14)
    seen = []
    for block in encoder.trunk.model.blocks:
        block.register_forward_hook(lambda _, __, output: seen.append(output))
    encoder.eval().spread()
    with torch.no_grad():
        features = encoder(image(1, 3, 64, 64))
    assert len(features) == len(encoder.channels) == 4
    for feature, place in zip(features, encoder.trunk.out_indices, strict=True):
        patches = seen[place][:, -16:].transpose(1, 2).reshape(feature.shape)
        torch.testing.assert_close(feature, patches)
    assert not build_encoder("test_resnet").is_plain


def test_too_few_blocks_cannot_be_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_encoder("test_vit")
    monkeypatch.setattr(encoder.trunk.model, "blocks", nn.ModuleList([nn.Identity()] * 3))
    with pytest.raises(InputError, match="'test_vit' has 3 blocks; four features need 4"):
        encoder.spread()


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("densenet121", 8, "'densenet121' cannot have output_stride 8; use 32, or a trunk whose"),
        ("test_mambaout", 16, "'test_mambaout' cannot have output_stride 16; use 32, or a trunk"),
        ("test_resnet", 4, "output_stride must be 8, 16 or 32, got 4"),
        ("cait_xxs24_224", 32, "takes one image size only; use a trunk for any size, e.g."),
        ("maxvit_tiny_tf_224", 32, "takes one image size only; use a trunk for any size, e.g."),
        ("beit_base_patch16_224", 16, "'beit_base_patch16_224' cannot have output_stride 16; use"),
    ],
)
def test_what_a_trunk_cannot_do_is_refused(name: str, output_stride: int, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        build_encoder(name, output_stride=output_stride)


def test_a_stride_that_timm_ignores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # some families take the argument and build stride 32 all the same
    build = timm.create_model

    def ignoring(name: str, *, output_stride: int = 32, **settings: object) -> nn.Module:
        return build(name, **settings)

    monkeypatch.setattr(timm, "create_model", ignoring)
    with pytest.raises(InputError, match="'test_resnet' cannot have output_stride 16"):
        build_encoder("test_resnet", output_stride=16)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet43", r"unknown encoder 'resnet43'; did you mean 'resnet\d+'"),
        ("vgg116", r"unknown encoder 'vgg116'; did you mean 'vgg16'"),
        ("resnet34.tv_in2k", r"unknown encoder 'resnet34.tv_in2k'; did you mean 'resnet34.tv_in1k"),
        ("hf-hub:timm/resnet34", r"unknown encoder 'hf-hub:timm/resnet34'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        build_encoder(name)


def test_no_channels_are_refused() -> None:
    with pytest.raises(InputError, match="in_channels must be at least 1, got 0"):
        build_encoder("test_resnet", in_channels=0)


def test_timm_is_imported_in_one_file_and_only_when_a_trunk_is_built() -> None:
    source = Path(semseg.__file__).parent
    importing = {
        (file.relative_to(source).as_posix(), type(scope).__name__)
        for file in source.rglob("*.py")
        for scope, name in imports(ast.parse(file.read_text(encoding="utf-8")))
        if name.split(".")[0] == "timm"
    }
    assert importing == {("encoders/timm.py", "FunctionDef")}


def imports(node: ast.AST, scope: ast.AST | None = None) -> Iterator[tuple[ast.AST, str]]:
    """Yield the absolute imports below ``node``, each with the function or module around it."""
    scope = scope or node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((scope, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield scope, child.module or ""
        else:
            yield from imports(child, child if isinstance(child, ast.FunctionDef) else scope)


# ---- weights -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """What timm would publish for ``test_resnet``: all layers, the classifier among them."""
    model = fill(timm.create_model("test_resnet"))
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.fixture
def file(published: dict[str, Tensor], tmp_path: Path) -> Path:
    save_file(published, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_local_file_gives_the_published_features(
    published: dict[str, Tensor], file: Path
) -> None:
    whole = timm.create_model("test_resnet")
    whole.load_state_dict(published)
    encoder = build_encoder("test_resnet", pretrained=file).eval()
    images = image(1, 3, 64, 64)
    assert torch.equal(encoder(images)[-1], whole.eval().forward_features(images))
    assert "fc.weight" in published
    assert not [key for key in encoder.state_dict() if "fc" in key]


def test_a_dilated_trunk_takes_the_same_file(file: Path, published: dict[str, Tensor]) -> None:
    encoder = build_encoder("test_resnet", output_stride=8, pretrained=str(file))
    loaded = encoder.state_dict()
    kept = [k for k in published if f"trunk.{k}" in loaded]
    assert len(kept) == len(loaded)
    assert all(torch.equal(loaded[f"trunk.{key}"], published[key]) for key in kept)


def test_grey_images_give_what_they_gave_as_rgb(file: Path) -> None:
    grey = build_encoder("test_resnet", in_channels=1, pretrained=file).eval()
    rgb = build_encoder("test_resnet", pretrained=file).eval()
    images = image(1, 1, 64, 64)
    for one, three in zip(grey(images), rgb(images.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-4)


def test_other_channels_repeat_rgb_at_the_same_response(
    file: Path, published: dict[str, Tensor]
) -> None:
    encoder = build_encoder("test_resnet", in_channels=5, pretrained=file)
    rgb = published["conv1.0.weight"]
    want = torch.cat([rgb, rgb[:, :2]], dim=1) * 3 / 5
    torch.testing.assert_close(encoder.state_dict()["trunk.conv1.0.weight"], want)
    torch.testing.assert_close(adapt_stem(rgb, 5), want)


@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
def test_a_pickled_state_dict_is_read_wherever_it_lies(
    published: dict[str, Tensor], tmp_path: Path, nest: str | None
) -> None:
    tensors = {f"module.{key}": value for key, value in published.items()}
    torch.save({nest: tensors, "epoch": 3} if nest else tensors, tmp_path / "model.pth")
    encoder = build_encoder("test_resnet", pretrained=tmp_path / "model.pth")
    last = "layer4.0.conv2.weight"
    assert torch.equal(encoder.state_dict()[f"trunk.{last}"], published[last])


def test_weights_of_another_network_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match=r"model\.safetensors does not hold timm's weights of test_convnext: \d+ of"
    ):
        build_encoder("test_convnext", pretrained=file)
    wider = timm.create_model("test_resnet", channels=(64, 64, 64, 64)).state_dict()
    save_file(wider, tmp_path / "wider.safetensors")
    with pytest.raises(FileError, match=r"wider\.safetensors does not fit test_resnet: "):
        build_encoder("test_resnet", pretrained=tmp_path / "wider.safetensors")


class Evil:
    """What runs when a pickle of it is read without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a weights file ran code')",)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "text.pth").write_text("not found")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"net": Evil()}, tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"weight": torch.zeros(1), "epoch": 3}, tmp_path / "mixed.pth")
    for name, message in {
        "none.pth": "do not exist; give a .safetensors or .pth file",
        "cut.safetensors": "cannot be read as weights",
        "text.pth": "cannot be read as weights",
        "empty.pth": "cannot be read as weights",
        "evil.pth": "cannot be read as weights",
        "list.pth": "holds list, not a state dict",
        "mixed.pth": "holds 'epoch', which is no tensor",
    }.items():
        with pytest.raises(FileError, match=rf"{re.escape(name)} {re.escape(message)}"):
            build_encoder("test_resnet", pretrained=tmp_path / name)


def test_true_takes_what_timm_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    build, asked = timm.create_model, []

    def publishing(name: str, *, pretrained: bool = False, **settings: object) -> nn.Module:
        model = build(name, **settings)
        asked.append(pretrained)
        return fill(model) if pretrained else model

    encoder = build_encoder("test_resnet", in_channels=1)
    monkeypatch.setattr(timm, "create_model", publishing)
    encoder.load_pretrained(True)
    want = fill(build("test_resnet", features_only=True, in_chans=1)).state_dict()
    assert asked == [True]
    assert all(torch.equal(encoder.trunk.state_dict()[key], want[key]) for key in want)


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_encoder("test_resnet")

    def offline(*_: object, **__: object) -> nn.Module:
        raise URLError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FileError, match=r"weights of test_resnet cannot be had: .*no route") as got:
        encoder.load_pretrained(True)
    assert "check the network, or give a local file with pretrained=PATH" in str(got.value)

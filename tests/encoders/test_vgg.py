"""The paper-faithful VGG16 and the readers of its published weights."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import vgg
from torchvision.models._api import WeightsEnum

from semseg.core.checks import FileError, InputError
from semseg.encoders import build_encoder
from semseg.encoders.vgg import NAMES, VGG16, read_vgg16_weights
from tests.models.support import fill, image, noise

WIDTH = 4
TINY = [c if c == "M" else c * WIDTH // 64 for c in vgg.cfgs["D"]]
"""torchvision's layer list of VGG16, channels divided by 16."""


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A VGG16 of width 4 in torchvision's layout, hidden layers and classifier included."""
    convs = fill(vgg.make_layers(TINY)).state_dict()
    tensors = {f"features.{key}": value.clone() for key, value in convs.items()}
    shapes = {0: (64 * WIDTH, 8 * WIDTH * 49), 3: (64 * WIDTH, 64 * WIDTH), 6: (10, 64 * WIDTH)}
    for layer, (cout, cin) in shapes.items():
        tensors[f"classifier.{layer}.weight"] = noise(cout * cin, layer).view(cout, cin).float()
        tensors[f"classifier.{layer}.bias"] = noise(cout, 20 + layer).float()
    return tensors


@pytest.fixture
def file(published: dict[str, Tensor], tmp_path: Path) -> Path:
    save_file(published, tmp_path / "vgg16.safetensors")
    return tmp_path / "vgg16.safetensors"


def test_it_has_the_papers_layers() -> None:
    with torch.device("meta"):
        encoder = build_encoder("vgg16")
    assert isinstance(encoder, VGG16)
    assert sum(p.numel() for p in encoder.parameters()) == 14_714_688
    assert encoder.channels == (64, 128, 256, 512, 512, 512)


def test_it_computes_what_torchvisions_does_where_sizes_divide(file: Path) -> None:
    reference = fill(vgg.make_layers(TINY))
    encoder = VGG16(width=WIDTH)
    encoder.load_pretrained(file)
    images = image(1, 3, 64, 96)
    torch.testing.assert_close(encoder(images)[-1], reference(images))


def test_sizes_are_rounded_up_as_in_caffe() -> None:
    features = VGG16(width=1)(image(1, 3, 33, 65))
    assert [tuple(f.shape[-2:]) for f in features] == [
        (33, 65),
        (17, 33),
        (9, 17),
        (5, 9),
        (3, 5),
        (2, 3),
    ]


def test_features_are_those_before_the_pools() -> None:
    encoder = VGG16(width=2)
    *features, last = encoder(image(1, 3, 32, 32))
    assert torch.equal(last, encoder.pool(features[-1]))
    assert [f.shape[1] for f in features] == [2, 4, 8, 16, 16]
    assert all((f >= 0).all() for f in features)


def test_the_image_can_be_padded_widely() -> None:
    assert VGG16(width=1, first_padding=100)(image(1, 3, 20, 20))[0].shape[-2:] == (218, 218)


def test_both_published_layouts_give_the_same_weights(
    published: dict[str, Tensor], file: Path, tmp_path: Path
) -> None:
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
    names["classifier.6"] = "head.fc"
    tensors = {}
    for key, value in published.items():
        layer, _, leaf = key.rpartition(".")
        if layer == "classifier.0" and leaf == "weight":
            value = value.view(64 * WIDTH, 8 * WIDTH, 7, 7)
        if layer == "classifier.3" and leaf == "weight":
            value = value[:, :, None, None]
        tensors[f"{names.get(layer, layer)}.{leaf}"] = value.contiguous()
    torch.save(tensors, tmp_path / "timm.pth")

    ours, theirs = read_vgg16_weights(file), read_vgg16_weights(tmp_path / "timm.pth")
    layers = [*NAMES, "fc6", "fc7"]
    assert list(ours) == [f"{name}.{leaf}" for name in layers for leaf in ("weight", "bias")]
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert ours["fc6.weight"].shape == (64 * WIDTH, 8 * WIDTH, 7, 7)
    assert ours["fc7.weight"].shape == (64 * WIDTH, 64 * WIDTH, 1, 1)


def test_fc6_as_a_convolution_is_the_layer_it_was(published: dict[str, Tensor], file: Path) -> None:
    pooled = image(1, 8 * WIDTH, 7, 7)
    weight = read_vgg16_weights(file)["fc6.weight"]
    want = pooled.flatten(1) @ published["classifier.0.weight"].T
    torch.testing.assert_close(
        torch.nn.functional.conv2d(pooled, weight).flatten(1), want, rtol=1e-4, atol=1e-4
    )


def test_the_stem_is_adapted_to_grey_images(published: dict[str, Tensor], file: Path) -> None:
    grey = VGG16(in_channels=1, width=WIDTH)
    grey.load_pretrained(file)
    want = published["features.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(grey.convs["conv1_1"].weight.detach(), want)


def test_weights_of_another_width_are_refused(file: Path) -> None:
    with pytest.raises(InputError, match="weights have width 4, this trunk has 8; create it with"):
        VGG16(width=8).load_pretrained(file)


def test_another_network_is_refused(tmp_path: Path) -> None:
    tensors = vgg.make_layers([4, "M", 8, "M"], batch_norm=True).state_dict()
    torch.save({f"features.{key}": value for key, value in tensors.items()}, tmp_path / "bn.pth")
    with pytest.raises(FileError, match=r"bn\.pth is not a plain VGG16: 2 convolutions .* and no"):
        read_vgg16_weights(tmp_path / "bn.pth")


def test_true_takes_torchvisions(
    published: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: dict(published))
    assert torch.equal(read_vgg16_weights()["conv5_3.bias"], published["features.28.bias"])

    def offline(*_: object, **__: object) -> dict[str, Tensor]:
        raise URLError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    with pytest.raises(FileError, match=r"weights cannot be had: .*no route.*pretrained=PATH"):
        read_vgg16_weights()


def test_it_cannot_be_dilated_by_name() -> None:
    with pytest.raises(InputError, match="'vgg16' cannot have output_stride 8; use 32"):
        build_encoder("vgg16", output_stride=8)

"""UPerNet over hierarchical trunks since Swin: normalised features, an auxiliary head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError, SemsegError
from semseg.models import create_model
from tests.models import support

SMALL = {"encoder": "test_convnext", "width": 16, "num_classes": 5}


def test_heads_and_their_strides() -> None:
    model = create_model("upernet_convnext_tiny", **SMALL).eval()
    with torch.no_grad():
        heads = model.forward_heads(support.image(1, 3, 64, 96))
    shapes = {key: tuple(head.shape) for key, head in heads.items()}
    assert shapes == {"logits": (1, 5, 16, 24), "aux": (1, 5, 4, 6)}
    assert model.aux_weights == {"aux": 0.4}


def test_prediction_leaves_the_auxiliary_head_out() -> None:
    model = create_model("upernet_convnext_tiny", **SMALL).fuse()
    with torch.no_grad():
        assert model.forward_heads(support.image(1, 3, 64, 64)).keys() == {"logits"}


def test_features_are_normalised_over_channels() -> None:
    model = support.fill(create_model("upernet_convnext_tiny", **SMALL))
    images = support.image(1, 3, 64, 64)
    seen = []
    model.pyramid.lateral[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(images)
        feature = model.encoder(images)[1]
    norm = model.norms[1]
    want = F.layer_norm(feature.permute(0, 2, 3, 1), (32,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(seen[0], want.permute(0, 3, 1, 2))


def test_new_layers_start_as_the_toolbox_starts_them() -> None:
    model = create_model("upernet_convnext_tiny", encoder="test_convnext", width=64)
    fusion = model.fusion[0].weight.std().item()
    assert fusion == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert model.head[1].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.aux[-1].bias.any()
    dropped = [m for m in model.modules() if isinstance(m, nn.Dropout2d)]
    assert [m.p for m in dropped] == [0.1, 0.1]


@pytest.mark.parametrize("name", ["upernet", "upernet_convnext_tiny"])
@pytest.mark.parametrize(
    "encoder", ["swin_tiny_patch4_window7_224", "swinv2_cr_tiny_ns_224", "convnext_tiny"]
)
def test_trunks_of_four_strides_fit(name: str, encoder: str) -> None:
    with torch.device("meta"):
        model = create_model(name, encoder=encoder, width=8, num_classes=5).eval()
        assert model(torch.empty(1, 3, 90, 130)).shape == (1, 5, 90, 130)
        assert model.encoder.channels == (96, 192, 384, 768)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            "maxvit_tiny_tf_224",
            "'maxvit_tiny_tf_224' takes one image size only; use a trunk for an",
        ),
        ("swin_tiny_patch4_window7", r"unknown encoder 'swin_tiny_patch4_window7'; did you mean "),
        ("regnety_002.pycls_in2k", "unknown encoder 'regnety_002.pycls_in2k'"),
    ],
)
def test_trunks_that_do_not_fit_are_refused(encoder: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(SemsegError, match=message):
        create_model("upernet", encoder=encoder)


# ---- plain transformers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "multiple"),
    [
        ("beit_base_patch16_224", 32),
        ("vit_small_patch14_dinov2", 28),
        ("vit_small_patch14_reg4_dinov2", 28),
        ("vit_small_patch16_dinov3", 32),
    ],
)
def test_plain_transformers_fit(encoder: str, multiple: int) -> None:
    with torch.device("meta"):
        model = create_model("upernet", encoder=encoder, width=8, num_classes=5).eval()
        assert model.multiple_of == multiple
        assert model(torch.empty(1, 3, 90, 130)).shape == (1, 5, 90, 130)


@pytest.mark.parametrize("name", ["upernet", "upernet_convnext_tiny"])
@pytest.mark.parametrize("size", [(17, 33), (32, 160), (90, 130)])
def test_plain_transformers_fit_at_any_size(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = create_model(name, encoder="test_vit", width=8, num_classes=5).eval()
        assert model(torch.empty(1, 3, *size)).shape == (1, 5, *size)


def test_a_plain_transformer_becomes_a_pyramid_as_under_beit() -> None:
    settings = {"encoder": "test_vit", "width": 8, "num_classes": 5}
    model = support.fill(create_model("upernet_convnext_tiny", **settings))
    images = support.image(1, 3, 64, 96)
    with torch.no_grad():
        features = model.encoder(images)
        maps = model.levels(features)
        one, norm, _, two = model.levels.finest
        x = F.conv_transpose2d(features[0], one.weight, one.bias, stride=2)
        x = F.conv_transpose2d(F.gelu(norm(x)), two.weight, two.bias, stride=2)
        torch.testing.assert_close(maps[0], x)
        deconv = model.levels.finer
        x = F.conv_transpose2d(features[1], deconv.weight, deconv.bias, stride=2)
        torch.testing.assert_close(maps[1], x)
    assert torch.equal(maps[2], features[2])
    blocks = features[3].unflatten(2, (2, 2)).unflatten(4, (3, 2))
    assert torch.equal(maps[3], blocks.amax(dim=(3, 5)))
    assert [m.shape[-2:] for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_what_makes_the_pyramid_learns_as_the_decoder_does() -> None:
    model = create_model("upernet", encoder="test_vit", width=8, num_classes=5)
    head = {id(p) for p in model.parameter_groups()["head"]}
    assert {id(p) for p in model.levels.parameters()} <= head


# ---- Swin --------------------------------------------------------------------------------------


def test_features_that_are_normed_are_not_normed_again() -> None:
    swin = create_model("upernet_swin_tiny", encoder="swin_smallest", width=8, num_classes=5)
    assert not list(swin.norms.parameters())
    assert len(swin.no_weight_decay()) == 6, "a table in every block"
    timms = create_model("upernet_swin_tiny", encoder="test_convnext", width=8, num_classes=5)
    assert [norm.weight.numel() for norm in timms.norms] == list(timms.encoder.channels[-4:])


def test_refusals() -> None:
    with pytest.raises(InputError, match="UPerNetConvNeXt needs width >= 1, got 0"):
        create_model("upernet_convnext_tiny", width=0)
    model = create_model("upernet_convnext_tiny", **SMALL).train()
    with pytest.raises(InputError, match="pyramid pooling needs at least 2 images per step"):
        model(support.image(1, 3, 64, 64))

"""UPerNet over hierarchical trunks since Swin: normalised features, an auxiliary head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
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
        ("beit_base_patch16_224", "'beit_base_patch16_224' takes one image size only; use a trunk"),
        ("vit_small_patch14_dinov2", "the decoder needs a feature at stride 4; this encoder has"),
        ("vit_small_patch16_dinov3", "the decoder needs a feature at stride 4; this encoder has"),
    ],
)
def test_trunks_of_one_stride_are_refused(encoder: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=message):
        create_model("upernet", encoder=encoder)


def test_refusals() -> None:
    with pytest.raises(InputError, match="UPerNetConvNeXt needs width >= 1, got 0"):
        create_model("upernet_convnext_tiny", width=0)
    model = create_model("upernet_convnext_tiny", **SMALL).train()
    with pytest.raises(InputError, match="pyramid pooling needs at least 2 images per step"):
        model(support.image(1, 3, 64, 64))

"""EncNet: the encoding layer, the weights it gives to channels, and the classes it must name."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.encnet import Context, EncNet, Encoding, classes_in
from tests.models import support


def small(**settings: object) -> EncNet:
    model = create_model("encnet", **({"encoder": "test_resnet", "num_classes": 5} | settings))
    assert isinstance(model, EncNet)
    return support.fill(model)


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize(("lateral", "total"), [(False, 55_156_706), (True, 63_024_098)])
def test_counts_of_the_authors_networks(lateral: bool, total: int) -> None:
    with torch.device("meta"):
        model = create_model("encnet", lateral=lateral)
    assert count(model) == total
    assert count(model.encoder) == 42_623_936
    assert count(model.aux) == 9 * 1024 * 256 + 512 + 257 * 150 == 2_398_358
    assert count(model.context) == 512 * 512 + 2 * 512 + 32 * 513 + 2 * 32 + 513 * 512


def test_the_first_block_of_a_dilated_stage_keeps_the_rate_before() -> None:
    with torch.device("meta"):
        trunk = create_model("encnet").encoder.trunk
    rates = [[unit.conv2.dilation[0] for unit in stage] for stage in (trunk.layer3, trunk.layer4)]
    assert rates == [[1] + [2] * 22, [2, 4, 4]]


# ---- code book ---------------------------------------------------------------------------------


def test_encoding_by_hand() -> None:
    encoding = Encoding(6, 4).double()
    nn.init.uniform_(encoding.codewords, -1, 1)
    x = support.image(2, 6, 3, 5).double()
    got = encoding(x)
    assert got.shape == (2, 4, 6)
    for image, out in zip(x, got, strict=True):
        want = torch.zeros(4, 6).double()
        for pixel in image.flatten(1).T:
            residual = pixel - encoding.codewords
            share = (encoding.scale * residual.square().sum(dim=1)).softmax(dim=0)
            want += share[:, None] * residual
        torch.testing.assert_close(out, want)


def test_words_and_scales_start_as_the_authors() -> None:
    torch.manual_seed(0)
    encoding = Encoding(512, 32)
    reach = encoding.codewords.abs().max().item()
    assert 0.0077 < reach < (32 * 512) ** -0.5 == 0.0078125
    assert -1 <= encoding.scale.min() < -0.8
    assert -0.2 < encoding.scale.max() <= 0


def test_a_megapixel_needs_no_tensor_of_all_residuals() -> None:
    encoding = Encoding(256, 32)
    with torch.inference_mode():  # 129 x 129: all residuals are 545 MB
        assert encoding(support.image(1, 256, 129, 129)).isfinite().all()


def test_pixels_grow_by_their_channels_weights() -> None:
    context = support.fill(Context(8)).double()
    x = support.image(2, 8, 3, 4).double()
    out, code = context(x)
    words = context.norm(context.encoding(context.project(x)))
    torch.testing.assert_close(code, words.clamp(min=0).mean(dim=1))
    weights = torch.sigmoid(context.weigh(code))
    torch.testing.assert_close(out, (x * (1 + weights[:, :, None, None])).clamp(min=0))


# ---- classes of the scene ----------------------------------------------------------------------


def test_classes_in_an_image() -> None:
    target = torch.tensor([[[0, 2], [255, 2]], [[255, 255], [255, 255]]])
    assert classes_in(target, 4).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    assert classes_in(torch.tensor([[[0, 1]], [[0, 0]], [[255, 0]]]), 1).tolist() == [[1], [0], [0]]


def test_heads_and_their_losses() -> None:
    model = small()
    images = support.image(2, 3, 67, 90)
    target = support.target_for(images, 5)
    target[1][target[1] == 3] = 0
    heads = model.forward_heads(images)
    assert {k: tuple(v.shape) for k, v in heads.items()} == {
        "logits": (2, 5, 9, 12),
        "presence": (2, 5),
        "aux": (2, 5, 9, 12),
    }
    terms = model.loss(heads, target, support.criterion)
    assert terms.keys() == heads.keys()
    full = F.interpolate(heads["aux"], (67, 90), mode="bilinear", align_corners=True)
    torch.testing.assert_close(terms["aux"], 0.2 * support.criterion(full, target))
    truth = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 1]])
    share = heads["presence"].double().sigmoid()
    wrong = -torch.where(truth == 1, share, 1 - share).log().mean()
    torch.testing.assert_close(terms["presence"].double(), 0.2 * wrong, rtol=1e-4, atol=1e-4)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.1]


def test_lateral_connections_bring_layer2_and_layer3() -> None:
    model = small(lateral=True)
    seen: list[torch.Tensor] = []
    model.fusion.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    images = support.image(1, 3, 64, 64)
    model(images)
    *_, second, third, fourth = model.encoder(images)
    want = [model.pixels(fourth), model.lateral[0](second), model.lateral[1](third)]
    assert torch.equal(seen[0], torch.cat(want, dim=1))


def test_refusals() -> None:
    wanted = (
        "EncNet cannot train on one image of this size: its deepest features are a single pixel, "
        "which batch normalisation turns into zeros; take two images or larger ones"
    )
    model = small().train()
    with pytest.raises(InputError, match=re.escape(wanted)):
        model(support.image(1, 3, 8, 8))
    assert model(support.image(1, 3, 16, 8)).isfinite().all()
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("encnet", encoder="densenet121")

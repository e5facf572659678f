"""LinkNet: the authors' network, and the form over any trunk."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model, model_entry
from tests.models import support


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def decoder_count(bias: bool) -> int:
    """Parameters of the four decoder stages by hand."""
    total = 0
    for cin, cout in ((512, 256), (256, 128), (128, 64), (64, 64)):
        q = cin // 4
        total += cin * q + 9 * q * q + q * cout + 2 * (q + q + cout) + bias * (q + q + cout)
    return total


# ---- the authors' network ----------------------------------------------------------------------


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("linknet")
    assert count(model.encoder) == 11_689_512 - (512 * 1000 + 1000)  # torchvision's ResNet-18
    assert count(model.decoder) == decoder_count(bias=True)
    head = (9 * 64 * 32 + 32) + (9 * 32 * 32 + 32) + 2 * 2 * 32 + (4 * 32 * 19 + 19)
    assert count(model.head) == head
    port = model_entry("linknet").num_params - decoder_count(bias=True) + decoder_count(bias=False)
    assert port == 11_535_699, "the authors' PyTorch code"


def test_shapes_of_the_stages() -> None:
    model = create_model("linknet").eval()
    shapes = []
    for block in model.decoder.blocks:
        block.register_forward_hook(lambda *args: shapes.append(tuple(args[-1].shape[1:])))
    with torch.inference_mode():
        logits = model.forward_heads(support.image(1, 3, 64, 96))["logits"]
    assert shapes == [(256, 4, 6), (128, 8, 12), (64, 16, 24), (64, 16, 24)]
    assert logits.shape == (1, 19, 64, 96)


def test_each_stage_gets_its_encoders_input() -> None:
    model = create_model("linknet").eval()
    images = support.image(1, 3, 64, 96)
    met: dict[int, torch.Tensor] = {}
    for i, block in enumerate([*model.decoder.blocks[1:], model.head]):
        block.register_forward_pre_hook(lambda _, inputs, i=i: met.update({i: inputs[0].clone()}))
    with torch.inference_mode():
        for block in model.decoder.blocks:  # every stage gives 0.5 from here on
            block[-2].weight.zero_()
            block[-2].bias.fill_(0.5)
        model(images)
        stem, one, two, three, _ = model.encoder(images)
        inputs = [three, two, one, F.max_pool2d(stem, 3, 2, 1)]
    for i, feature in enumerate(inputs):
        assert feature.min() >= 0, "so a ReLU after the addition would change nothing"
        torch.testing.assert_close(met[i], feature + 0.5)


def test_constants_of_the_norms() -> None:
    model = create_model("linknet")
    norms = [m.eps for m in model.decoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [1e-3] * 12
    assert [m.eps for m in model.head if isinstance(m, nn.BatchNorm2d)] == [1e-5, 1e-3]


def test_initial_values_are_the_authors() -> None:
    model = create_model("linknet")
    convs = [
        m
        for part in (model.decoder, model.head)
        for m in part.modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert len(convs) == 15
    for conv in convs:
        area = math.prod(conv.kernel_size)
        want = math.sqrt(2 / (area * conv.out_channels))
        error = 5 / math.sqrt(2 * conv.weight.numel())
        assert conv.weight.std().item() == pytest.approx(want, rel=error)
        assert conv.bias.abs().max().item() <= 1 / math.sqrt(area * conv.in_channels)
        assert conv.bias.any()


def test_the_trunk_is_resnet18() -> None:
    with torch.device("meta"):
        model = create_model("linknet")
    assert model.encoder.name == "resnet18.tv_in1k"
    assert len(model.parameter_groups()["encoder"]) == len(list(model.encoder.parameters()))


# ---- over a trunk ------------------------------------------------------------------------------


def test_over_resnet18_it_has_the_popular_size() -> None:
    with torch.device("meta"):
        assert count(create_model("linknet", encoder="resnet18", num_classes=21)) == 11_664_437


def test_it_equals_segmentation_models_pytorch() -> None:
    record = json.loads((support.EXPECTED / "linknet_encoder_resnet18.json").read_text())
    assert "segmentation_models_pytorch" in record["origin"]
    model = support.fill(create_model("linknet", **record["settings"]))
    got = support.outputs(model, support.image(*record["size"]))
    for mode, heads in record["outputs"].items():
        for head, described in heads.items():
            support.assert_described(got[mode][head], described, f"{head} in {mode} mode")


@pytest.mark.parametrize(
    ("encoder", "widths"),
    [
        ("test_resnet", [192, 48, 32, 32, 32]),
        ("mobilenetv3_small_100", [48, 24, 16, 16, 32]),
        ("test_convnext", [48, 32, 24, 24, 32]),  # nothing at stride 2: as wide as at 4
    ],
)
def test_blocks_have_the_widths_of_the_trunk(encoder: str, widths: list[int]) -> None:
    with torch.device("meta"):
        model = create_model("linknet", encoder=encoder)
    want = [model.encoder.channels[place] for place in model.decoder.places[1:]]
    got = [block[-1][0].out_channels for block in model.decoder.blocks]
    assert got[: len(want)] == want
    assert got == widths


def test_a_trunks_classifier_starts_xavier_uniform() -> None:
    model = create_model("linknet", encoder="test_resnet")
    bound = math.sqrt(6 / (32 + 19))
    assert bound * 0.95 < model.head.weight.abs().max().item() <= bound
    assert not model.head.bias.any()
    conv = model.decoder.blocks[0][0][0]
    assert conv.weight.abs().max().item() == pytest.approx(
        math.sqrt(6 / conv.in_channels), rel=0.01
    )


def test_refusals() -> None:
    model = create_model("linknet", encoder="test_resnet").train()
    with pytest.raises(InputError, match="LinkNet cannot train on one image of this size"):
        model(support.image(1, 3, 32, 20))
    with pytest.raises(InputError, match="the decoder needs a feature at stride 32"):
        create_model("linknet", encoder="test_vit")

"""What is special of networks with a CRF behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import FileError, InputError
from semseg.core.labels import LabelMap
from semseg.models import create_model, model_entry
from semseg.models.base import settings_of
from semseg.nn.crf import CRFRNN
from tests.models import support

SMALL = {
    "crf_rnn_fcn_8s": {"width": 4},
    "crf_rnn": {"settings": {"width": 4}},
    "dilation8_crf_rnn": {"width": 2},
}


@pytest.mark.parametrize("name", SMALL)
class TestAll:
    def test_logits_are_at_full_size_and_refined(self, name: str) -> None:
        model = support.fill(create_model(name, num_classes=4, **SMALL[name]))
        images = support.image(2, 3, 64, 72)
        with torch.no_grad():
            heads = model.forward_heads(images)
            base = model.base(images)
        assert heads["logits"].shape == (2, 4, 64, 72)
        colours = images * 255 * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        colours += 255 * torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        with torch.no_grad():
            wanted = model.crf(colours, base)
        torch.testing.assert_close(heads["logits"], wanted, rtol=1e-3, atol=1e-3)
        assert (heads["logits"].softmax(1) - base.softmax(1)).abs().max() > 0.01

    def test_begins_with_the_papers_weights(self, name: str) -> None:
        crf = create_model(name, num_classes=4, **SMALL[name]).crf
        assert isinstance(crf, CRFRNN)
        assert torch.equal(crf.smooth, 3 * torch.eye(4))
        assert torch.equal(crf.bilateral, 5 * torch.eye(4))
        assert torch.equal(crf.compatibility, -torch.eye(4))
        assert (crf.sxy, crf.srgb, crf.smooth_sxy) == (160, 3, 3)
        assert (crf.iterations, crf.test_iterations) == (5, 10)

    def test_the_crf_belongs_to_the_head(self, name: str) -> None:
        model = create_model(name, num_classes=4, **SMALL[name])
        head = {id(p) for p in model.parameter_groups()["head"]}
        assert {id(p) for p in model.crf.parameters()} <= head

    def test_one_channel_is_two_classes(self, name: str) -> None:
        model = support.fill(create_model(name, num_classes=1, **SMALL[name]))
        images = support.image(1, 3, 64, 72)
        with torch.no_grad():
            scores = model.base(images)
            pair = torch.cat([torch.zeros_like(scores), scores], 1)
            colours = images * model.scale + model.shift
            wanted = model.crf(colours, pair).softmax(1)[:, 1:]
            got = model(images).sigmoid()
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)

    def test_cost_of_the_layer_is_three_matrices(self, name: str) -> None:
        model = create_model(name, num_classes=7, **SMALL[name])
        count = sum(p.numel() for p in model.parameters())
        assert count - sum(p.numel() for p in model.base.parameters()) == 3 * 49


def test_starts_from_a_trained_fcn_8s(tmp_path: Path) -> None:
    trained = support.fill(create_model("fcn_8s_vgg16", num_classes=4, width=4))
    labels = LabelMap.from_dict({"classes": [f"c{i}" for i in range(4)]})
    rule = model_entry("fcn_8s_vgg16").preprocessing
    info = WeightsInfo(
        model="fcn_8s_vgg16", settings=settings_of(trained), labels=labels, preprocessing=rule
    )
    save_weights(tmp_path / "best.safetensors", trained.state_dict(), info)
    images = support.image(1, 3, 64, 72)
    for name in ("crf_rnn_fcn_8s", "crf_rnn"):
        model = create_model(name, num_classes=4, pretrained=tmp_path, **SMALL[name]).eval()
        # deconvolutions that are trained here begin as the fixed ones
        torch.testing.assert_close(model.base(images), trained(images))
    with pytest.raises(FileError, match="starts from dilation8 or dilation_frontend"):
        create_model("dilation8_crf_rnn", num_classes=4, pretrained=tmp_path, width=2)


def test_deconvolutions_are_trained() -> None:
    model = create_model("crf_rnn_fcn_8s", num_classes=5, width=4)
    names = {k for k, p in model.named_parameters() if "upscore" in k and p.requires_grad}
    wanted = {"upscore_fr.weight", "upscore_fr.bias", "upscore_pool4.weight"}
    assert names == {f"base.{name}" for name in wanted}
    weight = model.base.upscore_fr.weight
    assert weight.shape == (5, 5, 4, 4)
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(weight[2, 2], tent[:, None] * tent)
    assert weight[2, 3].count_nonzero() == 0


@pytest.mark.parametrize("network", ["stdc1", "pidnet_s"])
def test_over_a_network_with_a_loss_of_its_own(network: str) -> None:
    small = tuple(model_entry(network).small.items())
    model = create_model("crf_rnn", network=network, settings=small, num_classes=4).train()
    images = support.image(2, 3, 64, 64)
    heads = model.forward_heads(model.pad(images))
    target = support.target_for(images, 4)
    terms = model.loss(heads, target, support.criterion)
    own = dict(heads) | {"logits": heads["unrefined"]}
    wanted = model.base.loss(own, target, support.criterion)
    assert terms.keys() == wanted.keys()
    for name in wanted.keys() - {"logits"}:
        assert torch.equal(terms[name], wanted[name])
    assert not torch.equal(terms["logits"], wanted["logits"])


def test_over_another_network_with_auxiliary_heads() -> None:
    model = create_model(
        "crf_rnn", num_classes=4, network="pspnet_resnet50", settings={"encoder": "resnet18"}
    )
    images = support.image(2, 3, 64, 72)
    heads = model.train().forward_heads(model.pad(images))
    terms = model.loss(heads, support.target_for(images, 4), support.criterion)
    assert terms.keys() == {"logits", *model.base.aux_weights}
    assert len(terms) > 1
    wanted = model.base.loss(
        model.base.forward_heads(images) | heads, support.target_for(images, 4), support.criterion
    )
    for name in model.base.aux_weights:
        torch.testing.assert_close(terms[name], wanted[name])
    assert sum(terms.values()).isfinite()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("crf_rnn", "crf_rnn has a CRF already; name the network below it"),
        (
            "segnet",
            "crf_rnn takes images in ImageNet's normalisation, segnet in another; name "
            "another network",
        ),
    ],
)
def test_refusals(network: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(InputError) as error:
        create_model("crf_rnn", network=network)
    assert str(error.value) == message

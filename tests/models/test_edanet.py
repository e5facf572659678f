"""EDANet against the tables and drawings of its authors' repository."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.realtime.edanet import EDAModule, down
from semseg.models.realtime.erfnet import Down
from tests.models import support


@pytest.mark.parametrize(("classes", "count"), [(19, 689_485), (11, 685_877)])
def test_counts_of_the_port(classes: int, count: int) -> None:
    with torch.device("meta"):
        model = create_model("edanet", num_classes=classes)
    assert sum(p.numel() for p in model.parameters()) == count


def test_channels_and_sizes_of_the_authors_table() -> None:
    with torch.device("meta"):
        model = create_model("edanet", num_classes=7).eval()
        images = torch.empty(1, 3, 512, 1024)
    seen = []
    layers = (model.down1, model.down2, *model.block1, model.down3, *model.block2)
    for layer in (*layers, model.classifier):
        layer.register_forward_hook(lambda _layer, _args, out: seen.append(tuple(out.shape[1:])))
    assert model(images).shape == (1, 7, 512, 1024)
    assert seen == [
        (15, 256, 512),
        *[(c, 128, 256) for c in (60, 100, 140, 180, 220, 260)],
        *[(c, 64, 128) for c in (130, 170, 210, 250, 290, 330, 370, 410, 450, 7)],
    ]


def test_only_the_second_pair_of_a_module_is_dilated() -> None:
    model = create_model("edanet")
    found = []
    for module in (*model.block1, *model.block2):
        first, *convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        assert first.kernel_size == (1, 1)
        assert [conv.kernel_size for conv in convs] == [(3, 1), (1, 3)] * 2
        assert [conv.dilation for conv in convs[:2]] == [(1, 1)] * 2
        (d, one), (same, e) = convs[2].dilation, convs[3].dilation
        assert (one, same, e) == (1, 1, d)
        found.append(d)
    assert found == [1, 1, 1, 2, 2, 2, 2, 4, 4, 8, 8, 16, 16]


def test_layers_of_a_module_in_the_order_of_the_drawing() -> None:
    module = EDAModule(20, dilation=2)
    pair = [nn.Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(layer) for layer in module.branch] == [
        *(nn.Conv2d, nn.BatchNorm2d, nn.ReLU),
        *pair,
        *pair,
        nn.Dropout2d,
    ]
    assert module.branch[-1].p == 0.02


def test_a_module_keeps_all_it_is_given() -> None:
    module = support.fill(EDAModule(20, dilation=4))
    x = support.image(1, 20, 6, 7)
    with torch.no_grad():
        out = module(x)
    assert torch.equal(out[:, 40:], x)
    assert torch.equal(out[:, :40], module.branch(x))


def test_halving_pools_only_where_it_widens() -> None:
    wider, narrower = down(15, 60), down(260, 130)
    assert isinstance(wider, Down)
    assert wider.conv.out_channels == 45
    assert narrower[0].out_channels == 130
    with torch.device("meta"):  # as the drawing says, also for the images themselves
        many = create_model("edanet", in_channels=20)
    assert many.down1[0].out_channels == 15


def test_norms_have_pytorchs_constant() -> None:
    model = create_model("edanet")
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}


def test_logits_are_enlarged_eightfold_with_aligned_corners() -> None:
    model = support.fill(create_model("edanet", num_classes=2))
    images = support.image(1, 3, 32, 48)
    with torch.no_grad():
        logits = model.forward_heads(images)["logits"]
        assert logits.shape == (1, 2, 4, 6)
        want = F.interpolate(logits, scale_factor=8, mode="bilinear", align_corners=True)
        torch.testing.assert_close(model(images), want)


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = create_model("edanet")
    for conv in (model.block2[-1].branch[0], model.down3[0], model.classifier):
        assert conv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([norm.weight for norm in norms])
    assert scales.mean().item() == pytest.approx(1, abs=0.005)
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)
    assert not any(norm.bias.any() for norm in norms)


def test_one_small_image_cannot_be_trained_on() -> None:
    model = create_model("edanet", num_classes=2).train()
    with pytest.raises(InputError, match="EDANet cannot train on one image of this size"):
        model(torch.rand(1, 3, 8, 5))
    assert model(torch.rand(1, 3, 8, 9)).isfinite().all()

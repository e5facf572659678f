"""Layer cascade: what region convolution computes, that it saves work, who learns from what."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from semseg import create_model
from semseg.core.checks import InputError
from semseg.encoders.inception_resnet_v2 import ConvNorm, InceptionResNetV2, Pool
from semseg.models.dilated.layer_cascade import Gathered, LayerCascade, Masked, Region
from tests.models import support

SMALL = {"width": 4, "depths": (1, 2, 1), "hidden": 8, "num_classes": 5}


def small(**settings: object) -> LayerCascade:
    model = support.fill(create_model("layer_cascade", **SMALL | settings))
    assert isinstance(model, LayerCascade)
    return model


def some(*shape: int, part: float = 0.5) -> Tensor:
    """A region of about a ``part`` of all places."""
    count = torch.Size(shape).numel()
    return (support.noise(count, 11).reshape(shape) + 1) / 2 < part


# ---- region convolution ----------------------------------------------------------------------


def test_region_convolution_by_hand() -> None:
    """1 2 3 with the region at the outer two: their sum over three neighbours, 0 in the middle."""
    region = torch.tensor([True, False, True]).view(1, 1, 1, 3)
    conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1))
    nn.init.ones_(conv.weight)
    nn.init.constant_(conv.bias, 10.0)
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    place, everywhere = Region(region), Region(torch.ones_like(region))
    entered = Gathered(place, everywhere).enter(conv, everywhere.gather(x))
    assert place.scatter(entered).flatten().tolist() == [13.0, 0.0, 15.0], "2 is still seen"
    inside = Gathered(place, everywhere)(conv, place.gather(x))
    assert place.scatter(inside).flatten().tolist() == [11.0, 0.0, 13.0], "2 was not computed"
    torch.testing.assert_close(place.scatter(entered), Masked(region).enter(conv, x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 1),
        nn.Conv2d(6, 4, 3, padding=1),
        nn.Conv2d(6, 4, (1, 7), padding=(0, 6), dilation=2),
        ConvNorm(6, 4, (7, 1), dilation=2),
        ConvNorm(6, 4, 3, dilation=4),
        Pool(1),
        Pool(2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_sparse_and_dense_region_convolution_agree(layer: nn.Module) -> None:
    layer = support.fill(layer).double()
    region = some(2, 1, 7, 9)
    before = region | some(2, 1, 7, 9, part=0.3).flip(-1)
    x = support.image(2, 6, 7, 9).double().abs() * before
    place, earlier = Region(region), Region(before)
    apply, masked = Gathered(place, earlier), Masked(region)
    entered = place.scatter(apply.enter(layer, earlier.gather(x)))
    torch.testing.assert_close(entered, masked.enter(layer, x))
    inside = place.scatter(apply(layer, place.gather(x)))
    torch.testing.assert_close(inside, masked(layer, x * region))
    assert not entered[~region.expand_as(entered)].any()


def test_rows_come_back_to_their_places() -> None:
    region = some(2, 1, 5, 6)
    x = support.image(2, 3, 5, 6)
    place = Region(region)
    assert place.gather(x).shape == (int(region.sum()), 3, 1, 1)
    torch.testing.assert_close(place.scatter(place.gather(x)), x * region)


def test_a_residual_block_leaves_its_input_outside_the_region() -> None:
    encoder = support.fill(InceptionResNetV2(3, 4, (1, 1, 1)))
    region = some(1, 1, 6, 8)
    x = support.image(1, encoder.channels[1], 6, 8).abs()
    out = encoder.repeat_1[0](x, Masked(region))
    outside = ~region.expand_as(x)
    assert torch.equal(out[outside], x[outside])
    assert (out != x)[region.expand_as(x)].float().mean() > 0.5


# ---- the cascade -----------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.3, 0.42, 0.6, 1.0, 0.01])
@pytest.mark.parametrize("classes", [5, 1])
def test_computing_less_gives_the_same(rho: float, classes: int) -> None:
    model = small(rho=rho, num_classes=classes).double()
    images = support.image(2, 3, 61, 90).double()
    with torch.inference_mode():
        dense, sparse = (
            compute(model.pad(images)) for compute in (model.forward_heads, model.cascade)
        )
        assert list(dense) == list(sparse) == ["logits", "stage1", "stage2", "stage3"]
        for name, scores in dense.items():
            torch.testing.assert_close(sparse[name], scores)
        torch.testing.assert_close(model(images), model.full_size(dense["logits"], (61, 90)))


def test_every_place_has_the_scores_of_the_last_stage_it_reached() -> None:
    model = small(rho=0.42)
    with torch.inference_mode():
        heads = model.cascade(support.image(2, 3, 64, 96))
    probability = {k: v.softmax(1).amax(1) for k, v in heads.items()}
    second = probability["stage1"] <= 0.42
    third = second & (probability["stage2"] <= 0.42)
    parts = [part.float().mean().item() for part in (second, third)]
    assert parts == pytest.approx([0.5417, 0.3854], abs=1e-3), "as the reference counts them"
    for name, reached in (("stage1", ~second), ("stage2", second & ~third), ("stage3", third)):
        places = reached[:, None].expand_as(heads["logits"])
        assert reached.any()
        assert torch.equal(heads["logits"][places], heads[name][places])
    for name, reached in (("stage2", second), ("stage3", third)):
        assert not heads[name].amax(1)[~reached].any(), "nothing was computed there"


def test_work_falls_with_the_region() -> None:
    """Multiplications as PyTorch counts those it runs, against those of the layers by hand."""
    images = support.image(1, 3, 64, 96)

    def work(rho: float) -> tuple[int, dict[str, Tensor]]:
        model = small(rho=rho)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model(images)
        with torch.inference_mode():
            return counter.get_total_flops(), model.cascade(images)

    model = small()
    stages = {
        "second": (model.encoder.mixed_6a, model.encoder.repeat_1, model.heads[1]),
        "third": (
            *(model.encoder.mixed_7a, model.encoder.repeat_2, model.encoder.block8),
            *(model.encoder.conv2d_7b, model.heads[2]),
        ),
    }
    row = {
        name: sum(2 * m.weight.numel() for part in parts for m in part.modules() if is_conv(m))
        for name, parts in stages.items()
    }
    least, _ = work(0.01)
    for rho in (0.42, 0.6, 1.0):
        done, heads = work(rho)
        second = int((heads["stage1"].softmax(1).amax(1) <= rho).sum())
        third = int((heads["stage3"] != 0).any(1).sum())
        assert done == least + second * row["second"] + third * row["third"], rho
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        small(rho=1.0).forward_heads(images)
    assert done == counter.get_total_flops(), "all places cost what the dense network costs"
    assert least < 0.75 * done


def is_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


def test_without_a_threshold_it_is_the_plain_network() -> None:
    model = small(rho=1.0)
    images = support.image(1, 3, 64, 96)
    with torch.no_grad():
        heads = model.forward_heads(images)
        one, two, three = model.encoder(images)
    assert torch.equal(heads["logits"], heads["stage3"])
    for i, features in enumerate((one, two, three)):
        head = model.heads[i]
        scores = head.conv2(F.relu(head.conv1(features)))
        torch.testing.assert_close(scores, heads[f"stage{i + 1}"])
    assert [tuple(f.shape[1:]) for f in (one, two, three)] == [(c, 8, 12) for c in (40, 136, 192)]


# ---- learning --------------------------------------------------------------------------------


def test_each_stage_learns_from_what_reached_it() -> None:
    model = small(rho=0.9)
    sure, unsure = 20 * torch.eye(5)[0], torch.zeros(5)
    stage1 = torch.stack([sure, unsure, unsure]).T.view(1, 5, 1, 3)
    stage2 = torch.stack([unsure, sure, unsure]).T.view(1, 5, 1, 3)
    heads = {"logits": stage2, "stage1": stage1, "stage2": stage2, "stage3": stage2}
    target = torch.arange(3).repeat_interleave(8).expand(1, 8, 24)
    seen: list[list[int]] = []

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels.flatten().tolist())
        return F.cross_entropy(logits, labels, ignore_index=255)

    terms = model.loss(heads, target, criterion)
    assert list(terms) == ["stage1", "stage2", "stage3"]
    assert seen == [[0, 1, 2], [255, 1, 2], [255, 255, 2]]
    assert terms["stage3"].item() == pytest.approx(torch.tensor(5.0).log().item())


def test_a_stage_that_nothing_reached_has_no_loss() -> None:
    model = small(rho=0.01).train()
    images = support.image(2, 3, 32, 32)
    heads = model.forward_heads(images)
    terms = model.loss(heads, support.target_for(images, 5), support.criterion)
    assert [terms[name].item() for name in ("stage2", "stage3")] == [0, 0]
    sum(terms.values()).backward()
    assert not model.heads[2].conv2.weight.grad.any()


def test_frozen_norms_make_both_forms_equal_in_training() -> None:
    model = small(rho=0.42, freeze_norm=True).double().train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    images = support.image(1, 3, 64, 96).double()
    dense, sparse = model.forward_heads(images), model.cascade(images)
    gradients = []
    for heads in (dense, sparse):
        model.zero_grad()
        (heads["logits"] ** 2).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == sum(
        2 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)
    )


# ---- facts -----------------------------------------------------------------------------------


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("layer_cascade")
    assert sum(p.numel() for p in model.encoder.parameters()) == 54_306_464  # timm's, headless
    heads = [sum(p.numel() for p in head.parameters()) for head in model.heads]
    assert heads == [9 * c * 512 + 512 + 512 * 21 + 21 for c in (320, 1088, 1536)]


def test_strides_are_in_stage_one_and_dilation_behind_it() -> None:
    encoder = InceptionResNetV2(3, 4, (1, 1, 1))
    convs = {name: m for name, m in encoder.named_modules() if isinstance(m, nn.Conv2d)}
    assert [name for name, m in convs.items() if m.stride != (1, 1)] == ["conv2d_1a.conv"]
    dilations = {name.split(".")[0]: set() for name in convs}
    for name, conv in convs.items():
        if conv.kernel_size != (1, 1):
            dilations[name.split(".")[0]].add(conv.dilation[0])
            padding = [d * (k // 2) for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
            assert list(conv.padding) == padding
    assert {name: d for name, d in dilations.items() if d not in ({1}, set())} == {
        "repeat_1": {2},
        "mixed_7a": {2},
        "repeat_2": {4},
        "block8": {4},
    }
    assert (encoder.repeat[0].scale, encoder.repeat_1[0].scale) == (0.17, 0.10)
    assert (encoder.repeat_2[0].scale, encoder.block8.scale) == (0.20, 1.0)
    assert encoder.repeat_2[0].relu
    assert not encoder.block8.relu


def test_the_last_pool_is_dilated() -> None:
    x = torch.zeros(1, 1, 7, 7)
    x[..., 3, 3] = 1
    assert Pool(2)(x)[0, 0].nonzero().tolist() == [[y, x] for y in (1, 3, 5) for x in (1, 3, 5)]


def test_new_heads_start_unsure() -> None:
    model = create_model("layer_cascade", **SMALL | {"rho": 0.985})
    assert model.heads[0].conv1.weight.std().item() == pytest.approx(0.01, rel=0.05)
    with torch.inference_mode():
        scores = model.eval().forward_heads(support.image(1, 3, 32, 32))["stage1"]
    assert model.uncertain(scores).all()


def test_published_weights_need_the_published_width() -> None:
    wanted = "Inception-ResNet-v2 weights have width 32 and depths"
    model = small()
    shapes = {key: value.shape for key, value in model.encoder.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semseg.encoders.timm.TimmEncoder.load_pretrained", lambda *_: None)
        with pytest.raises(InputError, match=wanted):
            model.load_pretrained()
        whole = InceptionResNetV2()
        whole.load_pretrained()  # every name and shape is timm's
    assert shapes.keys() < whole.state_dict().keys()


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"LayerCascade takes rho above 0 and up to 1, got 1\.5"):
        create_model("layer_cascade", rho=1.5)
    with pytest.raises(InputError, match="LayerCascade takes an even width, got 5"):
        create_model("layer_cascade", width=5)
    model = create_model("layer_cascade", **SMALL).train()
    with pytest.raises(InputError, match="LayerCascade cannot train on one image of this size"):
        model(support.image(1, 3, 8, 8))

"""FCRN: a wide view, dropout inside blocks, one label per cell, finer scores from shifts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semseg import create_model
from semseg.core.checks import InputError
from semseg.models.base import SegmentationModel
from semseg.models.dilated.fcrn import labels_of_cells
from tests.models import support

SMALL = {"depths": (1, 1, 1, 2), "width": 4, "num_classes": 5}


def small(**settings: object) -> SegmentationModel:
    return support.fill(create_model("fcrn_resnet101", **SMALL | settings))


@pytest.mark.parametrize(
    ("name", "trunk"),
    # torchvision's counts, with the classifier of 2048 x 1000 + 1000
    [
        ("fcrn_resnet50", 25_557_032),
        ("fcrn_resnet101", 44_549_160),
        ("fcrn_resnet152", 60_192_808),
    ],
)
def test_count_of_the_parts(name: str, trunk: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
        deeper = create_model(name, hidden=512)
    counts = {
        key: sum(p.numel() for p in part.parameters())
        for key, part in {"trunk": model.encoder, "head": model.head, "two": deeper.head}.items()
    }
    one = 9 * 2048 * 21 + 21
    two = 9 * 2048 * 512 + 512 + 9 * 512 * 21 + 21
    assert counts == {"trunk": trunk - 2_049_000, "head": one, "two": two}


def test_shapes_strides_and_dilations() -> None:
    model = small()
    shapes = [tuple(f.shape[1:]) for f in model.encoder(support.image(1, 3, 64, 96))]
    assert shapes == [(4, 32, 48), (16, 16, 24), (32, 8, 12), (64, 8, 12), (128, 8, 12)]
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    dilated = {name: m.dilation[0] for name, m in layers.items() if m.dilation != (1, 1)}
    assert dilated == {
        "encoder.layer3.0.conv2": 2,
        "encoder.layer4.0.conv2": 4,
        "encoder.layer4.1.conv2": 4,
        "head.0": 12,
    }
    strided = {name for name, m in layers.items() if m.stride == (2, 2)}
    assert strided == {"encoder.conv1", "encoder.layer2.0.conv1", "encoder.layer2.0.downsample.0"}


def test_one_score_sees_two_dozen_cells() -> None:
    head = small(hidden=None).head
    seen = torch.zeros(1, 128, 41, 41, requires_grad=True)
    head(seen)[0, 0, 20, 20].backward()
    assert seen.grad is not None
    rows = seen.grad[0].abs().sum((0, 2)).nonzero().flatten()
    assert rows.tolist() == [8, 20, 32]


def test_dropout_stands_before_the_last_two_sums() -> None:
    model = create_model("fcrn_resnet101", **SMALL | {"depths": (1, 1, 2, 2)})
    drops = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert drops == {"encoder.layer4.0.bn3.dropout": 0.3, "encoder.layer4.1.bn3.dropout": 0.5}
    block = support.fill(model.encoder.get_submodule("layer4.1")).train()
    block.bn3.dropout.p = 1.0  # nothing of the branch is left
    x = support.image(1, 128, 4, 5)
    torch.testing.assert_close(block(x), x.relu())
    names = create_model("fcrn_resnet101", dropout=(), **SMALL).state_dict().keys()
    assert names == create_model("fcrn_resnet101", **SMALL).state_dict().keys()


def test_dropout_goes_into_other_bottlenecks_too() -> None:
    with torch.device("meta"):
        model = create_model("fcrn_resnet101", encoder="resnet26", num_classes=5)
    held = [m.bn3.dropout.p for m in model.modules() if hasattr(getattr(m, "bn3", 0), "dropout")]
    assert held == [0.3, 0.5]


def test_fixed_statistics_stay_and_their_weights_learn() -> None:
    model = small(fixed_statistics=True, dropout=()).train()
    images = support.image(1, 3, 8, 8)  # one value per channel, which is enough
    before = {k: v.clone() for k, v in model.named_buffers()}
    out = model(images)
    assert all(torch.equal(v, before[k]) for k, v in model.named_buffers())
    torch.testing.assert_close(out, model.eval()(images))
    out.sum().backward()
    assert model.encoder.get_submodule("layer4.1").bn3.weight.grad.any()


def test_each_score_has_the_label_in_the_middle_of_its_cell() -> None:
    target = torch.arange(27)[None, :, None] * 100 + torch.arange(13)
    labels = labels_of_cells(target, 4, 2)
    assert labels[0, :, 0].tolist() == [404, 1204, 2004, 2604], "the last pixel for what is cut off"
    assert labels[0, 0].tolist() == [404, 412]

    seen: list[Tensor] = []

    def criterion(logits: Tensor, target: Tensor) -> Tensor:
        seen.extend((logits, target))
        return logits.mean()

    heads = {"logits": torch.zeros(1, 5, 4, 2)}
    assert small().loss(heads, target, criterion).keys() == {"logits"}
    assert torch.equal(seen[0], heads["logits"])
    assert torch.equal(seen[1], labels)


def test_finer_scores_are_those_of_shifted_images() -> None:
    model = small()
    images = support.image(1, 3, 32, 48)
    with torch.inference_mode():
        torch.testing.assert_close(model.finer(images, steps=1), model(images))
        fine = model.finer(images, steps=2)
        # shifted by two pixels, scores stand on quarters of the cells instead of their middles
        looks = {
            (y, x): model.forward_heads(shifted(images, 2 - 4 * y, 2 - 4 * x))["logits"]
            for y in (0, 1)
            for x in (0, 1)
        }
        woven = torch.zeros(1, 5, 8, 12)
        for (y, x), scores in looks.items():
            woven[..., y::2, x::2] = scores
        torch.testing.assert_close(fine, model.enlarge(woven, (32, 48)))
    assert model.finer(support.image(1, 3, 21, 30), steps=8).shape == (1, 5, 21, 30)


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Move what images show, zeros behind it."""
    height, width = images.shape[-2:]
    out = torch.zeros_like(images)
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                out[..., y, x] = images[..., y - down, x - right]
    return out


def test_new_layers_are_he_normal() -> None:
    head = create_model("fcrn_resnet101", **SMALL | {"num_classes": 100, "hidden": 64}).head
    for conv in (head[0], head[2]):
        expected = (2 / (9 * conv.in_channels)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.03)
        assert not conv.bias.any()


def test_refusals() -> None:
    model = small()
    with pytest.raises(InputError, match="FCRN takes steps 1, 2, 4 or 8, got 3"):
        model.finer(support.image(1, 3, 16, 16), steps=3)
    with pytest.raises(InputError, match="FCRN cannot train on one image of this size"):
        model.train()(support.image(1, 3, 8, 8))

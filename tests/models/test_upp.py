"""Unified perceptual parsing: exact pooling, where each head looks, the objective of all tasks."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models import create_model, model_entry
from semseg.models.pyramid.upp import UPP, precise_average
from tests.models import support

SMALL = {"num_classes": 5, **model_entry("upp_resnet50").small}
IGNORE = 65535


def small(**settings: object) -> UPP:
    model = support.fill(create_model("upp_resnet50", **SMALL | settings))
    assert isinstance(model, UPP)
    return model


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def targets(size: tuple[int, int] = (64, 96)) -> dict[str, Tensor]:
    """Labels of every task for two images; objects 1 and 3 have 2 and 3 parts."""
    objects = support.target_for(torch.empty(2, 3, *size), 5)
    objects[objects == 255] = IGNORE
    parts = support.target_for(torch.empty(2, 3, *size), 2)
    parts[parts == 255] = IGNORE
    return {
        "object": objects,
        "part": parts,
        "scene": torch.tensor([3, 0]),
        "material": objects.clamp(max=2),
        "texture": torch.tensor([1, 2]),
    }


def test_count_with_and_without_the_texture_head() -> None:
    with torch.device("meta"):
        model = create_model("upp_resnet50")
        released = create_model("upp_resnet50", textures=0)
    config = model_entry("upp_resnet50").config
    assert (len(config.part_objects), sum(config.part_counts)) == (77, 427)
    assert count(released) == 23_631_808 + 50_546_818, "trunk and decoder of the authors' code"
    texture = 9 * 128 * (256 + 3 * 128) + 4 * 2 * 128 + 47 * 129
    assert count(model) - count(released) == texture == count(model.tasks["texture"])


# ---- pooling -----------------------------------------------------------------------------------


def test_pooling_is_the_integral_of_the_interpolated_map() -> None:
    a, b = 3.0, 5.0
    row = torch.tensor([a, b]).double().reshape(1, 1, 1, 2)
    # over 0 … 2: a line from a to b, then one from b to zero; over 0 … 1 in height: half of it
    want = ((a + b) / 2 + b / 2) / 2 * 0.5
    assert precise_average(row, 1).item() == pytest.approx(want)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pooling_equals_fine_sampling(bins: int) -> None:
    x = support.image(1, 2, 5, 7).double()
    grown = F.pad(x, (0, 1, 0, 1))  # zeros beyond the last pixel
    fine = 60  # samples per pixel; midpoints integrate lines exactly
    size = (5 * fine, 7 * fine)
    rows, columns = ((torch.arange(n) + 0.5).double() / fine for n in size)
    y, z = rows.floor().long(), columns.floor().long()
    top = (
        grown[..., y, :] * (1 - rows.frac())[:, None] + grown[..., y + 1, :] * rows.frac()[:, None]
    )
    surface = top[..., z] * (1 - columns.frac()) + top[..., z + 1] * columns.frac()
    want = F.avg_pool2d(surface, (size[0] // bins, size[1] // bins))
    torch.testing.assert_close(precise_average(x, bins), want, rtol=1e-3, atol=1e-5)


# ---- heads -------------------------------------------------------------------------------------


def test_shapes_of_the_heads() -> None:
    heads = small().forward_heads(support.image(2, 3, 64, 96))
    assert {name: tuple(head.shape) for name, head in heads.items()} == {
        "logits": (2, 5, 16, 24),
        "scene": (2, 4),
        "part": (2, 5, 16, 24),
        "material": (2, 3, 16, 24),
        "texture": (2, 4, 16, 24),
    }


def test_each_head_looks_where_figure_4_has_it() -> None:
    model = small()
    parts = {
        "trunk": model.encoder,
        "context": model.context,
        "finest": model.pyramid.out[0],
        "coarser": model.pyramid.out[2],
        "fusion": model.fusion,
    }
    seen = {}
    for name in model.tasks:
        heads = model.forward_heads(support.image(1, 3, 64, 96))
        model.zero_grad()
        heads["logits" if name == "object" else name].square().sum().backward()
        seen[name] = {
            part
            for part, module in parts.items()
            if any(p.grad is not None and p.grad.any() for p in module.parameters())
        }
    assert seen == {
        "scene": {"trunk", "context"},
        "object": set(parts),
        "part": set(parts),
        "material": {"trunk", "context", "finest"},
        "texture": set(),
    }


def test_texture_reads_the_second_stage() -> None:
    model = small()
    images = support.image(1, 3, 64, 96)
    want = model.tasks["texture"](model.encoder(images)[model.encoder.index_of(4)])
    torch.testing.assert_close(model.forward_heads(images)["texture"], want)
    convs = [m for m in model.tasks["texture"].modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0]) for c in convs] == [(128, 3)] * 4 + [(4, 1)]


def test_a_task_without_classes_has_no_head() -> None:
    model = small(scenes=0, part_objects=(), part_counts=(), materials=0, textures=0)
    assert list(model.forward_heads(support.image(1, 3, 64, 64))) == ["logits"]
    heads = model.train().forward_heads(support.image(2, 3, 64, 96))
    sum(model.loss(heads, targets()["object"] % 5, support.criterion).values()).backward()
    assert all(p.grad is not None for p in model.parameters())


# ---- objective ---------------------------------------------------------------------------------


def test_all_tasks_together_reach_every_parameter() -> None:
    model = small().train()
    images = support.image(2, 3, 61, 96)
    heads = model.forward_heads(model.pad(images))
    terms = model.unified_loss(heads, targets((61, 96)))
    assert terms.keys() == {"object", "part", "scene", "material", "texture"}
    sum(terms.values()).backward()
    assert not [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_terms_by_hand() -> None:
    model, labels = small(), targets()
    heads = model.forward_heads(support.image(2, 3, 64, 96))
    terms = model.unified_loss(heads, labels)
    grid = {name: labels[name][:, 2::4, 2::4] for name in ("object", "part", "material")}
    torch.testing.assert_close(terms["object"], F.cross_entropy(heads["logits"], grid["object"]))
    torch.testing.assert_close(
        terms["material"], F.cross_entropy(heads["material"], grid["material"])
    )
    torch.testing.assert_close(
        terms["scene"], 0.25 * F.cross_entropy(heads["scene"], labels["scene"])
    )
    log = heads["texture"].log_softmax(1)
    torch.testing.assert_close(terms["texture"], -(log[0, 1].mean() + log[1, 2].mean()) / 2)
    want = 0.0
    for whole, own in ((1, slice(0, 2)), (3, slice(2, 5))):
        scores = heads["part"][:, own].permute(0, 2, 3, 1)[grid["object"] == whole]
        want += 0.5 * F.cross_entropy(scores, grid["part"][grid["object"] == whole]).item()
    assert terms["part"].item() == pytest.approx(want, rel=1e-5)


def test_only_tasks_with_labels_count() -> None:
    model, labels = small(), targets()
    heads = model.forward_heads(support.image(2, 3, 64, 96))
    assert model.unified_loss(heads, {"material": labels["material"]}).keys() == {"material"}
    nothing = {name: torch.full_like(value, IGNORE) for name, value in labels.items()}
    terms = model.unified_loss(heads, nothing)
    assert [term.item() for term in terms.values()] == [0.0] * 5
    one = model.unified_loss(heads, labels | {"scene": torch.tensor([3, IGNORE])})["scene"]
    torch.testing.assert_close(one, -0.25 * heads["scene"].log_softmax(1)[0, 3])


def test_one_target_trains_objects_alone() -> None:
    model = small()
    heads = model.forward_heads(support.image(2, 3, 64, 96))
    target = support.target_for(torch.empty(2, 3, 64, 96), 5)
    terms = model.loss(heads, target, support.criterion)
    assert terms.keys() == {"logits"}
    want = F.cross_entropy(heads["logits"], target[:, 2::4, 2::4], ignore_index=255)
    torch.testing.assert_close(terms["logits"], want)


def test_initial_weights_are_the_authors() -> None:
    model = create_model("upp_resnet50", **SMALL)
    first, norm = model.tasks["texture"][1][:2]
    assert first.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
    assert norm.bias.unique().tolist() == pytest.approx([1e-4])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"part_objects": (1,)},
            "UPP needs one number of parts per object with parts, got 1 part_objects and 2 "
            "part_counts",
        ),
        ({"width": 0}, "UPP needs width >= 1, got 0"),
        ({"scenes": -1}, "UPP takes 0 or more classes of a task, got scenes=-1"),
    ],
)
def test_impossible_tasks_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model("upp_resnet50", **SMALL | settings)


def test_impossible_targets_are_refused() -> None:
    model, labels = small(textures=0), targets()
    heads = model.forward_heads(support.image(2, 3, 64, 96))
    message = "UPP has no head for texture; this network has scene, object, part, material"
    with pytest.raises(InputError, match=message):
        model.unified_loss(heads, labels)
    with pytest.raises(InputError, match="UPP needs the target 'object' beside 'part'"):
        model.unified_loss(heads, {"part": labels["part"]})

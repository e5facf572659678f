"""What every network computes; a new file below ``models/`` is covered without a change here.

Everything runs at the entry's ``small`` settings on small images, with weights that no random
generator decides.
"""

from __future__ import annotations

import json

import pytest
import torch

from semseg.encoders.attention import DropPath
from semseg.models import create_model, list_models
from semseg.models.base import Entry, SegmentationModel
from tests.models import support
from tests.models.conftest import Build
from tests.models.kinds import kind_of
from tests.models.support import images_for


def test_output_is_finite_logits_at_image_size(build: Build) -> None:
    model = build()
    images = images_for(model)
    kept, state = images.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    with torch.inference_mode():
        logits = model(images)
    assert logits.shape == kind_of(model).shape_of_scores(images, model.config.num_classes)
    assert logits.dtype == images.dtype
    assert logits.isfinite().all()
    assert kind_of(model).same(images, kept), "forward changed its input"
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), (
        "prediction changed the network"
    )


def test_odd_and_least_sizes_work(build: Build) -> None:
    model = build()
    for images in kind_of(model).odd_and_least(model):
        with torch.inference_mode():
            logits = model(images)
        assert logits.shape == kind_of(model).shape_of_scores(images, model.config.num_classes)
        assert logits.isfinite().all()


def test_padding_is_cut_off_again(build: Build) -> None:
    model = build()
    if type(model).pad is not SegmentationModel.pad:
        pytest.skip("it pads in its paper's way, which its own tests hold")
    images = images_for(model, height=67, width=91)
    height, width = images.shape[-2:]
    with torch.inference_mode():
        want = model(model.pad(images))[..., :height, :width]
        torch.testing.assert_close(model(images), want)


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_works(build: Build, channels: int) -> None:
    model = build(in_channels=channels)
    images = images_for(model)
    with torch.inference_mode():
        logits = model(images)
    assert logits.shape == kind_of(model).shape_of_scores(images, model.config.num_classes)


def test_images_of_a_batch_do_not_meet(build: Build) -> None:
    model = build().double()
    images = images_for(model, batch=2).double()
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(image) for image in kind_of(model).singly(images)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6 * together.std().item())


def test_matches_the_recorded_output(
    name: str, entry: Entry, build: Build, request: pytest.FixtureRequest
) -> None:
    path = support.EXPECTED / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    keyword = request.config.getoption("keyword")
    other = keyword in list_models() and keyword != name  # `-k enet` selects fc_densenet56 too
    if request.config.getoption("--accept") and not other:
        assert record is None or record["origin"] == support.OURS, (
            f"{path} holds the numbers of {record and record['origin']}, "
            "which --accept does not replace; delete the file if that reference is gone"
        )
        settings = {"num_classes": 5} | dict(entry.small)
        size = kind_of(build()).recorded_size(build())
        images = kind_of(build()).of_size(*size)
        support.write_expected(
            name,
            origin=support.OURS,
            settings=settings,
            size=size,
            outputs=support.outputs(build(), images),
        )
        return
    assert record is not None, (
        f"no recorded output of {name}; look at what it computes, then run "
        f"`make accept MODEL={name}`"
    )
    assert record["outputs"]["eval"].keys() >= {"logits"}
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in record["settings"].items()}
    model = support.fill(create_model(name, **settings))
    got = support.outputs(model, kind_of(model).of_size(*record["size"]))
    for mode, heads in record["outputs"].items():
        for head, described in heads.items():
            support.assert_described(got[mode][head], described, f"{head} in {mode} mode")


def test_heads_do_not_depend_on_the_mode(build: Build) -> None:
    model = build()
    images = images_for(model, batch=2)
    with torch.no_grad():
        keys = list(model.eval().forward_heads(model.pad(images)))
        assert list(model.train().forward_heads(model.pad(images))) == keys
    assert set(keys) >= {"logits", *model.aux_weights}


@pytest.mark.parametrize("classes", [5, 1])
def test_every_parameter_gets_a_gradient_from_the_networks_loss(build: Build, classes: int) -> None:
    model = build(num_classes=classes).train()
    for part in model.modules():
        if isinstance(part, DropPath):  # a branch that chance leaves out has no gradient
            part.drop_prob = 0
    images = images_for(model, batch=2, height=61)  # not a multiple: the loss crops the padding
    heads = model.forward_heads(model.pad(images))
    assert heads["logits"].shape[1] == classes
    terms = model.loss(heads, support.target_for(images, classes, model), support.criterion)
    assert all(term.dim() == 0 and term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    wrong = [k for k, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
    assert not wrong, "no gradient, or not a finite one"
    # one-dimensional ones may be cancelled exactly (a bias before a normalisation), and where K = 1
    # is a width, one ReLU may block everything
    dead = [k for k, p in trained.items() if p.dim() > 1 and not p.grad.any()]
    assert classes == 1 or not dead, "gradient zero everywhere"


def test_parameter_groups_hold_each_parameter_once(build: Build) -> None:
    model = build()
    groups = model.parameter_groups()
    assert set(groups) == {"encoder", "head"}
    held = [id(p) for group in groups.values() for p in group]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert groups["head"], "the head is what is trained from scratch"
    assert model.no_weight_decay() <= dict(model.named_parameters()).keys()

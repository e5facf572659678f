"""The loss that enlarges logits itself is the loss of logits that were enlarged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semseg.core.criterion import Enlarging
from semseg.core.labels import LabelMap
from semseg.kernels import cross_entropy as kernel
from semseg.losses import LossTerm, build_criterion
from semseg.models import create_model
from semseg.models.base import MODELS, SegmentationModel
from tests.models.support import fill

LABELS = LabelMap.from_names(["a", "b", "c", "d"])
SMOOTH = {"class_weights": [1.0, 2.0, 0.5, 3.0], "label_smoothing": 0.1}


def small(name: str, classes: int = 4) -> SegmentationModel:
    model = create_model(
        name, **(dict(MODELS[name].small) | {"num_classes": classes, "in_channels": 3})
    )
    fill(model)
    return model


def batch(classes: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    target = torch.randint(0, max(2, classes), (2, 67, 93))
    target[:, :9] = 255
    return torch.randn(2, 3, 67, 93), target


def sizes_seen(
    name: str, classes: int, terms: list[LossTerm]
) -> tuple[set[int], dict[str, Tensor]]:
    """Heights of logits that the losses got, and their values."""
    model, (images, target) = small(name, classes), batch(classes)
    labels = LABELS if classes > 1 else LabelMap.from_names(["a", "b"])
    criterion = build_criterion(terms, labels)
    seen: set[int] = set()
    for loss in criterion.losses:
        loss.register_forward_pre_hook(lambda _, args: seen.add(args[0].shape[-2]))
    return seen, model.loss(model.forward_heads(model.pad(images)), target, criterion)


@pytest.mark.parametrize("name", ["deeplab_v3_plus", "gcn_resnet50", "pspnet_resnet50", "fcn"])
@pytest.mark.parametrize("settings", [{}, SMOOTH], ids=["plain", "weights and smoothing"])
def test_terms_and_gradients_are_the_same(
    name: str, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "FEW", 0)
    model, (images, target) = small(name), batch()
    criterion = build_criterion([LossTerm(name="cross_entropy", settings=settings)], LABELS)
    results = []
    for chosen in (criterion, lambda logits, target: criterion(logits, target)):
        model.zero_grad()
        heads = model.forward_heads(model.pad(images))
        terms = model.loss(heads, target, chosen)
        sum(terms.values()).backward()
        grads = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
        results.append((terms, grads))
    (ours, our_grads), (plain, plain_grads) = results
    assert ours.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=0)
    for key, grad in plain_grads.items():
        away = float((our_grads[key] - grad).abs().max())
        assert away <= 1e-5 * max(1e-2, float(grad.abs().max())), key


def test_logits_are_not_enlarged_for_it() -> None:
    seen, _ = sizes_seen("deeplab_v3_plus", 4, [LossTerm(name="cross_entropy")])
    assert seen == set()


@pytest.mark.parametrize(
    ("name", "classes", "terms"),
    [
        ("deeplab_v3_plus", 4, ["cross_entropy", "dice"]),  # dice takes them at full size
        ("deeplab_v3_plus", 1, ["cross_entropy"]),  # a sigmoid channel
        ("fcn_8s_vgg16", 4, ["cross_entropy"]),  # a learned deconvolution
        ("pspnet_resnet50", 4, ["cross_entropy"]),  # enlarges otherwise
        ("unet", 4, ["cross_entropy"]),  # nothing to enlarge
    ],
)
def test_where_they_are(name: str, classes: int, terms: list[str]) -> None:
    seen, _ = sizes_seen(name, classes, [LossTerm(name=term) for term in terms])
    assert seen == {67}


def test_which_criteria_enlarge() -> None:
    one, two = LossTerm(name="cross_entropy"), LossTerm(name="cross_entropy", weight=3)
    assert isinstance(build_criterion([one, two], LABELS), Enlarging)
    assert not isinstance(build_criterion([one, LossTerm(name="dice")], LABELS), Enlarging)


def test_weights_of_terms_count() -> None:
    logits, target = torch.randn(1, 4, 5, 5), torch.randint(0, 4, (1, 20, 20))
    terms = [LossTerm(name="cross_entropy", weight=w) for w in (2, 3)]
    several, one = (
        build_criterion(terms, LABELS),
        build_criterion([LossTerm(name="cross_entropy")], LABELS),
    )
    assert isinstance(several, Enlarging)
    assert isinstance(one, Enlarging)
    wanted = 5 * one.enlarged(logits, target, (20, 20), False)
    torch.testing.assert_close(several.enlarged(logits, target, (20, 20), False), wanted)

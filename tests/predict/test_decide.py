"""Classes from a network's own stride are those of its full-size logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semseg.core.flush import FlushingThread
from semseg.data import build_dataset
from semseg.kernels import argmax
from semseg.metrics import ConfusionMatrix
from semseg.models import create_model
from semseg.models.base import MODELS, SegmentationModel
from semseg.predict import Predictor
from semseg.predict.decide import decide
from semseg.train import evaluate
from tests.models.support import fill
from tests.predict.conftest import RULE


def small(name: str, **settings) -> SegmentationModel:
    model = create_model(name, **(dict(MODELS[name].small) | {"in_channels": 3} | settings))
    fill(model)
    return model.eval()


@pytest.mark.parametrize(
    "name",
    ["deeplab_v3_plus", "gcn_resnet50", "fcn_8s_vgg16", "pspnet_resnet50", "unet", "deconvnet"],
)
@pytest.mark.parametrize("classes", [1, 5])
@torch.inference_mode()
def test_ids_are_those_of_the_full_size_logits(
    name: str, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(argmax, "SMALL", 0)
    model = small(name, num_classes=classes)
    images = torch.randn(2, 3, 67, 93)
    full = model(images)
    ids = decide(model, images).ids
    assert ids.shape == (2, 67, 93)
    assert ids.dtype == torch.int64
    if classes == 1:
        assert torch.equal(ids, (full[:, 0] > 0).long())
    else:
        chosen = full.gather(1, ids[:, None])[:, 0]
        assert (full.amax(1) - chosen).max() <= 1e-5 * float(full.abs().max())


@torch.inference_mode()
def test_confidence_changes_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argmax, "SMALL", 0)
    model, images = small("deeplab_v3_plus", num_classes=7), torch.randn(1, 3, 70, 90)
    sure = decide(model, images, True)
    assert torch.equal(sure.ids, decide(model, images).ids)
    assert sure.confidence is not None
    wanted = model(images).softmax(1).amax(1)
    torch.testing.assert_close(sure.confidence, wanted, rtol=0, atol=1e-5)


class TestWhatIsAsked:
    """Logits at the network's own stride where that is the same, else its forward."""

    def stride(self, model: nn.Module) -> int:
        return 64 // decide(model, torch.randn(1, 3, 64, 64)).logits.shape[-1]

    @torch.inference_mode()
    def test_own_stride(self) -> None:
        assert self.stride(small("deeplab_v3_plus")) == 4

    @pytest.mark.parametrize("name", ["fcn_8s_vgg16", "pspnet_resnet50", "deconvnet"])
    @torch.inference_mode()
    def test_networks_that_enlarge_otherwise(self, name: str) -> None:
        assert self.stride(small(name)) == 1

    @torch.inference_mode()
    def test_a_forward_that_was_replaced_is_used(self) -> None:
        model = small("deeplab_v3_plus")
        seen: list[tuple[int, ...]] = []

        def forward(images: Tensor) -> Tensor:
            seen.append(tuple(images.shape))
            return images

        model.forward = forward
        decide(model, torch.randn(1, 3, 64, 64))
        assert seen == [(1, 3, 64, 64)]

    def test_any_module(self) -> None:
        scores = torch.tensor([[[[1.0, 2.0]], [[3.0, 2.0]]]])
        assert decide(nn.Identity(), scores).ids.tolist() == [[[1, 0]]]


class TestBroken:
    def test_full_size_logits_may_be_infinite(self) -> None:
        scores = torch.tensor([[[[1.0, 2.0]], [[-torch.inf, 2.0]]]])
        assert not decide(nn.Identity(), scores).broken
        scores[0, 1, 0, 1] = torch.nan
        assert decide(nn.Identity(), scores).broken

    @pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
    @torch.inference_mode()
    def test_enlarged_ones_may_not(self, value: float) -> None:
        model = small("deeplab_v3_plus")
        assert not decide(model, torch.randn(1, 3, 64, 64)).broken
        own = model.forward_heads

        def heads(images: Tensor) -> dict[str, Tensor]:
            logits = own(images)["logits"]
            logits[0, 1, 3, 3] = value
            return {"logits": logits}

        model.forward_heads = heads
        assert decide(model, torch.randn(1, 3, 64, 64)).broken


@pytest.mark.parametrize("confidence", [False, True])
def test_masks_score_exactly_what_validation_says(
    confidence: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(argmax, "SMALL", 0)
    data = build_dataset("synthetic", "val", None, size=(75, 101), length=4)
    model = small("deeplab_v3_plus", num_classes=data.labels.num_classes)
    wanted = FlushingThread().run(lambda: evaluate(model, data, RULE))
    predictor = Predictor(model, "cpu", labels=data.labels, preprocessing=RULE)
    matrix = ConfusionMatrix(data.labels.num_classes)
    for sample in (data[i] for i in range(len(data))):
        mask = predictor(sample.image, confidence=confidence).mask
        matrix.update(torch.from_numpy(mask), sample.mask)
    assert torch.equal(matrix.counts, wanted.counts)
    assert len(set(matrix.counts.sum(0).tolist())) > 2  # several classes are seen

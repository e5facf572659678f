"""Monte Carlo dropout against the same samples kept in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.base import ModelConfig, SegmentationModel
from semseg.predict.mc_dropout import dropout_alone, entropy, mc_predict, probabilities


class Tiny(SegmentationModel):
    """A convolution, a normalisation, dropout and a classifier."""

    def __init__(self, num_classes: int = 3, p: float = 0.5) -> None:
        super().__init__(ModelConfig(num_classes=num_classes))
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout2d(p),
            nn.Conv2d(8, num_classes, 1),
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layers(images)}


def setting(classes: int = 3) -> tuple[Tiny, Tensor]:
    torch.manual_seed(0)
    return Tiny(classes), torch.randn(2, 3, 5, 6)


@pytest.mark.parametrize("classes", [3, 1])
def test_it_is_what_the_kept_samples_say(classes: int) -> None:
    model, images = setting(classes)
    torch.manual_seed(7)
    got = mc_predict(model, images, samples=9)
    torch.manual_seed(7)
    with dropout_alone(model), torch.no_grad():
        kept = torch.stack([probabilities(model(images)) for _ in range(9)])
    assert kept.std(0).max() > 0.05, "samples that differ"
    torch.testing.assert_close(got.mean, kept.mean(0))
    torch.testing.assert_close(got.variance, kept.var(0, unbiased=False))
    torch.testing.assert_close(got.entropy, entropy(kept.mean(0)))
    expected = torch.stack([entropy(p) for p in kept]).mean(0)
    torch.testing.assert_close(got.mutual_information, got.entropy - expected, atol=1e-6, rtol=1e-4)
    assert got.mean.shape == (2, classes, 5, 6)
    assert got.entropy.shape == got.mutual_information.shape == (2, 5, 6)


def test_entropy_of_known_distributions() -> None:
    even = torch.full((1, 4, 1, 1), 0.25)
    sure = torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1)
    assert entropy(even).item() == pytest.approx(1.3863, abs=1e-4)
    assert entropy(sure).item() == 0
    assert entropy(torch.full((1, 1, 1, 1), 0.5)).item() == pytest.approx(0.6931, abs=1e-4)


def test_samples_that_agree_leave_no_variance() -> None:
    model, images = setting()
    nn.init.zeros_(model.layers[4].weight)
    got = mc_predict(model, images, samples=3)
    assert not got.variance.any()
    assert not got.mutual_information.any()
    assert got.entropy.any()


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_statistics_stay_as_they_were(training: bool) -> None:
    model, images = setting()
    model.train(training)
    model.layers[1].eval()  # a frozen normalisation stays frozen
    before = {k: v.clone() for k, v in model.state_dict().items()}
    mc_predict(model, images, samples=2)
    assert model.training is training
    assert model.layers[3].training is training
    assert not model.layers[1].training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_modes_come_back_after_an_error() -> None:
    model, images = setting()
    model.eval()
    with pytest.raises(InputError, match="takes 3 channels"):
        mc_predict(model, images[:, :2], samples=2)
    assert not model.layers[3].training


def test_only_dropout_is_on() -> None:
    model, _ = setting()
    with dropout_alone(model):
        assert [m.training for m in model.layers] == [False, False, False, True, False]


def test_what_cannot_be_sampled_is_refused() -> None:
    images = torch.randn(1, 3, 16, 16)
    with pytest.raises(InputError, match="SegNetBasic has no dropout, so all its samples"):
        mc_predict(create_model("segnet_basic", width=4), images, samples=2)
    with pytest.raises(InputError, match="Tiny has no dropout"):
        mc_predict(Tiny(p=0.0), images, samples=2)
    with pytest.raises(InputError, match="at least 2 samples, got 1"):
        mc_predict(Tiny(), images, samples=1)


def test_bayesian_segnet_is_less_sure_than_its_average() -> None:
    torch.manual_seed(0)
    model = create_model("bayesian_segnet", width=4, num_classes=3)
    got = mc_predict(model, torch.rand(1, 3, 64, 64), samples=8)
    torch.testing.assert_close(got.mean.sum(1), torch.ones(1, 64, 64))
    assert (got.variance.mean(1) > 0).any()
    assert (got.mutual_information <= got.entropy + 1e-6).all()

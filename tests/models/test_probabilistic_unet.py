"""Probabilistic U-Net: three ways down, Gaussians, the lower bound, and samples that differ."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from semseg.core.checks import InputError, SettingError
from semseg.models import create_model
from semseg.models.uncertainty.probabilistic_unet import Down, Gaussian, ProbabilisticUNet
from tests.models import support

SMALL = {"num_classes": 5, "widths": (4, 6, 8), "latent": 3}


def small(**settings: object) -> ProbabilisticUNet:
    model = support.fill(create_model("probabilistic_unet", **(SMALL | settings)))
    assert isinstance(model, ProbabilisticUNet)
    return model


def test_counts_of_the_ports_setting_and_of_the_parts() -> None:
    with torch.device("meta"):
        lidc = create_model(
            "probabilistic_unet",
            widths=(32, 64, 128, 192),
            latent=2,
            in_channels=1,
            num_classes=1,
        )
        model = create_model("probabilistic_unet")
    assert sum(p.numel() for p in lidc.parameters()) == 4_996_233
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert counts["posterior"] - counts["prior"] == 24 * 32 * 9
    assert counts["combine"] == 38 * 32 + 32 + 2 * (32 * 32 + 32)
    assert counts["classifier"] == 32 * 24 + 24


def test_sizes_of_the_parts_at_any_size() -> None:
    model = small()
    images = support.image(2, 3, 13, 18)
    with torch.no_grad():
        features = model.unet.down(images)
        heads = model.forward_heads(images)
    assert [tuple(x.shape[1:]) for x in features] == [(4, 13, 18), (6, 7, 9), (8, 4, 5)]
    shapes = {key: tuple(value.shape) for key, value in heads.items()}
    assert shapes == {
        "logits": (2, 5, 13, 18),
        "features": (2, 4, 13, 18),
        "prior": (2, 2, 3),
        "images": (2, 3, 13, 18),
    }


def test_borders_of_odd_sizes_are_means_of_what_is_there() -> None:
    down = Down(1, (1, 1), 1)
    for conv in down.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    with torch.no_grad():
        assert down(x)[1].squeeze().tolist() == [[2, 3.5], [6.5, 8]]


# ---- distributions -----------------------------------------------------------------------------


def test_divergence_is_pytorchs() -> None:
    one = Gaussian.of(support.image(4, 2, 1, 3)[:, :, 0])
    other = Gaussian(one.log_sigma, one.mean)
    theirs = [Independent(Normal(g.mean, g.log_sigma.exp()), 1) for g in (one, other)]
    torch.testing.assert_close(one.divergence(other), kl_divergence(*theirs))
    assert not one.divergence(one).any()


def test_draws_have_their_mean_and_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, sigma = torch.tensor([-1.0, 4.0]), torch.tensor([0.5, 2.0])
    drawn = Gaussian(mean.expand(20000, 2), sigma.log().expand(20000, 2)).sample(generator)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), sigma, atol=0, rtol=0.03)


# ---- the loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [5, 1])
def test_the_loss_is_the_negative_lower_bound(classes: int) -> None:
    model = small(num_classes=classes, beta=3.0).double()
    images = support.image(2, 3, 8, 12).double()
    target = support.target_for(images, max(classes, 2))
    seen = []
    model.posterior.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def summed(logits: Tensor, target: Tensor) -> Tensor:  # a mean over labelled pixels
        return (logits[:, 0].square() * (target != 255)).sum() / (target != 255).sum()

    with torch.no_grad():
        heads = model.forward_heads(images)
        torch.manual_seed(3)
        terms = model.loss(heads, target, summed)
        (given,) = seen
        means, log_sigmas = model.posterior(given).unbind(1)
        torch.manual_seed(3)
        vector = means + log_sigmas.exp() * torch.randn_like(means)
        logits = model.decode(heads["features"], vector)
        prior = Independent(Normal(heads["prior"][:, 0], heads["prior"][:, 1].exp()), 1)
        divergence = kl_divergence(Independent(Normal(means, log_sigmas.exp()), 1), prior)
    assert torch.equal(given[:, :3], images)
    index = 1 if classes == 1 else 3  # its mask is the first, or the fourth
    assert torch.equal(given[:, 3 if classes == 1 else 6], (target == index).double() - 0.5)
    assert (given[:, 3:, 0] == -0.5).all()  # the first row is ignored
    squares = (logits[:, 0].square() * (target != 255)).sum() / 2  # per image
    torch.testing.assert_close(terms["reconstruction"], squares)
    torch.testing.assert_close(terms["divergence"], 3 * divergence.mean())
    assert terms.keys() == {"reconstruction", "divergence"}


def test_the_prior_learns_from_the_divergence_alone() -> None:
    model = small().train()
    images = support.image(2, 3, 16, 16)
    terms = model.loss(
        model.forward_heads(images), support.target_for(images, 5), support.criterion
    )
    weight = model.prior.out.weight
    assert torch.autograd.grad(
        terms["reconstruction"], weight, retain_graph=True, allow_unused=True
    ) == (None,)
    (gradient,) = torch.autograd.grad(terms["divergence"], weight)
    assert gradient.any()


# ---- samples -----------------------------------------------------------------------------------


def test_samples_are_decoded_draws_of_the_prior() -> None:
    model = small()
    images = support.image(2, 3, 9, 12)
    calls = []
    model.unet.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        drawn = model.sample(images, 3, torch.Generator().manual_seed(5))
        again = model.sample(images, 3, torch.Generator().manual_seed(5))
        assert len(calls) == 2  # once for all samples
        heads = model.forward_heads(images)
        generator = torch.Generator().manual_seed(5)
        for logits in drawn:
            noise = torch.empty(2, 3).normal_(generator=generator)
            vector = heads["prior"][:, 0] + heads["prior"][:, 1].exp() * noise
            torch.testing.assert_close(logits, model.decode(heads["features"], vector))
        mean = model.decode(heads["features"], heads["prior"][:, 0])
    assert drawn.shape == (3, 2, 5, 9, 12)
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(heads["logits"], mean)
    assert torch.equal(model(images), mean)


def test_a_sample_differs_by_one_vector_for_all_pixels() -> None:
    model = small()
    features = torch.ones(1, 4, 5, 6)
    with torch.no_grad():
        logits = model.decode(features, support.image(1, 1, 1, 3)[:, 0, 0])
    torch.testing.assert_close(logits, logits[..., :1, :1].expand_as(logits))


# ---- values and refusals -----------------------------------------------------------------------


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = create_model("probabilistic_unet", widths=(32, 64), num_classes=64)
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            std = math.sqrt(2 / conv.weight[0].numel())
            assert conv.weight.std().item() == pytest.approx(std, rel=0.1)
            assert 0.001 < conv.bias.abs().max() <= 0.002


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, r"at least 1, got \(\), 3, 6 and 3"),
        ({"widths": (4, 0)}, r"at least 1, got \(4, 0\), 3, 6 and 3"),
        ({"latent": 0}, "widths, convs, latent and combined of at least 1"),
        ({"beta": -1.0}, r"ProbabilisticUNet takes a beta of at least 0, got -1\.0"),
    ],
)
def test_settings_it_cannot_have(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model("probabilistic_unet", **settings)


def test_samples_it_cannot_draw() -> None:
    model = small()
    with pytest.raises(InputError, match="draws at least 1 sample, got a count of 0"):
        model.sample(support.image(1, 3, 8, 8), 0)
    with pytest.raises(SettingError, match="ProbabilisticUNet takes normalised float images"):
        model.sample(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 1)

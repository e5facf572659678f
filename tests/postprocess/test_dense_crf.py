from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from semseg.core.checks import SemsegError
from semseg.kernels.mean_field import near_kernel
from semseg.postprocess import DenseCRF


def scene(height: int = 24, width: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """Two areas of different colour, their labels, and logits whose border is off by 3 pixels."""
    labels = (torch.arange(width) >= width // 2).long().expand(height, -1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-8, 9, (3, height, width), generator=generator)
    image = (60 + 120 * labels + noise).to(torch.uint8)
    guess = labels.roll(3, 1)
    guess[:, :3] = 0
    logits = torch.stack([1.0 - guess, guess]) * 2
    return image, labels, logits + 0.5 * torch.randn(2, height, width, generator=generator)


class TestDenseCRF:
    def test_moves_borders_to_edges_of_the_image(self) -> None:
        image, labels, logits = scene()
        before = (logits.argmax(0) == labels).float().mean()
        refined = DenseCRF(sxy=20, srgb=13, compat=10)(image, logits)
        assert before < 0.9
        assert (refined.argmax(0) == labels).float().mean() == 1

    def test_each_term_alone(self) -> None:
        image, labels, logits = scene()
        neither = DenseCRF(compat=0, smooth_compat=0)(image, logits)
        torch.testing.assert_close(neither, logits.softmax(0))
        smooth = DenseCRF(compat=0)(image, logits).argmax(0)
        assert (smooth != labels).any()  # it sees no edges
        # yet it takes out noise: neighbours differ less often
        assert smooth.diff(dim=0).count_nonzero() < logits.argmax(0).diff(dim=0).count_nonzero()

    def test_a_batch_is_its_images(self) -> None:
        image, _, logits = scene()
        images, batch = torch.stack([image, image.flip(1)]), torch.stack([logits, -logits])
        crf = DenseCRF(sxy=20, iterations=3)
        together = crf(images, batch)
        for k in range(2):
            torch.testing.assert_close(together[k], crf(images[k], batch[k]))

    def test_probabilities(self) -> None:
        image, _, logits = scene()
        crf = DenseCRF(sxy=20, iterations=3)
        given = crf(image, logits.softmax(0), given="probabilities")
        torch.testing.assert_close(given, crf(image, logits), rtol=1e-3, atol=1e-4)
        certain = logits.argmax(0)[None] == torch.arange(2)[:, None, None]
        assert crf(image, certain.float(), given="probabilities").isfinite().all()

    @pytest.mark.parametrize("channels", [1, 4])
    def test_channels_and_classes(self, channels: int) -> None:
        image = torch.rand(channels, 9, 11) * 255
        crf = DenseCRF(srgb=[20.0] * channels, iterations=2)
        q = crf(image, torch.randn(6, 9, 11))
        torch.testing.assert_close(q.sum(0), torch.ones(9, 11))

    def test_x_and_y_are_not_swapped(self) -> None:
        image, logits = torch.zeros(1, 20, 40), torch.zeros(2, 20, 40)
        logits[1, 10, 20] = 8
        crf = DenseCRF(compat=0, smooth_sxy=(6, 0.5), smooth_compat=5, iterations=1)
        q = crf(image, logits)[1]
        assert q[10, 26] > q[10, 20 - 19] + 1e-4
        assert q[16, 20] == pytest.approx(0.5, abs=1e-4)

    def test_mix_is_a_full_gaussian(self) -> None:
        image, _, logits = scene()
        same = DenseCRF(sxy=20, mix=torch.eye(5), iterations=2)(image, logits)
        torch.testing.assert_close(same, DenseCRF(sxy=20, iterations=2)(image, logits))
        widths = torch.diag(torch.tensor([0.5, 0.5, 2.0, 2.0, 2.0]))
        mixed = DenseCRF(sxy=20, srgb=26, mix=widths, iterations=2)(image, logits)
        other = DenseCRF(sxy=40, srgb=13, iterations=2)(image, logits)
        torch.testing.assert_close(mixed, other, rtol=1e-4, atol=1e-5)

    def test_half_precision_and_float64(self) -> None:
        image, _, logits = scene()
        crf = DenseCRF(sxy=20, iterations=2)
        wanted = crf(image, logits)
        for dtype, exact in ((torch.float16, 5e-3), (torch.float64, 1e-4)):
            got = crf(image, logits.to(dtype))
            torch.testing.assert_close(got.float(), wanted, rtol=0, atol=exact)

    def test_gradient_reaches_the_logits(self) -> None:
        image, _, logits = scene()
        logits.requires_grad_()
        DenseCRF(sxy=20, iterations=3)(image, logits)[1].log().sum().backward()
        assert logits.grad is not None
        assert logits.grad.abs().amax(0).min() > 0

    def test_divergence_is_told_each_round(self) -> None:
        image, _, logits = scene()
        seen: list[float] = []
        DenseCRF(sxy=20, iterations=4, compat=2)(image, logits, watch=seen.append)
        assert len(seen) == 4
        assert seen[-1] < seen[0]


IMAGE, SCORES = torch.zeros(3, 4, 5), torch.zeros(2, 4, 5)
NAN = SCORES.clone()
NAN[0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("settings", "image", "scores", "message"),
    [
        ({"sxy": -3}, IMAGE, SCORES, "sxy is one positive number, or 2, got -3; widths are"),
        ({"sxy": (1, 2, 3)}, IMAGE, SCORES, "sxy is one positive number, or 2, got (1, 2, 3);"),
        (
            {"srgb": (1, 0, 1)},
            IMAGE,
            SCORES,
            "srgb is one positive number, or one for each channel",
        ),
        ({"smooth_sxy": 0}, IMAGE, SCORES, "smooth_sxy is one positive number, or 2, got 0;"),
        ({"srgb": (1, 2)}, IMAGE, SCORES, "srgb has 2 widths, the image 3 channels; give one"),
        ({"iterations": -1}, IMAGE, SCORES, "iterations is 0 or more, got -1; 10 is common"),
        ({"compat": [1.0, 2, 3]}, IMAGE, SCORES, "compat has shape (3,), the scores 2 classes;"),
        ({"smooth_compat": float("nan")}, IMAGE, SCORES, "smooth_compat must be finite, got NaN"),
        (
            {"compat": torch.ones(2, 3)},
            IMAGE,
            SCORES,
            "compat is one number, K or K x K, got shape",
        ),
        (
            {"mix": torch.eye(4)},
            IMAGE,
            SCORES,
            "mix is a matrix of x, y and 3 channels, 5 x 5, got",
        ),
        ({"normalization": "both"}, IMAGE, SCORES, "normalization is 'none', 'before', 'after' or"),
        ({}, IMAGE[:, :3], SCORES, "the image has 3x5 pixels, the scores 4x5; enlarge the scores"),
        (
            {},
            IMAGE[0],
            SCORES,
            "DenseCRF takes an image (C, H, W) and scores (K, H, W), or a batch",
        ),
        (
            {},
            IMAGE,
            SCORES[:1],
            "DenseCRF needs at least 2 classes, got 1; for one sigmoid channel",
        ),
        ({}, IMAGE, NAN, "the scores hold NaN or infinity; DenseCRF needs finite ones"),
        (
            {},
            IMAGE / 0,
            SCORES,
            "features of the lattice must be finite; they hold NaN or infinity",
        ),
    ],
)
def test_refusals(settings: dict[str, Any], image: Tensor, scores: Tensor, message: str) -> None:
    with pytest.raises(SemsegError, match=re.escape(message)) as error:
        DenseCRF(**settings)(image, scores)
    assert "\n" not in str(error.value)


def test_refusals_of_what_is_given() -> None:
    with pytest.raises(SemsegError, match=r"^given is 'logits' or 'probabilities', got 'labels'$"):
        DenseCRF()(IMAGE, SCORES, given="labels")  # type: ignore[arg-type]
    with pytest.raises(SemsegError, match=r"^probabilities are 0 or more, got -1; give given="):
        DenseCRF()(IMAGE, SCORES - 1, given="probabilities")


def test_the_filter_over_places_is_kept_for_images_of_one_size() -> None:
    crf = DenseCRF(iterations=1)
    image, logits = torch.rand(3, 12, 15) * 255, torch.randn(4, 12, 15)
    near_kernel.cache_clear()
    with torch.inference_mode():
        first = crf(image, logits)
    again = crf(image, logits.requires_grad_())
    again.square().sum().backward()  # nothing of inference mode is left in the filter
    assert logits.grad is not None
    torch.testing.assert_close(again.detach(), first, rtol=1e-5, atol=1e-6)
    assert near_kernel.cache_info()[:2] == (1, 1)
    turned = crf(image.transpose(1, 2), logits.detach().transpose(1, 2))
    assert near_kernel.cache_info()[:2] == (1, 2), "15 x 12 is another filter"
    torch.testing.assert_close(turned.transpose(1, 2), first, rtol=0.1, atol=0.05)
    DenseCRF(iterations=1, smooth_sxy=5)(image, logits.detach())
    assert near_kernel.cache_info().misses == 3

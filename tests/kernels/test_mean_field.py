from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.mean_field import Kernel, Normalization, charged, divergence, mean_field
from semseg.kernels.permutohedral import has_numba

needs_numba = pytest.mark.skipif(not has_numba(), reason="the extra crf is not installed")
NORMALIZATIONS: list[Normalization] = ["none", "before", "after", "symmetric"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def full(classes: int) -> Tensor:
    return 2 * draw(classes, classes, seed=9) - 3 * torch.eye(classes)


class TestKernel:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_normalisations(self, dtype: torch.dtype) -> None:
        features, x = (4 * draw(200, 2)).to(dtype), draw(200, 3, seed=1).to(dtype)
        raw = Kernel.of(features, "none")
        sums = raw.filter(torch.ones(200, 1, dtype=dtype))
        wanted = {
            "before": raw.filter(x / sums),
            "after": raw.filter(x) / sums,
            "symmetric": raw.filter(x / sums.sqrt()) / sums.sqrt(),
        }
        for name, values in wanted.items():
            torch.testing.assert_close(Kernel.of(features, name).filter(x), values)

    def test_after_keeps_constants_and_before_keeps_sums(self) -> None:
        features, x = 4 * draw(200, 5).double(), draw(200, 3, seed=1).double()
        ones = torch.ones_like(x)
        torch.testing.assert_close(Kernel.of(features, "after").filter(ones), ones)
        # the lattice's blur has borders, so its adjoint is the filter only nearly
        kept = Kernel.of(features, "before").filter(x).sum(0)
        torch.testing.assert_close(kept, x.sum(0), rtol=0.02, atol=0)

    def test_unknown(self) -> None:
        with pytest.raises(InputError) as error:
            Kernel.of(torch.ones(3, 2), "both")  # type: ignore[arg-type]
        assert str(error.value) == (
            "normalization is 'none', 'before', 'after' or 'symmetric', got 'both'"
        )


class TestMeanField:
    def test_no_kernel_or_no_round_is_softmax(self) -> None:
        logits = draw(6, 3)
        kernel = Kernel.of(draw(6, 2))
        torch.testing.assert_close(mean_field(logits, [], [], 4), logits.softmax(1))
        torch.testing.assert_close(mean_field(logits, [kernel], [3.0], 0), logits.softmax(1))

    def test_two_pixels_by_hand(self) -> None:
        logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double()
        kernel = Kernel.of(torch.zeros(2, 1).double(), "after")  # at one place: the mean of both
        q = logits.softmax(1)
        for _ in range(3):
            q = (logits + 1.5 * q.mean(0)).softmax(1)
        torch.testing.assert_close(mean_field(logits, [kernel], [1.5], 3), q)

    def test_penalties_say_the_same_three_ways(self) -> None:
        q = draw(8, 4).double()
        potts = charged(q, 2.0)
        torch.testing.assert_close(charged(q, torch.full((4,), -2.0)), potts)
        torch.testing.assert_close(charged(q, -2 * torch.eye(4)), potts)
        square = full(4).double()
        for label in range(4):
            torch.testing.assert_close(charged(q, square)[:, label], q @ square[label])

    def test_the_divergence_falls(self) -> None:
        seen: list[float] = []
        kernel = Kernel.of(5 * draw(300, 2).double())
        mean_field(3 * draw(300, 4).double(), [kernel], [1.0], 8, seen.append)
        assert len(seen) == 8
        assert all(later <= earlier + 1e-6 for earlier, later in pairwise(seen))
        assert seen[-1] < seen[0] - 0.02

    def test_divergence_of_one_pixel(self) -> None:
        q, logits = torch.tensor([[0.25, 0.75]]), torch.tensor([[1.0, 2.0]])
        messages = torch.tensor([[0.4, 0.8]])
        entropy = 0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log()
        wanted = entropy - (0.25 + 1.5) + (0.1 + 0.6) / 2
        assert divergence(q, logits, messages) == pytest.approx(float(wanted))

    def test_gradients(self) -> None:
        kernels = [Kernel.of(3 * draw(12, d, seed=d).double()) for d in (2, 5)]
        logits = draw(12, 3).double().requires_grad_()
        one, square = torch.tensor([-1.0, -2.0, -0.5]).double(), full(3).double()
        inputs = (logits, one.requires_grad_(), square.requires_grad_())

        def run(logits: Tensor, one: Tensor, square: Tensor) -> Tensor:
            return mean_field(logits, kernels, [one, square], 3)

        assert torch.autograd.gradcheck(run, inputs)


@needs_numba
class TestFused:
    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    @pytest.mark.parametrize("classes", [2, 8, 19])
    def test_same_as_plain(self, normalization: Normalization, classes: int) -> None:
        # pixels of several bands
        near, far = 20 * draw(9000, 2), 6 * draw(9000, 5)
        logits = 4 * draw(9000, classes, seed=2)
        penalties = [torch.linspace(-3, -1, classes), full(classes)]
        scale = 0.02 if normalization == "none" else 1.0
        penalties = [scale * p for p in penalties]
        fast, plain = (
            mean_field(logits, [Kernel.of(f, normalization, b) for f in (near, far)], penalties, 5)
            for b in ("numba", "torch")
        )
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=2e-6)
        torch.testing.assert_close(fast.sum(1), torch.ones(9000))

    def test_potts(self) -> None:
        features, logits = 20 * draw(5000, 2), 4 * draw(5000, 5, seed=2)
        fast, plain = (
            mean_field(logits, [Kernel.of(features, "symmetric", b)], [2.0], 5)
            for b in ("numba", "torch")
        )
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=2e-6)

    def test_very_confident_logits(self) -> None:
        features, logits = 20 * draw(5000, 2), 1e4 * draw(5000, 5, seed=2)
        fast, plain = (
            mean_field(logits, [Kernel.of(features, "symmetric", b)], [2.0], 3)
            for b in ("numba", "torch")
        )
        # beside 1e4 float32 holds a message to 1e-3 only
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-2)

    def test_input_is_left_alone(self) -> None:
        logits = 4 * draw(5000, 4)
        before = logits.clone()
        mean_field(logits, [Kernel.of(20 * draw(5000, 2))], [2.0], 2)
        assert torch.equal(logits, before)

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError, SettingError
from semseg.kernels import permutohedral
from semseg.kernels.permutohedral import Permutohedral, has_numba

needs_numba = pytest.mark.skipif(not has_numba(), reason="the extra crf is not installed")
BACKENDS = ["torch", pytest.param("numba", marks=needs_numba)]


def picture(height: int, width: int, noise: float, colours: bool, seed: int = 0) -> Tensor:
    """Features of every pixel: places 4 pixels to a width, and colours of a few widths."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y], -1).reshape(-1, 2).double() / 4
    if not colours:
        return places
    waves = torch.stack([(places[:, 0] / 2).sin(), (places[:, 1] / 2).cos(), places.sum(1).sin()])
    shades = 2 * waves.T + noise * torch.randn(len(places), 3, generator=generator).double()
    return torch.cat([places, shades], 1)


def dense(features: Tensor, values: Tensor) -> Tensor:
    """The sum over all pairs of pixels, in float64."""
    features = features.double()
    return (-torch.cdist(features, features).square() / 2).exp() @ values.double()


def normalised(lattice: Permutohedral, values: Tensor) -> Tensor:
    return lattice.filter(values) / lattice.filter(torch.ones_like(values[:, :1]))


def noise(count: int, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(count, channels, generator=generator).to(dtype)


class TestAgainstTheDenseSum:
    """Errors of an image filtered with every row normalised, as a share of its range.

    Measured: greatest 0.020, 0.043, 0.061; greatest mean of a channel 0.0031, 0.0042, 0.0051.
    """

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize(
        ("colours", "spread", "greatest", "mean"),
        [(False, 0.0, 0.025, 0.004), (True, 0.0, 0.055, 0.006), (True, 0.5, 0.075, 0.007)],
    )
    def test_error(self, backend, colours, spread, greatest, mean) -> None:
        features = picture(32, 40, spread, colours)
        steps = (features[:, :1] > 5).double() + (features[:, 1:2] > 3).double() / 2
        values = torch.cat([steps, noise(len(steps), 1).double()], 1)
        wanted = dense(features, values) / dense(features, torch.ones(len(values), 1))
        exact = features if backend == "torch" else features.float()
        got = normalised(Permutohedral(exact, backend), values)
        error = (got - wanted).abs() / (values.amax(0) - values.amin(0))
        assert error.max() < greatest
        assert error.mean(0).max() < mean

    def test_the_raw_sum_is_off_by_a_constant(self) -> None:
        for colours, least, most in ((False, 0.85, 0.9), (True, 0.45, 0.6)):
            features = picture(32, 40, 0.3, colours)
            ones = torch.ones(len(features), 1).double()
            ratio = Permutohedral(features).filter(ones) / dense(features, ones)
            assert least < ratio.median() < most

    def test_the_width_is_that_of_the_gaussian(self) -> None:
        # the second moment of an impulse's answer, over many places of the impulse in the simplex
        places = torch.linspace(-6, 6, 2401, dtype=torch.float64)[:, None]
        answer = Permutohedral(places).filter((places.abs() < 1e-9).double())[:, 0]
        spread = (answer * places[:, 0].square()).sum() / answer.sum()
        assert spread.sqrt() == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dims", [1, 2, 3, 5])
class TestFilter:
    def lattice(self, backend, dims: int, dtype: torch.dtype = torch.float32) -> Permutohedral:
        generator = torch.Generator().manual_seed(dims)
        return Permutohedral((torch.rand(900, dims, generator=generator) * 4).to(dtype), backend)

    def test_constants_are_kept(self, backend, dims: int) -> None:
        lattice = self.lattice(backend, dims)
        filtered = normalised(lattice, torch.full((900, 2), 3.0))
        torch.testing.assert_close(filtered, torch.full((900, 2), 3.0), rtol=1e-5, atol=0)

    def test_reverse_is_the_adjoint(self, backend, dims: int) -> None:
        lattice = self.lattice(backend, dims)
        x, y = noise(900, 6).double().chunk(2, 1)
        ahead, back = lattice.filter(x), lattice.filter(y, reverse=True)
        one, other = (ahead * y).sum(), (x * back).sum()
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)

    def test_linear_and_no_mixing_of_channels(self, backend, dims: int) -> None:
        lattice, x = self.lattice(backend, dims), noise(900, 5)
        together = lattice.filter(x)
        for channel in range(5):
            alone = lattice.filter(2 * x[:, channel : channel + 1])
            torch.testing.assert_close(alone[:, 0], 2 * together[:, channel], rtol=1e-5, atol=1e-5)

    def test_order_of_pixels_does_not_matter(self, backend, dims: int) -> None:
        generator = torch.Generator().manual_seed(3)
        features = torch.rand(300, dims, generator=generator) * 4
        order, x = torch.randperm(300, generator=generator), noise(300)
        one = Permutohedral(features, backend).filter(x)[order]
        other = Permutohedral(features[order], backend).filter(x[order])
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_gradient(dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(20, dims, generator=generator).double() * 3
    lattice = Permutohedral(features)
    x = noise(20, 2, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lattice.filter, (x,))
    assert torch.autograd.gradcheck(lambda v: lattice.filter(v, reverse=True), (x,))


@needs_numba
class TestNumba:
    @pytest.mark.parametrize("dims", [1, 2, 3, 5])
    @pytest.mark.parametrize("channels", [1, 4, 21])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_same_as_torch(self, dims: int, channels: int, reverse: bool) -> None:
        # enough for several bands, and for tables that grow
        generator = torch.Generator().manual_seed(dims)
        features = torch.rand(20000, dims, generator=generator) * 7
        x = noise(20000, channels)
        one, other = Permutohedral(features, "torch"), Permutohedral(features, "numba")
        assert one.points == other.points
        wanted = one.filter(x, reverse)
        torch.testing.assert_close(other.filter(x, reverse), wanted, rtol=1e-5, atol=1e-5)

    def test_taken_where_it_can_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features = torch.rand(5, 2)
        assert Permutohedral(features).backend == "numba"
        assert Permutohedral(features.double()).backend == "torch"
        monkeypatch.setattr(permutohedral, "has_numba", lambda: False)
        assert Permutohedral(features).backend == "torch"

    def test_sums_do_not_depend_on_threads(self) -> None:
        features, x, seen = picture(90, 120, 0.2, True).float(), noise(90 * 120), []
        threads = torch.get_num_threads()
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                seen.append(Permutohedral(features, "numba").filter(x))
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(seen[0], seen[1])
        assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_pixel(backend) -> None:
    lattice = Permutohedral(torch.tensor([[2.0, -3.0]]), backend)
    assert lattice.points == 3
    torch.testing.assert_close(normalised(lattice, torch.tensor([[5.0]])), torch.tensor([[5.0]]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_far_pixels_do_not_meet(backend) -> None:
    lattice = Permutohedral(torch.tensor([[0.0, 0.0], [90.0, 0.0]]), backend)
    filtered = lattice.filter(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert filtered[0, 1] == 0
    assert filtered[1, 0] == 0


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    features, x = picture(60, 80, 0.3, True).float(), noise(4800)
    wanted = Permutohedral(features, "torch").filter(x)
    got = Permutohedral(features.cuda()).filter(x.cuda()).cpu()
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


class TestRefusals:
    def refusal(self, features, values: Tensor | None = None, backend="auto") -> str:
        with pytest.raises((InputError, SettingError)) as error:
            Permutohedral(features, backend).filter(values)  # type: ignore[arg-type]
        return str(error.value)

    def test_integers(self) -> None:
        assert self.refusal(torch.ones(3, 2, dtype=torch.int64)) == (
            "the lattice takes features as a float32 or float64 tensor, got torch.int64; "
            "convert them"
        )

    @pytest.mark.parametrize("shape", [(5,), (0, 2), (4, 0)])
    def test_shape(self, shape: tuple[int, ...]) -> None:
        assert self.refusal(torch.ones(shape)) == (
            f"the lattice takes features of shape (N, d), at least one of each, got {shape}"
        )

    def test_not_finite(self) -> None:
        assert self.refusal(torch.tensor([[0.0], [float("nan")]])) == (
            "features of the lattice must be finite; they hold NaN or infinity"
        )

    def test_unknown_backend(self) -> None:
        assert self.refusal(torch.ones(2, 2), backend="cuda") == (
            "backend is 'auto', 'torch', 'numba' or 'triton', got 'cuda'"
        )

    def test_numba_for_float64(self) -> None:
        assert self.refusal(torch.ones(2, 2).double(), backend="numba") == (
            "numba filters float32 on a CPU, got torch.float64 on cpu; use backend='torch'"
        )

    def test_numba_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(permutohedral, "has_numba", lambda: False)
        assert self.refusal(torch.ones(2, 2), backend="numba") == (
            "numba is not installed; pip install 'semseg[crf]', or backend='torch'"
        )

    def test_too_many_lattice_points(self) -> None:
        features = torch.tensor([[0.0] * 5, [1e6] * 5])
        assert self.refusal(features) == (
            "features span [1000000.0, 1000000.0, 1000000.0, 1000000.0, 1000000.0] widths, more "
            "than the lattice can number; use larger widths"
        )

    def test_other_number_of_values(self) -> None:
        assert self.refusal(torch.ones(3, 2), torch.ones(4, 1)) == (
            "the lattice holds 3 pixels, got values of shape (4, 1); give (N, C) with N = 3"
        )

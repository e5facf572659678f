from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.mean_field import Kernel, mean_field, places
from semseg.nn.crf import CRFRNN
from semseg.postprocess import DenseCRF


def draw(classes: int = 3, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(count, 3, 9, 11, generator=generator)
    return images, 3 * torch.randn(count, classes, 9, 11, generator=generator)


def test_it_begins_as_a_dense_crf() -> None:
    images, logits = draw()
    layer = CRFRNN(3, sxy=20, srgb=40).eval()
    same = DenseCRF(sxy=20, srgb=40, compat=5, smooth_sxy=3, smooth_compat=3, normalization="after")
    got = layer(images, logits).softmax(1)
    torch.testing.assert_close(got, same(images, logits), rtol=1e-4, atol=1e-6)


def test_a_round_is_the_papers() -> None:
    images, logits = (t.double() for t in draw(count=1))
    layer = CRFRNN(3, sxy=20, srgb=40, iterations=1).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    near, q = places(logits), logits.softmax(1)[0].flatten(1).T
    colours = images[0].flatten(1).T / 40
    smooth = Kernel.of(near / 3, "after").filter(q) @ layer.smooth.T
    bilateral = Kernel.of(torch.cat([near / 20, colours], 1), "after").filter(q) @ layer.bilateral.T
    wanted = logits[0].flatten(1) - layer.compatibility @ (smooth + bilateral).T
    torch.testing.assert_close(layer(images, logits)[0].flatten(1), wanted)


def test_rounds_in_training_and_at_test() -> None:
    images, logits = draw()
    layer = CRFRNN(3, srgb=40)
    for mode, rounds in ((True, 5), (False, 10)):
        near = places(logits)
        image = images[0].flatten(1).T / 40
        kernels = [
            Kernel.of(near / 3, "after"),
            Kernel.of(torch.cat([near / 160, image], 1), "after"),
        ]
        wanted = mean_field(logits[0].flatten(1).T.contiguous(), kernels, [3.0, 5.0], rounds)
        with torch.no_grad():
            got = layer.train(mode)(images, logits)[0].flatten(1).softmax(0).T
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_eval_mode_with_and_without_gradient() -> None:
    images, logits = draw()
    layer = CRFRNN(3, srgb=40).eval()
    with torch.no_grad():
        fast = layer(images, logits)
    torch.testing.assert_close(
        fast.softmax(1), layer(images, logits).softmax(1), rtol=1e-4, atol=1e-6
    )


def test_gradients() -> None:
    images, logits = (t.double() for t in draw(count=1))
    layer = CRFRNN(3, srgb=90, iterations=2).double()
    assert torch.autograd.gradcheck(
        lambda x: layer(images[..., :4, :4], x), logits[..., :4, :4].clone().requires_grad_()
    )
    layer(images, logits)[:, 0].sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_half_precision_keeps_its_type() -> None:
    images, logits = draw()
    layer = CRFRNN(3, srgb=40)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(images, logits.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(
        got.float(), layer(images, logits.bfloat16().float()), rtol=0.02, atol=0.02
    )


def test_on_the_meta_device() -> None:
    images, logits = (t.to("meta") for t in draw())
    assert copy.deepcopy(CRFRNN(3)).to("meta")(images, logits).shape == logits.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 1}, "CRFRNN needs at least 2 classes, got 1"),
        ({"srgb": 0}, "widths of CRFRNN are positive, got sxy=160.0, srgb=0, smooth_sxy=3.0"),
        ({"iterations": 0}, "CRFRNN takes at least 1 round, got 0 in training and 10 at test"),
    ],
)
def test_refusals(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as error:
        CRFRNN(**({"classes": 3} | settings))
    assert str(error.value) == message

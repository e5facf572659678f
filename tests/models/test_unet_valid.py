"""The published U-Net: sizes of figure 1, mirrored borders, seamless tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.encoder_decoder.unet_valid import mirrored, padded_size
from tests.models import support


def test_sizes_of_figure_1() -> None:
    with torch.device("meta"):
        model = create_model("unet_valid").eval()
        images = torch.empty(1, 1, 572, 572)
    seen: list[tuple[int, int]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(
                lambda _module, _args, out: seen.append((out.shape[1], out.shape[2]))
            )
    model.forward_heads(images)
    down = [(64, 570), (64, 568), (128, 282), (128, 280), (256, 138), (256, 136)]
    down += [(512, 66), (512, 64), (1024, 30), (1024, 28)]
    up = [(512, 56), (512, 54), (512, 52), (256, 104), (256, 102), (256, 100)]
    up += [(128, 200), (128, 198), (128, 196), (64, 392), (64, 390), (64, 388), (2, 388)]
    assert seen == down + up
    assert len(seen) == 23, "convolutions, as the paper counts them"


@pytest.mark.parametrize("size", [1, 2, 5, 93, 388, 389])
def test_the_padding_is_as_small_as_can_be(size: int) -> None:
    side = padded_size(size)
    bottom = side
    for _ in range(4):
        bottom -= 4
        assert bottom % 2 == 0
        bottom //= 2
    assert size <= side - 184 < size + 16


@pytest.mark.parametrize(("size", "before", "after"), [(5, 3, 4), (100, 92, 96), (3, 2, 2)])
def test_borders_are_mirrored_as_numpy_does(size: int, before: int, after: int) -> None:
    want = np.pad(np.arange(size), (before, after), mode="reflect")
    assert mirrored(-before, size + after, size).tolist() == want.tolist()


def test_short_rows_are_mirrored_again_and_again() -> None:
    assert mirrored(-4, 4, 2).tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert mirrored(-3, 3, 1).tolist() == [0] * 6


def test_the_image_is_in_the_middle_of_its_mirror() -> None:
    model = create_model("unet_valid", width=2)
    images = support.image(1, 1, 101, 120)
    padded = model.pad(images)
    assert padded.shape == (1, 1, padded_size(101), padded_size(120))
    assert torch.equal(padded[..., 92:193, 92:212], images)
    assert torch.equal(padded[..., 91, 92:212], images[..., 1, :])
    assert torch.equal(padded[..., 92:193, 212], images[..., -2])


def test_scores_belong_to_the_pixels_of_the_image() -> None:
    model = support.fill(create_model("unet_valid", width=4, num_classes=3))
    images = support.image(1, 1, 37, 50)
    with torch.no_grad():
        logits = model.forward_heads(model.pad(images))["logits"]
        assert logits.shape == (1, 3, 52, 52)
        assert torch.equal(model(images), logits[..., :37, :50])


def test_tiles_at_multiples_of_16_are_seamless() -> None:
    model = support.fill(create_model("unet_valid", width=4, num_classes=3)).double()
    padded = model.pad(support.image(1, 1, 36, 52).double())
    with torch.no_grad():
        whole = model.forward_heads(padded)["logits"]
        for top, left in ((0, 0), (16, 0), (0, 32), (16, 16)):
            tile = padded[..., top : top + 204, left : left + 204]
            got = model.forward_heads(tile)["logits"]
            want = whole[..., top : top + 20, left : left + 20]
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * whole.std().item())


def test_dropout_is_where_the_released_network_has_it() -> None:
    model = create_model("unet_valid", width=2)
    seen: list[int] = []
    model.dropout.register_forward_hook(lambda _module, args, _out: seen.append(args[0].shape[1]))
    model(support.image(1, 1, 20, 20))
    assert seen == [16, 32], "the last two contracting levels"
    assert model.dropout.p == 0.5


def test_weights_start_he_normal() -> None:
    conv = create_model("unet_valid", width=16).down[3][2]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_images_that_were_not_padded_are_refused() -> None:
    model = create_model("unet_valid", width=2)
    with pytest.raises(InputError, match=r"got 190 x 204; pass the images through pad\(\) first"):
        model.forward_heads(support.image(1, 1, 190, 204))
    with pytest.raises(InputError, match="sides of 188 pixels or a multiple of 16 more"):
        model.forward_heads(support.image(1, 1, 172, 172))

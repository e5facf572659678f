"""From file values to what a network takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semseg.core.checks import InputError
from semseg.core.preprocess import IMAGENET, UNIT, Preprocessing

RULE = Preprocessing(mean=(0.5, 0.25), std=(0.5, 0.125))


def test_all_kinds_of_numbers_give_the_same() -> None:
    share = torch.rand(2, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor(RULE.mean, dtype=torch.float64).view(-1, 1, 1)
    std = torch.tensor(RULE.std, dtype=torch.float64).view(-1, 1, 1)
    for top, dtype in ((255, torch.uint8), (65535, torch.uint16), (1, torch.float32)):
        values = (share * top).round() if top > 1 else share
        wanted = (values / top - mean) / std
        result = RULE(values.to(dtype))
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), wanted, rtol=1e-5, atol=1e-5)


def test_any_leading_dimensions() -> None:
    images = torch.zeros(4, 3, 2, 5, 6, dtype=torch.uint8)
    assert RULE(images).shape == images.shape
    torch.testing.assert_close(RULE(images)[1, 2], RULE(images[1, 2]))


def test_imagenet_numbers() -> None:
    white = IMAGENET(torch.full((3, 1, 1), 255, dtype=torch.uint8)).flatten()
    wanted = [
        (1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    np.testing.assert_allclose(white.numpy(), wanted, rtol=1e-6)
    assert UNIT(torch.full((3, 1, 1), 51, dtype=torch.uint8)).flatten().tolist() == pytest.approx(
        [0.2] * 3
    )


def test_other_numbers_of_channels() -> None:
    assert IMAGENET.for_channels(3) is IMAGENET
    grey = RULE.for_channels(1)
    assert (grey.mean, grey.std) == ((0.375,), (0.3125,))
    assert RULE.for_channels(4).mean == (0.375,) * 4


def test_round_trip() -> None:
    assert Preprocessing.from_dict(RULE.to_dict()) == RULE
    assert RULE.to_dict() == {"mean": [0.5, 0.25], "std": [0.5, 0.125]}


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        ((0.5,), (1.0, 1.0), "mean and std need one value per channel each, got (0.5,) and"),
        ((), (), "mean and std need one value per channel each, got () and ()"),
        ((0.5,), (0.0,), "std must be positive, got (0.0,)"),
    ],
)
def test_refused_rules(mean: tuple[float, ...], std: tuple[float, ...], text: str) -> None:
    with pytest.raises(InputError) as caught:
        Preprocessing(mean, std)
    assert str(caught.value).startswith(text)


def test_refused_images() -> None:
    with pytest.raises(InputError) as caught:
        RULE(torch.zeros(1, 3, 4, 4))
    assert str(caught.value) == (
        "images have 3 channels, the preprocessing has 2; use for_channels() or convert the images"
    )
    with pytest.raises(InputError) as caught:
        RULE(torch.zeros(4, 4))
    assert str(caught.value) == "images are (..., C, H, W), got (4, 4)"


def test_result_goes_where_it_is_wanted() -> None:
    batch = torch.zeros(2, 2, 3, 4)
    image = torch.randint(0, 256, (3, 4, 2), dtype=torch.uint8).permute(2, 0, 1)
    RULE(image, out=batch[1])
    assert torch.equal(batch[1], RULE(image.contiguous()))
    assert RULE(image).is_contiguous()
    assert not batch[0].any()


def test_input_is_left_alone() -> None:
    image = torch.rand(2, 3, 4)
    before = image.clone()
    RULE(image)
    assert torch.equal(image, before)

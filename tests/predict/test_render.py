"""Masks as files and pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.predict import render
from tests.predict.conftest import LABELS, scene

MASK = np.array([[0, 1, 1], [2, 3, 255]], dtype=np.uint8)
RAW = [[7, 26, 26], [23, 21, 0]]
IMAGE = scene(2, 3)
FAR = LabelMap.from_dict([{"name": "a", "id": 3}, {"name": "b", "id": 1000}])


def saved(image: Image.Image) -> Image.Image:
    """What a reader finds in the file."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    return Image.open(io.BytesIO(data.getvalue()))


def test_ids() -> None:
    image = saved(render.ids_png(MASK, LABELS))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == RAW


def test_ids_of_16_bit() -> None:
    image = saved(render.ids_png(np.array([[0, 1]]), FAR))
    assert image.mode == "I;16"
    assert np.asarray(image).tolist() == [[3, 1000]]


def test_palette_holds_raw_ids_and_shows_colours() -> None:
    image = saved(render.palette_png(MASK, LABELS))
    assert image.mode == "P"
    assert np.asarray(image).tolist() == RAW
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), LABELS.colorize(MASK))


def test_palette_needs_8_bit() -> None:
    with pytest.raises(InputError) as caught:
        render.palette_png(np.array([[0, 1]]), FAR)
    assert str(caught.value) == (
        "a palette holds the ids 0 … 255, the label map has larger; write ids"
    )


def test_color() -> None:
    image = saved(render.color_png(MASK, LABELS))
    assert image.mode == "RGB"
    assert np.asarray(image)[1].tolist() == [[70, 130, 180], [107, 142, 35], [0, 0, 0]]


def test_confidence() -> None:
    image = saved(render.confidence_png(np.array([[0, 0.5, 1, 0.999]], dtype=np.float32)))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 128, 255, 255]]


def test_overlay_mixes_by_alpha() -> None:
    mask = np.array([[0, 0, 255]], dtype=np.uint8)
    image = np.array([[[0, 0, 0], [100, 200, 40], [9, 8, 7]]], dtype=np.uint8)
    mixed = np.asarray(render.overlay(image, mask, LABELS, alpha=0.25, outlines=False))
    assert mixed[0, 0].tolist() == pytest.approx([32, 16, 32], abs=1)
    assert mixed[0, 1].tolist() == pytest.approx([107, 166, 62], abs=1)
    assert mixed[0, 2].tolist() == [9, 8, 7]  # ignored: as it was
    none = render.overlay(image, mask, LABELS, alpha=0, outlines=False)
    np.testing.assert_array_equal(np.asarray(none), image)


def test_outlines_are_drawn_in_full_colour() -> None:
    mask = np.zeros((4, 4), dtype=np.uint8)
    mask[:, 2:] = 1
    mixed = np.asarray(render.overlay(np.zeros((4, 4, 3), np.uint8), mask, LABELS))
    assert mixed[2, 1].tolist() == [128, 64, 128]
    assert mixed[2, 0].tolist() == [64, 32, 64]


def test_boundaries() -> None:
    mask = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert render.boundaries(mask).tolist() == [
        [False, True, False],
        [True, True, True],
        [False, False, False],
    ]


def test_error_map() -> None:
    image = np.zeros((1, 4, 3), dtype=np.uint8)
    image[0, 1:] = 200
    truth = np.array([[0, 0, 1, 255]])
    shown = np.asarray(render.error_map(image, np.zeros_like(truth), truth))
    assert shown.tolist() == [[[64] * 3, [214] * 3, list(render.WRONG), [0] * 3]]


@pytest.mark.parametrize("image", [IMAGE, IMAGE[..., :1], IMAGE[..., 0]])
def test_grey_images_are_taken(image: np.ndarray) -> None:
    for picture in (
        render.overlay(image, MASK, LABELS),
        render.error_map(image, MASK, MASK),
        render.strip(image, MASK, MASK, LABELS),
    ):
        assert picture.mode == "RGB"


def test_strip_holds_the_four_panels() -> None:
    image, truth = scene(60, 90), np.zeros((60, 90), np.uint8)
    prediction = np.ones_like(truth)
    prediction[:30] = 0
    plain = np.asarray(render.strip(image, truth, prediction, LABELS, titles=False))
    assert plain.shape == (60, 4 * 90 + 3 * 4, 3)
    panels = [
        image,
        LABELS.colorize(truth),
        LABELS.colorize(prediction),
        np.asarray(render.error_map(image, prediction, truth)),
    ]
    for i, panel in enumerate(panels):
        np.testing.assert_array_equal(plain[:, i * 94 : i * 94 + 90], panel)
    titled = np.asarray(render.strip(image, truth, prediction, LABELS))
    np.testing.assert_array_equal(titled[-60:], plain)
    for i in range(4):
        assert (titled[:-60, i * 94 : i * 94 + 90] < 128).any()  # a word above each


def test_legend_names_every_class_within_its_width() -> None:
    labels = LabelMap.from_names([f"a rather long name {i}" for i in range(20)])
    picture = np.asarray(render.legend(labels, width=400))
    assert picture.shape[1] == 400
    colors = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert {tuple(color) for color in labels.colors.tolist()} <= colors
    assert (picture[:, -2:] == 255).all()  # nothing is cut
    assert render.legend(labels, width=4000).height < picture.shape[0]


@pytest.mark.parametrize("make", ["overlay", "error", "truth", "strip"])
def test_sizes_must_agree(make: str) -> None:
    image, other = scene(4, 5), np.zeros((2, 3), np.uint8)
    mask = np.zeros((4, 5), np.uint8)
    with pytest.raises(InputError) as caught:
        {
            "overlay": lambda: render.overlay(image, other, LABELS),
            "error": lambda: render.error_map(image, other, mask),
            "truth": lambda: render.error_map(image, mask, other),
            "strip": lambda: render.strip(image, mask, other, LABELS),
        }[make]()
    assert str(caught.value) == (
        "image is 4 x 5 (height x width), the mask is 2 x 3; bring them to one size first"
    )


def test_alpha_is_a_share() -> None:
    with pytest.raises(InputError) as caught:
        render.overlay(IMAGE, MASK, LABELS, alpha=50)
    assert str(caught.value) == "alpha is the share of the colour, 0 … 1; got 50"


@pytest.mark.parametrize("bands", [2, 5])
def test_of_more_bands_the_first_three_are_shown(bands: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 3, bands), dtype=np.uint8)
    shown = np.asarray(render.overlay(image, MASK, LABELS, alpha=0, outlines=False))
    expected = image[..., :3] if bands == 5 else np.repeat(image[..., :1], 3, axis=2)
    np.testing.assert_array_equal(shown, expected)

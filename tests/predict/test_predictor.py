"""One image in, one mask out: every kind of image, and the arithmetic of validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import FileError, InputError, SemsegError, SettingError
from semseg.core.labels import LabelMap
from semseg.core.preprocess import IMAGENET
from semseg.data.images import read_image
from semseg.models.base import settings_of
from semseg.postprocess import DenseCRF
from semseg.predict import Predictor, decide
from semseg.predict.tta import Views
from tests.predict.conftest import LABELS, RULE, network, scene

BINARY = LabelMap.from_names(["background", "cell"])


# ---- what comes out --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 50), (17, 65), (1, 1), (16, 200)])
def test_mask_is_the_largest_logit_at_the_size_of_the_image(
    predictor: Predictor, size: tuple[int, int]
) -> None:
    image = scene(*size)
    prediction = predictor(image, confidence=True)
    with torch.no_grad():
        values = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (RULE.mean, RULE.std))
        probabilities = predictor.model(((values - mean) / std).float())[0].softmax(0)
    sure, wanted = probabilities.max(0)
    assert prediction.mask.dtype == np.uint8
    np.testing.assert_array_equal(prediction.mask, wanted.numpy())
    assert prediction.confidence is not None
    assert prediction.confidence.dtype == np.float32
    np.testing.assert_allclose(prediction.confidence, sure.numpy(), atol=1e-5)
    assert prediction.labels == LABELS
    assert prediction.path is None


def test_the_network_of_the_tests_sees_every_class(predictor: Predictor) -> None:
    assert set(np.unique(predictor(scene(40, 50)).mask)) == {0, 1, 2, 3}


def test_confidence_only_when_asked_for(predictor: Predictor) -> None:
    assert predictor(scene(20, 20)).confidence is None


def test_binary_network_decides_at_zero() -> None:
    model = network(num_classes=1, in_channels=1)
    rule = RULE.for_channels(1)
    predictor = Predictor(model, "cpu", labels=BINARY, preprocessing=rule)
    image = scene(40, 50)[..., 0]
    prediction = predictor(image, confidence=True)
    with torch.no_grad():
        logits = model(rule(torch.from_numpy(image)[None, None]))[0, 0]
    np.testing.assert_array_equal(prediction.mask, (logits > 0).numpy())
    assert set(np.unique(prediction.mask)) == {0, 1}
    assert prediction.confidence is not None
    chosen = torch.where(logits > 0, logits.sigmoid(), 1 - logits.sigmoid())
    np.testing.assert_allclose(prediction.confidence, chosen.numpy(), atol=1e-6)


def test_zero_is_not_the_foreground() -> None:
    assert decide(torch.nn.Identity(), torch.zeros(1, 1, 2, 2)).ids.sum() == 0


def test_more_than_255_classes() -> None:
    labels = LabelMap.from_names([f"c{i}" for i in range(600)])
    predictor = Predictor(network(600), "cpu", labels=labels, preprocessing=RULE)
    mask = predictor(scene(40, 50)).mask
    assert mask.dtype == np.int32
    assert mask.max() > 255


# ---- kinds of images -------------------------------------------------------------------------


def test_all_kinds_of_one_image_give_one_mask(predictor: Predictor, tmp_path: Path) -> None:
    image = scene(33, 47)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    frozen = image.copy()
    frozen.flags.writeable = False
    wanted = predictor(image).mask
    kinds = [
        path,
        str(path),
        Image.open(path),
        frozen,
        np.asfortranarray(image),
        image[::-1][::-1],
        np.dstack([image, np.zeros_like(image[..., 0])]),  # alpha
        image.astype(np.uint16) * 257,
        (image.astype(np.uint16) * 257).astype(">u2"),
        tensor,
        tensor.to(torch.uint16) * 257,
        tensor / 255,
        (tensor / 255).double(),
    ]
    for kind in kinds:
        np.testing.assert_array_equal(predictor(kind).mask, wanted)
    assert predictor(path).path == str(path)


def test_grey_is_repeated(predictor: Predictor) -> None:
    grey = scene(33, 47)[..., 1]
    wanted = predictor(np.dstack([grey] * 3)).mask
    for kind in (grey, grey[..., None], torch.from_numpy(grey)[None], Image.fromarray(grey)):
        np.testing.assert_array_equal(predictor(kind).mask, wanted)


def test_files_follow_the_written_rule(predictor: Predictor, tmp_path: Path) -> None:
    image = Image.fromarray(scene(33, 47))
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image.quantize(64).save(tmp_path / "palette.png")
    Image.fromarray(scene(33, 47)[..., 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    for name, size in (("turned.jpg", (47, 33)), ("palette.png", (33, 47)), ("deep.png", (33, 47))):
        path = tmp_path / name
        mask = predictor(path).mask
        assert mask.shape == size
        np.testing.assert_array_equal(mask, predictor(read_image(path)).mask)
        with Image.open(path) as opened:
            np.testing.assert_array_equal(mask, predictor(opened).mask)


def test_colour_file_for_a_grey_network(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(scene(33, 47)).save(path)
    rule = RULE.for_channels(1)
    predictor = Predictor(network(2, 1), "cpu", labels=BINARY, preprocessing=rule)
    wanted = predictor(np.asarray(Image.open(path).convert("L"))).mask
    np.testing.assert_array_equal(predictor(path).mask, wanted)


def test_five_channels_as_array_and_tensor() -> None:
    rule = RULE.for_channels(5)
    predictor = Predictor(network(4, 5), "cpu", labels=LABELS, preprocessing=rule)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 5), dtype=np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    np.testing.assert_array_equal(predictor(image).mask, predictor(tensor).mask)


@pytest.mark.parametrize(
    ("image", "kind", "text"),
    [
        (
            np.zeros((4, 4, 3)),
            SettingError,
            "wanted an array (H, W) or (H, W, C) of uint8 or uint16, got float64 of shape "
            "(4, 4, 3)",
        ),
        (
            np.zeros((1, 4, 4, 3), np.uint8),
            SettingError,
            "wanted an array (H, W) or (H, W, C) of uint8 or uint16, got uint8 of shape "
            "(1, 4, 4, 3)",
        ),
        (
            np.zeros((3, 4, 4), np.uint8).transpose(1, 0, 2).repeat(2, axis=2),
            InputError,
            "the network takes 3 channels, the image has 8; convert it "
            "(arrays are (H, W, C), tensors (C, H, W))",
        ),
        (
            np.zeros((4, 0, 3), np.uint8),
            InputError,
            "the image is empty: (3, 4, 0) (C, H, W)",
        ),
        (
            torch.zeros(1, 3, 4, 4),
            InputError,
            "wanted a tensor (C, H, W), got (1, 3, 4, 4); give one image at a time",
        ),
        (
            torch.zeros(3, 4, 4, dtype=torch.int64),
            SettingError,
            "wanted a tensor of uint8, uint16 or floats in [0, 1], got torch.int64",
        ),
        (
            torch.full((3, 4, 4), 255.0),
            InputError,
            "float images are in [0, 1] before normalisation, got 255 … 255; "
            "divide them, or give uint8",
        ),
        (
            torch.full((3, 4, 4), torch.nan),
            InputError,
            "float images are in [0, 1] before normalisation, got nan … nan; "
            "divide them, or give uint8",
        ),
        (3, SettingError, "wanted a path, a Pillow image, an array or a tensor, got int"),
        ("missing.png", FileError, "image missing.png does not exist"),
    ],
)
def test_refused_images(
    predictor: Predictor, image: object, kind: type[SemsegError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        predictor(image)  # type: ignore[arg-type]
    assert str(caught.value) == text


# ---- the network -----------------------------------------------------------------------------


def test_run_folder_and_file_are_the_same(weights: Path) -> None:
    image = scene(40, 50)
    wanted = Predictor(network(), "cpu", labels=LABELS, preprocessing=RULE)(image).mask
    for place in (weights, str(weights), weights / "best.safetensors"):
        predictor = Predictor(place, "cpu")
        np.testing.assert_array_equal(predictor(image).mask, wanted)
        assert (predictor.labels, predictor.preprocessing) == (LABELS, RULE)


def test_networks_in_training_mode_and_other_precision_are_put_right() -> None:
    wanted = Predictor(network(), "cpu", labels=LABELS, preprocessing=RULE)(scene(40, 50)).mask
    model = network().double().train()
    mask = Predictor(model, "cpu", labels=LABELS, preprocessing=RULE)(scene(40, 50)).mask
    np.testing.assert_array_equal(mask, wanted)


def test_what_a_network_needs_beside_it() -> None:
    with pytest.raises(InputError) as caught:
        Predictor(network(), "cpu", preprocessing=RULE)
    assert str(caught.value) == "the network comes without labels; give labels="
    with pytest.raises(InputError) as caught:
        Predictor(network(), "cpu", labels=LABELS)
    assert str(caught.value) == "the network comes without preprocessing; give preprocessing="
    with pytest.raises(InputError) as caught:
        Predictor(network(), "cpu", labels=LABELS, preprocessing=RULE.for_channels(1))
    assert str(caught.value) == (
        "the preprocessing is for 1 channels, the network takes 3; "
        "use preprocessing.for_channels(3)"
    )
    three = LabelMap.from_names(["a", "b", "c"])
    for classes, predicts in ((4, 4), (1, 2)):
        with pytest.raises(InputError) as caught:
            Predictor(network(classes), "cpu", labels=three, preprocessing=RULE)
        assert str(caught.value) == (
            f"the label map has 3 classes, the network predicts {predicts}; "
            "give the labels it was trained with"
        )


def test_weights_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "trunk.safetensors"
    model = network()
    info = WeightsInfo(
        model="unet", settings=settings_of(model), labels=None, preprocessing=IMAGENET
    )
    save_weights(path, model.state_dict(), info)
    with pytest.raises(InputError, match=r"^the network comes without labels; give labels=$"):
        Predictor(path, "cpu")
    predictor = Predictor(path, "cpu", labels=LABELS, preprocessing=RULE)
    wanted = Predictor(model, "cpu", labels=LABELS, preprocessing=RULE)(scene(20, 20)).mask
    np.testing.assert_array_equal(predictor(scene(20, 20)).mask, wanted)


def test_what_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        Predictor(torch.nn.ReLU())  # type: ignore[arg-type]
    assert str(caught.value) == "wanted a network, a weights file or a run folder, got ReLU"
    with pytest.raises(FileError) as caught:
        Predictor(tmp_path)
    assert str(caught.value) == (
        f"weights {tmp_path}/best.safetensors do not exist; "
        "give a .safetensors file or a run folder"
    )


@pytest.mark.parametrize("device", ["cuda:77", "gpu"])
def test_devices_that_are_not_there(weights: Path, device: str) -> None:
    with pytest.raises(SettingError, match=rf"^device '{device}' cannot be used: \S"):
        Predictor(weights, device)


def test_output_that_is_not_a_number(weights: Path) -> None:
    predictor = Predictor(weights, "cpu")
    parameter = list(predictor.model.parameters())[-1]
    with torch.no_grad():
        parameter[1] = torch.nan  # one class alone
    with pytest.raises(InputError, match=r"^the network's output is not a number: its training"):
        predictor(scene(20, 20))


def test_an_image_that_does_not_fit_is_cut_into_tiles(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semseg.predict.predictor.TILE", 64)
    predictor, image = Predictor(weights, "cpu"), scene(100, 150)
    wanted = Predictor(weights, "cpu", tile=64)(image, confidence=True)
    forward = predictor.model.forward

    def short(images: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**48) if images.shape[-1] > 64 else forward(images)

    monkeypatch.setattr(predictor.model, "forward", short)
    found = predictor(image, confidence=True)
    assert predictor.notes == ["image of 100 x 150 pixels: memory is short, so in tiles of 64"]
    np.testing.assert_array_equal(found.mask, wanted.mask)
    np.testing.assert_allclose(found.confidence, wanted.confidence, atol=1e-6)


def test_tiles_are_close_to_the_whole_image(predictor: Predictor, weights: Path) -> None:
    image = scene(150, 200)
    whole = predictor(image, confidence=True)
    tiled = Predictor(weights, "cpu", tile=96, overlap=0.5)(image, confidence=True)
    assert tiled.mask.shape == whole.mask.shape
    assert tiled.mask.dtype == whole.mask.dtype
    assert 0 < (tiled.mask != whole.mask).mean() < 0.2, "random weights see all of the image"
    small = Predictor(weights, "cpu", tile=256)(image, confidence=True)
    np.testing.assert_array_equal(small.mask, whole.mask)
    np.testing.assert_array_equal(small.confidence, whole.confidence)


def test_views_are_averaged(weights: Path) -> None:
    image = scene(40, 50)
    predictor = Predictor(weights, "cpu", views=Views.parse(["hflip"]))
    found = predictor(image, confidence=True)
    mirrored = predictor(image[:, ::-1], confidence=True)
    np.testing.assert_array_equal(found.mask, mirrored.mask[:, ::-1])
    np.testing.assert_allclose(found.confidence, mirrored.confidence[:, ::-1], atol=1e-5)
    assert (found.mask != Predictor(weights, "cpu")(image).mask).any()
    wide = scene(40, 100)
    both = Predictor(weights, "cpu", views=predictor.views, tile=80)(wide).mask
    assert (both == predictor(wide).mask).mean() > 0.7
    assert (both != Predictor(weights, "cpu", tile=80)(wide).mask).any()


def test_tiles_that_cannot_be(weights: Path) -> None:
    with pytest.raises(InputError, match=r"^tile 100 is no multiple of 16, to which the network"):
        Predictor(weights, "cpu", tile=100)
    with pytest.raises(InputError) as caught:
        Predictor(weights, "cpu", tile=64, crf=DenseCRF())
    assert str(caught.value) == (
        "a dense CRF sees the image as a whole; predict with tiles or with the CRF"
    )


def test_too_large_for_the_memory(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(weights, "cpu")

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**48)  # what a huge image comes to: the allocator's own error

    monkeypatch.setattr(predictor.model, "forward", forward)
    with pytest.raises(InputError) as caught:
        predictor(scene(20, 30))
    assert str(caught.value) == (
        "image of 20 x 30 pixels does not fit into the memory of cpu; "
        "make it or the tiles smaller, or take another device"
    )

    def broken(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("another reason")

    monkeypatch.setattr(predictor.model, "forward", broken)
    with pytest.raises(RuntimeError, match=r"^another reason$"):
        predictor(scene(20, 30))

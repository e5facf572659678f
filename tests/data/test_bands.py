"""Images of any number of bands and any kind of number."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semseg.core.checks import FileError, InputError, SettingError
from semseg.core.preprocess import Preprocessing, ValueRange
from semseg.data import build_dataset
from semseg.data.bands import read_any
from semseg.data.doctor.quick import glance
from semseg.data.images import read_image
from semseg.data.subset import Subset
from semseg.data.transforms import AugmentConfig, build_transform
from semseg.predict.inputs import to_pixels


def write(path: Path, values: np.ndarray, **options: object) -> Path:
    pytest.importorskip("tifffile").imwrite(path, values, **options)
    return path


def test_a_range_becomes_bytes() -> None:
    rule = ValueRange(-1, 1, nodata=-9)
    values = np.array([-9, -2, -1, -0.5, 0, 0.999, 1, 7, np.nan, np.inf], np.float32)
    assert rule(values).tolist() == [0, 0, 0, 64, 128, 255, 255, 255, 0, 0]
    assert rule.missing(values).tolist() == [True, *[False] * 7, True, True]
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(ValueRange(0, 65535)(every), np.rint(every / 257))


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (float("nan"), 1), (0, float("inf"))])
def test_refused_ranges(low: float, high: float) -> None:
    with pytest.raises(InputError, match=r"is \[low, high\] with low below high, got"):
        ValueRange(low, high)


def test_the_range_is_stored_with_the_rule() -> None:
    rule = Preprocessing((0.5,), (0.25,), ValueRange(0.0, 4000.0, nodata=-1.0))
    stored = json.loads(json.dumps(rule.to_dict()))
    assert Preprocessing.from_dict(stored) == rule
    assert rule.for_channels(4).values == rule.values
    assert Preprocessing.from_dict({"mean": [0.5], "std": [0.25]}).values is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("planar", [False, True])
def test_bands_of_a_tiff(tmp_path: Path, dtype: type, channels: int, planar: bool) -> None:
    values = np.random.default_rng(0).integers(0, 200, (5, 6, channels)).astype(dtype)
    stored = values.transpose(2, 0, 1) if planar else values
    config = "separate" if planar else "contig"
    file = write(
        tmp_path / "a.tif",
        stored if channels > 1 else values[..., 0],
        photometric="minisblack",
        planarconfig=config if channels > 1 else None,
    )
    read, missing = read_any(file, channels, ValueRange(0, 255))
    assert missing is None
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values.astype(np.uint8))


def test_integers_without_a_range_have_that_of_their_type(tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(0, 65536, (5, 6, 4), np.uint16)
    file = write(tmp_path / "a.tif", words, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_any(file, 4)[0], np.rint(words / 257))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_any(tmp_path / "a.png", 4)[0], pixels)


def test_files_that_pillow_reads_take_a_range_too(tmp_path: Path) -> None:
    words = np.array([[0, 1000], [3000, 60000]], np.uint16)
    Image.fromarray(words).save(tmp_path / "a.png")
    read, _ = read_any(tmp_path / "a.png", 1, ValueRange(0, 4000))
    assert read[..., 0].tolist() == [[0, 64], [191, 255]]


def test_grey_and_colours_are_read_as_ever(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4), 9, np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_any(tmp_path / "a.png", 3)[0], np.full((3, 4, 3), 9))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 1), np.full((3, 4, 1), 9))


def test_no_data_in_any_band(tmp_path: Path) -> None:
    values = np.ones((2, 3, 2), np.float32)
    values[0, 0, 1], values[1, 2] = np.nan, -9
    file = write(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    read, missing = read_any(file, 2, ValueRange(0, 1, nodata=-9))
    assert missing is not None
    assert missing.tolist() == [[True, False, False], [False, False, True]]
    assert read[0, 0].tolist() == [255, 0]


def test_refusals(tmp_path: Path) -> None:
    floats = np.linspace(-3, 5, 24, dtype=np.float32).reshape(2, 3, 4)
    file = write(tmp_path / "f.tif", floats, photometric="minisblack", planarconfig="contig")
    with pytest.raises(FileError) as caught:
        read_any(file, 4)
    assert str(caught.value) == (
        f"image {file} holds float32 of unknown range, -3 … 5; set the dataset's value_range"
    )
    with pytest.raises(InputError) as caught:
        read_any(file, 5)
    assert str(caught.value) == (
        f"image {file} has 4 bands, wanted 5; set the dataset's channels, or convert the file"
    )
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(FileError, match=r"f\.tif cannot be read: .*; replace the file or take"):
        read_any(file, 4)
    with pytest.raises(FileError, match=r"none\.tif does not exist$"):
        read_any(tmp_path / "none.tif", 4)
    deep = write(tmp_path / "d.tif", np.zeros((2, 2, 3, 4), np.uint8), photometric="minisblack")
    with pytest.raises(FileError, match=r"d\.tif has the shape \(2, 2, 3, 4\) \(.*\); wanted heig"):
        read_any(deep, 4)
    palette = Image.new("P", (3, 2))
    palette.save(tmp_path / "p.png")
    with pytest.raises(FileError, match=r"p\.png is P, which has no bands; save it as RGB or TIFF"):
        read_any(tmp_path / "p.png", 2)


def test_without_tifffile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(InputError) as caught:
        read_any(tmp_path / "a.tif", 4)
    assert str(caught.value) == (
        f"image {tmp_path}/a.tif is read band by band, which needs tifffile; "
        "pip install 'semseg[big]'"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(2):
            bands = rng.uniform(0, 3000, (20, 24, 5)).astype(np.float32)
            bands[0, :2] = -1
            file = tmp_path / "images" / split / f"{split}{i}.tif"
            write(file, bands, photometric="minisblack", planarconfig="contig")
            ids = rng.integers(0, 2, (20, 24), np.uint8)
            Image.fromarray(ids).save(tmp_path / "masks" / split / f"{split}{i}.png")
    (tmp_path / "classes.yaml").write_text("classes: [a, b]\n")
    return tmp_path


def test_a_folder_of_bands(root: Path) -> None:
    settings = {"channels": 5, "value_range": (0, 3000), "nodata": -1}
    dataset = build_dataset("folder", "train", root, **settings)
    sample = dataset[0]
    assert sample.image.shape == (5, 20, 24)
    assert sample.image.dtype == torch.uint8
    assert sample.mask[0, :2].tolist() == [255, 255]
    assert int((sample.mask == 255).sum()) == 2
    assert int(sample.image.max()) > 250
    assert dataset.values == ValueRange(0, 3000, -1)
    cached = build_dataset("folder", "train", root, cache=True, **settings)
    assert Subset(cached, [0]).values == dataset.values
    other = build_dataset("folder", "train", root, **settings | {"value_range": (0, 2000)})
    assert other.fingerprint() != dataset.fingerprint()
    pixels = to_pixels(sample.path, 5, dataset.values)
    assert torch.equal(pixels, sample.image)
    assert "error" not in glance(dataset)


def test_bands_are_augmented(root: Path) -> None:
    dataset = build_dataset("folder", "train", root, channels=5, value_range=(0, 3000))
    config = AugmentConfig(
        scale=(0.5, 2), crop=(16, 16), brightness=0.5, contrast=0.5, saturation=0.5, noise=0.1
    )
    image, mask = build_transform(config, dataset.labels, (0.5,) * 5)(*_pair(dataset[0]))
    assert image.shape == (5, 16, 16)
    assert mask.shape == (16, 16)
    with pytest.raises(InputError, match=r"augment\.hue needs images of 1 or 3 channels, got 5"):
        build_transform(AugmentConfig(hue=0.1), dataset.labels, (0.5,) * 5)


def _pair(sample):
    return sample.image, sample.mask


def test_refused_settings(root: Path) -> None:
    with pytest.raises(SettingError, match="nodata needs value_range"):
        build_dataset("folder", "train", root, channels=5, nodata=0)
    with pytest.raises(SettingError, match="channels is 0"):
        build_dataset("folder", "train", root, channels=0)
    with pytest.raises(InputError, match="with low below high"):
        build_dataset("folder", "train", root, value_range=(2, 1))
    (root / "masks").rename(root / "annotations")
    with pytest.raises(InputError, match="beside which images are read with 1 or 3 channels and"):
        build_dataset("folder", "train", root, channels=5)

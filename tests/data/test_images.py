"""The rule for image and mask files, one case per kind of file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import ValueRange
from semseg.data.bands import read_any
from semseg.data.images import read_image, read_mask


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def save_png16(path: Path, pixels: np.ndarray, orientation: int | None = None) -> Path:
    """Write a PNG of 16 bits in 2 to 4 bands, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    height, width, bands = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    kind = {2: 4, 3: 2, 4: 6}[bands]
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        body += chunk(b"eXIf", exif.tobytes()[6:])
    body += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)
GREY = np.array([[0, 7], [128, 255]], np.uint8)


def test_rgb_is_read_as_stored(tmp_path: Path) -> None:
    read = read_image(save(tmp_path / "a.png", RGB))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, RGB)


def test_grey_is_repeated(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", GREY)
    np.testing.assert_array_equal(read_image(file), np.stack([GREY] * 3, axis=2))
    np.testing.assert_array_equal(read_image(file, channels=1), GREY[..., None])


def test_colour_to_one_channel_is_luma(tmp_path: Path) -> None:
    read = read_image(save(tmp_path / "a.png", RGB), channels=1)
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_array_equal(read[..., 0], np.rint(RGB @ weights))


@pytest.mark.parametrize("alpha", [0, 100, 255])
def test_alpha_is_dropped_not_blended(tmp_path: Path, alpha: int) -> None:
    rgba = np.dstack([RGB, np.full((2, 2), alpha, np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), RGB)
    file = tmp_path / "grey.png"
    Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (2, 2), alpha)]).save(file)
    np.testing.assert_array_equal(read_image(file, channels=1)[..., 0], GREY)


@pytest.mark.parametrize("transparency", [None, 1, bytes([255, 0, 128])])
def test_palette_image_becomes_its_colours(tmp_path: Path, transparency: object) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    image.putpalette([9, 8, 7, 200, 100, 50, 1, 2, 3])
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
    expected = np.array([[[9, 8, 7], [200, 100, 50]], [[1, 2, 3], [200, 100, 50]]])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    inks = np.zeros((1, 3, 4), np.uint8)
    inks[0, 1, 0] = 255  # cyan
    inks[0, 2, 3] = 255  # black
    Image.frombytes("CMYK", (3, 1), inks.tobytes()).save(tmp_path / "a.tif")
    expected = np.array([[[255, 255, 255], [0, 255, 255], [0, 0, 0]]])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


def test_bilevel_image_is_black_and_white(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", np.array([[True, False]]))
    np.testing.assert_array_equal(read_image(file, channels=1)[..., 0], [[255, 0]])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_over_the_full_range(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257 * 100], [385, 386, 65406, 65535]], np.uint16)
    read = read_image(save(tmp_path / f"a{suffix}", values))
    expected = np.rint(values / 257)
    np.testing.assert_array_equal(read, np.stack([expected] * 3, axis=2))


WORDS = np.random.default_rng(1).integers(0, 65536, (4, 5, 4)).astype(np.uint16)


@pytest.mark.parametrize("bands", [2, 3, 4])
@pytest.mark.parametrize("orientation", [None, 6])
def test_16_bit_colour_is_scaled_over_the_full_range(
    tmp_path: Path, bands: int, orientation: int | None
) -> None:
    file = save_png16(tmp_path / "a.png", WORDS[..., :bands], orientation)
    upright = WORDS if orientation is None else np.rot90(WORDS, -1)
    colors = upright[..., :3] if bands > 2 else upright[..., [0, 0, 0]]
    scaled = np.rint(colors / 257)
    np.testing.assert_array_equal(read_image(file), scaled)
    luma = np.asarray(Image.fromarray(scaled.astype(np.uint8)).convert("L"))
    np.testing.assert_array_equal(read_image(file, channels=1)[..., 0], luma)
    # the same numbers where their range is stated, and half of it
    whole = read_any(file, bands, ValueRange(0, 65535))[0]
    np.testing.assert_array_equal(whole, np.rint(upright[..., :bands] / 257))
    half = read_any(file, bands, ValueRange(0, 32767.5))[0]
    np.testing.assert_array_equal(half, np.rint((upright[..., :bands] / 128.5).clip(0, 255)))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("parts", [{}, {"rowsperstrip": 8}, {"tile": (16, 16)}])
def test_16_bit_colour_in_tiff(
    tmp_path: Path, order: str, compression: str | None, bands: int, parts: dict
) -> None:
    tifffile = pytest.importorskip("tifffile")
    file = tmp_path / "a.tif"
    pixels = np.random.default_rng(2).integers(0, 65536, (20, 30, bands)).astype(np.uint16)
    more = {"extrasamples": ["unassalpha"]} if bands == 4 else {}
    options = {"photometric": "rgb", "byteorder": order, "compression": compression}
    tifffile.imwrite(file, pixels, **options, **parts, **more)
    np.testing.assert_array_equal(read_image(file), np.rint(pixels[..., :3] / 257))


def test_16_bit_colour_plane_by_plane_is_refused(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    file, planes = tmp_path / "a.tif", np.ascontiguousarray(WORDS[..., :3].transpose(2, 0, 1))
    tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(FileError) as caught:
        read_image(file)
    assert str(caught.value) == (
        f"image {file} stores 16-bit colours plane by plane; save them pixel by pixel, or set "
        "value_range (dataset folder)"
    )
    read = read_any(file, 3, ValueRange(0, 65535))[0]
    np.testing.assert_array_equal(read, np.rint(WORDS[..., :3] / 257))
    options = {"planarconfig": "separate", "compression": "zlib"}
    tifffile.imwrite(file, planes, photometric="rgb", **options)
    np.testing.assert_array_equal(read_image(file), WORDS[..., :3] >> 8)


def test_16_bit_colour_in_an_archive(tmp_path: Path) -> None:
    file = save_png16(tmp_path / "a.png", WORDS[..., :3])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.write(file, "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.zip/a.png"), read_image(file))


UPRIGHT = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
STORED = {  # what a camera writes for each EXIF orientation, so that UPRIGHT is seen
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(tmp_path / "a.png", np.ascontiguousarray(STORED[orientation]), exif=exif)
    np.testing.assert_array_equal(read_image(file, channels=1)[..., 0], UPRIGHT)
    np.testing.assert_array_equal(read_mask(file), UPRIGHT)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_damaged_files_are_named(tmp_path: Path, read) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    whole = save(tmp_path / "whole.png", noise).read_bytes()
    for name, content in {
        "truncated.png": whole[: len(whole) // 2],
        "chunk.png": whole[:-50_000] + whole[-50_000:].replace(b"IDAT", b"I\0AT"),
        "empty.png": b"",
        "text.png": b"this is no image",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=rf"{name} cannot be read: .*replace the file"):
            read(tmp_path / name)
    with pytest.raises(FileError, match=r"none\.png does not exist"):
        read(tmp_path / "none.png")


def test_values_of_unknown_range_are_refused(tmp_path: Path) -> None:
    floats = save(tmp_path / "f.tif", np.ones((2, 2), np.float32))
    with pytest.raises(FileError, match=r"f\.tif holds floats of unknown range; convert it to 8"):
        read_image(floats)
    wide = save(tmp_path / "i.tif", np.array([[0, 70000]], np.int32))
    with pytest.raises(FileError, match=r"i\.tif holds 32-bit values 0 … 70000 of unknown range"):
        read_image(wide)


def test_other_channel_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="with 1 or 3 channels, got channels=4"):
        read_image(save(tmp_path / "a.png", RGB), channels=4)


def test_palette_mask_gives_indices(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 255]], np.uint8)
    image = Image.fromarray(ids)
    image.putpalette([c for i in range(256) for c in (255 - i, i, 7 * i % 256)])
    for suffix in (".png", ".gif", ".bmp", ".tif"):
        options = {"optimize": False} if suffix == ".gif" else {}  # or Pillow numbers them anew
        image.save(tmp_path / f"a{suffix}", **options)
        with Image.open(tmp_path / f"a{suffix}") as stored:
            assert stored.mode == "P"
        np.testing.assert_array_equal(read_mask(tmp_path / f"a{suffix}"), ids, err_msg=suffix)


def test_mask_ids_are_read_as_stored(tmp_path: Path) -> None:
    for suffix in (".png", ".bmp", ".tif", ".gif"):
        read = read_mask(save(tmp_path / f"grey{suffix}", GREY))
        np.testing.assert_array_equal(read, GREY, err_msg=suffix)
    np.testing.assert_array_equal(
        read_mask(save(tmp_path / "bits.png", np.array([[True, False]]))), [[1, 0]]
    )
    many = np.array([[0, 300], [65535, 7]], np.uint16)
    for suffix in (".png", ".tif"):
        read = read_mask(save(tmp_path / f"many{suffix}", many))
        np.testing.assert_array_equal(read, many, err_msg=suffix)


def test_mask_of_the_other_byte_order(tmp_path: Path) -> None:
    many = np.array([[1, 300]], ">u2")
    Image.frombytes("I;16B", (2, 1), many.tobytes()).save(tmp_path / "a.tif")
    read = read_mask(tmp_path / "a.tif")
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, many)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK"])
def test_colour_mask_is_refused(tmp_path: Path, mode: str) -> None:
    file = save(tmp_path / "a.tif", RGB, mode)
    with pytest.raises(FileError, match=rf"mask .*a\.tif is {mode} where ids are expected; conv"):
        read_mask(file)

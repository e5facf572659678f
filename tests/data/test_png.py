"""The fast way to read PNG gives what Pillow gives, and leaves to Pillow what is not plain."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from semseg.core.checks import FileError
from semseg.data import png
from semseg.data.images import read_image, read_mask

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (31, 43), dtype=np.uint8)
RGB = RNG.integers(0, 256, (31, 43, 3), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(90), np.arange(70)).astype(np.uint8)  # takes all filters of rows


class OtherDecoder:
    """What ``imagecodecs`` is asked for, done by Pillow: only what it is given can decide."""

    PNG = SimpleNamespace(available=True)

    @staticmethod
    def png_decode(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image)


@pytest.fixture(params=["stand-in", "imagecodecs"], autouse=True)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Put a decoder in place and note what it decodes."""
    codecs = OtherDecoder
    if request.param == "imagecodecs":
        codecs = pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
    given: list[bytes] = []

    def noted(data: bytes) -> np.ndarray:
        pixels = codecs.png_decode(data)
        given.append(data)
        return pixels

    monkeypatch.setattr(png, "_decoder", lambda: SimpleNamespace(png_decode=noted))
    return given


def both_ways(file: Path, read, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Return what is read, after comparing it with what Pillow alone gives."""
    fast = read(file)
    with monkeypatch.context() as patch:
        patch.setattr(png, "_decoder", lambda: None)
        plain = read(file)
    assert (fast.dtype, fast.shape) == (plain.dtype, plain.shape)
    np.testing.assert_array_equal(fast, plain)
    assert fast.flags.c_contiguous
    assert fast.flags.writeable
    return fast


def indexed(ids: np.ndarray, **options: object) -> tuple[Image.Image, dict]:
    image = Image.fromarray(ids)
    image.putpalette([c for i in range(256) for c in (255 - i, i, 7 * i % 256)])
    return image, options


def oriented(kind: str) -> dict:
    """Return options of Pillow that state an orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    info = PngImagePlugin.PngInfo()
    if kind == "raw profile":
        data = exif.tobytes()
        info.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n")
    if kind == "xmp":
        info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    return {"exif": exif} if kind == "exif" else {"pnginfo": info}


TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Software", "semseg")
PLAIN = {
    "grey": (Image.fromarray(GREY), {}),
    "smooth": (Image.fromarray(SMOOTH), {}),
    "best": (Image.fromarray(RGB), {"compress_level": 9}),
    "stored": (Image.fromarray(RGB), {"compress_level": 0}),
    "rgb": (Image.fromarray(RGB), {}),
    "one pixel": (Image.fromarray(RGB[:1, :1]), {}),
    "one colour is transparent": (Image.fromarray(RGB), {"transparency": (1, 2, 3)}),
    "one grey is transparent": (Image.fromarray(GREY), {"transparency": 7}),
    "text": (Image.fromarray(RGB), {"pnginfo": TEXT}),
    "colour profile": (Image.fromarray(RGB), {"icc_profile": b"x" * 200}),
    "dots": (Image.fromarray(RGB), {"dpi": (72, 72)}),
}
OTHERS = {
    "palette": indexed(GREY),
    "alpha": (Image.fromarray(np.dstack([RGB, GREY])), {}),
    "grey and alpha": (Image.fromarray(np.dstack([GREY, GREY])), {}),
    "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 250), {}),
    "bits": (Image.fromarray(GREY > 99), {}),
    "exif": (Image.fromarray(RGB), oriented("exif")),
    "raw profile": (Image.fromarray(RGB), oriented("raw profile")),
    "xmp": (Image.fromarray(RGB), oriented("xmp")),
    "animated": (
        Image.fromarray(RGB),
        {"save_all": True, "append_images": [Image.fromarray(RGB[::-1])]},
    ),
}


@pytest.mark.parametrize("case", [*PLAIN, *OTHERS])
@pytest.mark.parametrize("channels", [1, 3])
def test_images(
    case: str, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder
) -> None:
    image, options = {**PLAIN, **OTHERS}[case]
    image.save(file := tmp_path / "a.png", **options)
    both_ways(file, lambda path: read_image(path, channels), monkeypatch)
    assert len(decoder) == (case in PLAIN)
    for data in decoder:  # what could change colours or write warnings is not handed on
        kinds = [data[start - 4 : start] for start, _ in chunks(data)]
        assert kinds == [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"]


def chunks(data: bytes) -> Iterator[tuple[int, int]]:
    end = 4
    while end + 4 < len(data):
        start = end + 12
        end = start + int.from_bytes(data[start - 8 : start - 4], "big")
        yield start, end


MASKS = {
    "grey": (Image.fromarray(GREY), {}),
    "palette": indexed(GREY),
    "palette with transparency": indexed(GREY, transparency=3),
    "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 250), {}),
    "few colours": indexed(GREY % 4, bits=2),
    "exif": (Image.fromarray(GREY), oriented("exif")),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder) -> None:
    image, options = MASKS[case]
    image.save(file := tmp_path / "a.png", **options)
    ids = both_ways(file, read_mask, monkeypatch)
    if case.startswith("palette"):
        np.testing.assert_array_equal(ids, GREY)
    assert len(decoder) == (case in ("grey", "palette", "palette with transparency"))


def test_colours_are_no_mask(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(FileError, match=r"mask .*a\.png is RGB where ids are expected; convert it"):
        read_mask(tmp_path / "a.png")


@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize("more", [b"", b"CgBI", b"cgBI"])
def test_rows_in_passes_and_unknown_chunks(
    tmp_path: Path, decoder, passes: int, more: bytes
) -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, passes)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0\1\2\3")), (b"IEND", b"")]
    body = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks[:1] + [(more, b"x")] * bool(more) + chunks[1:]:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        body += struct.pack(">I", len(data)) + kind + data + crc
    (tmp_path / "a.png").write_bytes(body)
    # what only Apple's decoder knows changes how all is stored
    plain = not passes and more != b"CgBI"
    with suppress(FileError):
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[[1, 2, 3]]])
    assert len(decoder) == plain


def test_other_files_and_archives(tmp_path: Path, decoder) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.write(tmp_path / "a.png", "in/a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.zip/in/a.png"), RGB)
    assert len(decoder) == 1
    Image.fromarray(RGB).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp"), RGB)
    assert len(decoder) == 1


@pytest.mark.parametrize("seed", range(30))
def test_damage_is_told_as_pillow_tells_it(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing damaged is taken for whole; what only Pillow reads, it reads."""
    Image.fromarray(RGB).save(file := tmp_path / "a.png")
    data, rng = bytearray(file.read_bytes()), np.random.default_rng(seed)
    if seed % 3 == 0:
        del data[int(rng.integers(10, len(data) - 12)) :]
    for _ in range(seed % 3):
        data[int(rng.integers(8, len(data)))] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)

    def outcome() -> str:
        try:
            return read_image(file).tobytes().hex()
        except FileError as error:
            return str(error)

    fast = outcome()
    monkeypatch.setattr(png, "_decoder", lambda: None)
    assert fast == outcome()


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    png._decoder.cache_clear()
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert png.read_png(tmp_path / "a.png") is None
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)
    png._decoder.cache_clear()

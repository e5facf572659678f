"""What is known before decoding: too many pixels, and what reading changes."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.data.images import read_image
from semseg.predict.header import MAX_PIXELS, look, look_at_bands, own_limit


def png(width: int, height: int, depth: int, rows: bytes) -> bytes:
    """An RGB image whose header may claim any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


# ---- too many pixels -------------------------------------------------------------------------


def test_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(path)
    assert look(path, 3, 600) == []
    with pytest.raises(InputError) as caught:
        look(path, 3, 599)
    assert str(caught.value) == (
        f"{path} has 20 x 30 pixels (height x width), 600 together, and the limit is 599; if the "
        "file is to be trusted and the memory is enough, give --max-pixels 600 "
        "(and --tile, or --raster for a TIFF)"
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_bomb_is_not_decoded(packed: bool, tmp_path: Path) -> None:
    """Pillow itself refuses to open such a file; its limit is lifted, and ours tells the size."""
    path = tmp_path / "a.png"
    path.write_bytes(png(60_000, 50_000, 8, b""))
    if packed:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(path, "a.png")
        path = tmp_path / "a.zip" / "a.png"
    with own_limit(), pytest.raises(InputError) as caught:
        look(path, 3, MAX_PIXELS)
    assert str(caught.value).startswith(
        f"{path} has 50000 x 60000 pixels (height x width), 3,000,000,000 together, and the limit "
        "is 100,000,000; "
    )


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_what_unpacks_to_too_much_is_not_unpacked(name: str, tmp_path: Path) -> None:
    """A hundred megabytes of zeros take a hundred kilobytes in an archive."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(100_000_000))
    path = tmp_path / "a.zip" / name
    text = (
        f"{path} unpacks to 100,000,000 bytes, more than an image of 1,000 pixels takes; if the "
        "archive is to be trusted, give a larger --max-pixels"
    )
    for call in (look, look_at_bands):
        with pytest.raises(InputError) as caught:
            call(path, 3, 1000)
        assert str(caught.value) == text
    assert look(path, 3, 3_000_000) == []


def test_pillows_own_limit_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with own_limit():
        inner = own_limit()
        inner.__enter__()
        assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS is None  # another call still runs
    inner.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS == 7


def test_bands(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    for shape, axes in (((5, 20, 30), "CYX"), ((20, 30, 5), "YXC")):
        kind = "separate" if axes[0] == "C" else "contig"
        tifffile.imwrite(
            path, np.zeros(shape, np.uint8), photometric="minisblack", planarconfig=kind
        )
        look_at_bands(path, 5, 600)
        with pytest.raises(InputError, match="has 20 x 30 pixels"):
            look_at_bands(path, 5, 599)
    Image.new("CMYK", (30, 20)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="has 20 x 30 pixels"):
        look_at_bands(tmp_path / "a.jpg", 4, 599)
    (tmp_path / "b.tif").write_bytes(b"no image")
    look_at_bands(tmp_path / "b.tif", 5, 1)  # reading it says what it is


# ---- what reading changes --------------------------------------------------------------------


def saved(path: Path, mode: str, **options: object) -> Path:
    picture = Image.new("RGB", (6, 4), (200, 100, 50)).convert(mode)
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation_is_told(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path / f"a{suffix}", "RGB", exif=exif)
    assert look(path, 3, 24) == ["turned upright by EXIF"]
    assert read_image(path).shape == (6, 4, 3)
    assert look(saved(tmp_path / f"b{suffix}", "RGB"), 3, 24) == []


def test_colour_spaces_are_told(tmp_path: Path) -> None:
    assert look(saved(tmp_path / "a.jpg", "CMYK"), 3, 24) == ["CMYK to RGB"]
    assert look(saved(tmp_path / "b.png", "P"), 3, 24) == ["P to RGB"]
    assert look(saved(tmp_path / "c.png", "LA"), 3, 24) == ["LA to RGB", "alpha dropped"]
    assert look(saved(tmp_path / "d.png", "RGB"), 1, 24) == ["RGB to L"]
    assert look(saved(tmp_path / "e.png", "I;16"), 3, 24) == ["I;16 to RGB"]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_frames_are_told(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), (i, 80 * i, 255 - 60 * i)) for i in range(3)]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert look(path, 3, 24)[-1] == "first of 3 frames"


def test_damage_is_left_to_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for content in (b"", b"no image", png(6, 4, 8, b"") + b"eXIf"):
        path.write_bytes(content)
        assert look(path, 3, 24) == []
        with pytest.raises(FileError):
            read_image(path)


def test_damage_behind_the_first_frame_does_no_harm(tmp_path: Path) -> None:
    page, buffer = Image.new("L", (5, 4)), io.BytesIO()
    page.save(buffer, format="TIFF", save_all=True, append_images=[page])
    data = bytearray(buffer.getvalue())
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    (second,) = struct.unpack_from("<I", data, first + 2 + 12 * entries)
    assert struct.unpack_from("<H", data, second + 2) == (256,)  # the tag of the width
    struct.pack_into("<H", data, second + 2, 250)
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    assert read_image(path).shape == (4, 5, 3)
    assert look(path, 3, 20) == ["L to RGB", "first of several frames"]


def test_16_bit_colour_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(1, 1, 16, bytes(7)))
    assert read_image(path).shape == (1, 1, 3)
    assert look(path, 3, 4) == ["16-bit colour scaled to 8 bits"]

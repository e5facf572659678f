"""Which files are meant, and what their results are called."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.data.images import read_image
from semseg.predict.sources import conversion_notes, find_images, output_names
from tests.data.test_images import save_rgb16


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.tif", "sub/deep/d.webp", ".hidden.png", "list.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name, format="PNG")
    return tmp_path


def found(folder: Path, source: object) -> list[str]:
    images = find_images(source)  # type: ignore[arg-type]
    return [path.relative_to(folder).as_posix() for path in images]


def test_a_folder_means_the_images_in_it_alone(files: Path) -> None:
    assert found(files, files) == ["a.JPG", "b.png"]
    assert found(files, str(files)) == ["a.JPG", "b.png"]


def test_patterns(files: Path) -> None:
    assert found(files, f"{files}/*.png") == ["b.png"]
    assert found(files, f"{files}/**/*") == ["a.JPG", "b.png", "sub/c.tif", "sub/deep/d.webp"]
    assert found(files, files / "sub" / "*") == ["sub/c.tif"]


def test_a_file_is_taken_whatever_its_name(files: Path) -> None:
    assert found(files, files / "list.txt") == ["list.txt"]
    (files / "x[1].png").write_bytes((files / "b.png").read_bytes())
    assert found(files, files / "x[1].png") == ["x[1].png"]


def test_a_list_keeps_its_order(files: Path) -> None:
    assert found(files, [files / "sub/c.tif", str(files / "b.png")]) == ["sub/c.tif", "b.png"]


def test_nothing_to_do(files: Path) -> None:
    suffixes = ".jpg .jpeg .png .tif .tiff .bmp .webp"
    empty = files / "empty"
    empty.mkdir()
    for source, kind, text in (
        (empty, InputError, f"folder {empty} holds no image ({suffixes})"),
        (
            f"{files}/*.gif",
            InputError,
            f"no image matches {files}/*.gif ({suffixes}); put the pattern in quotes",
        ),
        ([], InputError, "the list of images is empty"),
        (
            files / "missing",
            FileError,
            f"{files}/missing does not exist; give an image, a folder or a pattern",
        ),
    ):
        with pytest.raises(kind) as caught:
            find_images(source)
        assert str(caught.value) == text


def test_images_deeper_down_are_pointed_at(files: Path) -> None:
    outer = files / "outer"
    outer.mkdir()
    (files / "sub").rename(outer / "sub")
    with pytest.raises(InputError) as caught:
        find_images(outer)
    assert str(caught.value).endswith(f"; 2 lie in its sub-folders: give '{outer}/**/*'")


def test_names_are_stems_below_the_common_folder() -> None:
    assert output_names([Path("x/a.b.jpg")]) == ["a.b"]
    assert output_names([Path("x/a.jpg"), Path("x/b.png")]) == ["a", "b"]
    assert output_names([Path("x/u/a.jpg"), Path("x/v/a.jpg")]) == ["u/a", "v/a"]
    assert output_names([Path("../x/a.jpg"), Path("../x/y/../b.jpg")]) == ["a", "b"]


def test_two_images_of_one_name_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        output_names([Path("x/a.jpg"), Path("x/b.jpg"), Path("x/a.png")])
    assert str(caught.value) == (
        "x/a.jpg and x/a.png would both become a.png; "
        "rename one, or predict them into different folders"
    )


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
    assert conversion_notes(path, 3) == ["L to RGB", "first of several frames"]


def test_16_bit_colour_is_told(tmp_path: Path) -> None:
    pixels = np.full((2, 2, 3), 0x1234, np.uint16)
    assert conversion_notes(save_rgb16(tmp_path / "a.png", pixels), 3) == [
        "16-bit colour cut to 8 bits"
    ]

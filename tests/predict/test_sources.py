"""Which files are meant, and what their results are called."""

from __future__ import annotations

import errno
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.predict.sources import find_images, output_names


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.tif", "sub/deep/d.webp", ".hidden.png", "note.md"):
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
    (files / "b.png").rename(files / "b.dat")
    assert found(files, files / "b.dat") == ["b.dat"]
    (files / "x[1].png").write_bytes(b"")
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
            f"{files}/missing does not exist; give an image, a folder, an archive, a video, a "
            "pattern or a .txt file of paths",
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
    with pytest.raises(InputError) as caught:
        output_names([Path("x/a.jpg"), Path("x/b.jpg"), Path("x/a.jpg")])
    assert str(caught.value) == "x/a.jpg is listed twice; take one of them out of the list"


# ---- lists -----------------------------------------------------------------------------------


def test_a_text_file_lists_images(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = files / "list.txt"
    listed.write_bytes(f"\ufeffsub/c.tif\r\n\n  {files}/b.png \nmissing.png\n".encode())
    images = [files / "sub/c.tif", files / "b.png", Path("missing.png")]
    assert find_images(listed) == find_images(f"@{listed}") == images
    other = listed.rename(files / "list")
    assert find_images(f"@{other}") == images
    assert find_images(other) == [other]  # without the @ it is an image
    monkeypatch.chdir(files / "sub")
    Image.new("RGB", (2, 2)).save("b.png")
    other.write_text("b.png\na.JPG")  # the working folder comes before the list's own
    assert find_images(f"@{other}") == [Path("b.png"), files / "a.JPG"]


def test_a_file_that_begins_with_an_at(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    Path("b.png").rename("@b.png")
    assert find_images("@b.png") == [Path("@b.png")]


def test_lists_that_are_none(files: Path) -> None:
    listed = files / "list.txt"
    for content, text in (
        (b" \n\n", f"list {listed} is empty; write the path of an image on each line"),
        (
            b"\xff\xfe\0",
            f"list {listed} is not a text in UTF-8; give a file with the path of an image on each "
            "line",
        ),
        (None, f"list {listed} does not exist; give a text file of paths"),
    ):
        listed.unlink() if content is None else listed.write_bytes(content)
        with pytest.raises((InputError, FileError)) as caught:
            find_images(f"@{listed}")
        assert str(caught.value) == text


# ---- archives --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_archive_means_all_images_in_it(suffix: str, files: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / f"photos{suffix}", files)
    assert found(packed, packed) == ["a.JPG", "b.png", "sub/c.tif", "sub/deep/d.webp"]
    assert found(packed, str(packed / "sub")) == ["sub/c.tif", "sub/deep/d.webp"]
    assert found(packed, packed / "sub" / "c.tif") == ["sub/c.tif"]
    assert output_names(find_images(packed)) == ["a", "b", "sub/c", "sub/deep/d"]
    listed = tmp_path / "list.txt"
    listed.write_text(f"{packed.name}/b.png\n")
    assert found(packed, listed) == ["b.png"]


def pack(path: Path, folder: Path) -> Path:
    """Write the files below a folder into an archive."""
    inside = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in inside:
                packed.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w") as packed:
            for file in inside:
                packed.add(file, file.relative_to(folder))
    return path


def test_archives_without_images(files: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.zip"
    zipfile.ZipFile(empty, "w").close()
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK")
    packed = pack(tmp_path / "photos.zip", files / "sub")
    suffixes = ".jpg .jpeg .png .tif .tiff .bmp .webp"
    for source, text in (
        (empty, f"archive {empty} holds no image ({suffixes})"),
        (broken, f"{broken} cannot be read: File is not a zip file; pack it again"),
        (packed / "x", f"archive {packed}/x does not exist; {packed} holds c.tif, deep"),
    ):
        with pytest.raises((InputError, FileError)) as caught:
            find_images(source)
        assert str(caught.value) == text


def test_a_folder_that_must_not_be_read(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> list[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read every folder
    with pytest.raises(FileError) as caught:
        find_images(files)
    assert str(caught.value) == (
        f"{files} cannot be read: Permission denied; allow reading it, or give other images"
    )

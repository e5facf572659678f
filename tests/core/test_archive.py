"""Files in archives: found, read without unpacking, and refused in one line."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from semseg.core import archive
from semseg.core.checks import FileError

FILES = {
    "a.txt": b"one\r\ntwo\n",
    "images/train/a.png": b"\0" * 5000,
    "images/train/b.png": bytes(range(256)) * 9,
    "images/val/\u00fc.png": b"",
}


def pack(path: Path, files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", method) as opened:
            opened.writestr("images/", b"")
            for name, data in files.items():
                # its own header is longer than the one in the index
                with opened.open(name, "w", force_zip64=name.endswith("b.png")) as file:
                    file.write(data)
        return path
    mode = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode) as opened:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(params=["zip", "stored zip", "tar", "folder"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the same files in each form."""
    if request.param == "folder":
        for name, data in FILES.items():
            (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "x" / name).write_bytes(data)
        return tmp_path / "x"
    method = zipfile.ZIP_STORED if "stored" in request.param else zipfile.ZIP_DEFLATED
    return pack(tmp_path / f"x.{request.param[-3:]}", method=method)


def test_all_forms_say_the_same(root: Path) -> None:
    found = archive.files_below(root)
    assert [file.relative_to(root).as_posix() for file in found] == sorted(FILES)
    assert archive.files_below(root / "images/train") == [
        root / "images/train/a.png",
        root / "images/train/b.png",
    ]
    for name, data in FILES.items():
        assert archive.is_file(root / name)
        assert not archive.is_dir(root / name)
        assert archive.read_bytes(root / name) == data
        assert archive.file_size(root / name) == len(data)
    for folder in (root, root / "images", root / "images/val"):
        assert archive.is_dir(folder)
        assert not archive.is_file(folder)
        assert archive.check_folder(folder, "image folder") == folder
    assert archive.read_text(root / "a.txt") == "one\ntwo\n"
    assert not archive.is_dir(root / "imag")
    assert not archive.is_file(root / "none.txt")
    with pytest.raises(FileNotFoundError):
        archive.read_bytes(root / "none.txt")
    with pytest.raises(FileError, match=r"image folder .*a\.txt is a file; give a folder"):
        archive.check_folder(root / "a.txt", "image folder")


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_an_archive_that_changes_is_read_anew(tmp_path: Path, suffix: str) -> None:
    root = pack(tmp_path / f"x.{suffix}")
    assert not archive.is_file(root / "new.txt")
    pack(root, {"new.txt": b"new" * 9000})
    assert archive.read_bytes(root / "new.txt") == b"new" * 9000
    assert not archive.is_file(root / "a.txt")


def test_a_folder_may_be_called_like_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x.zip").mkdir()
    (tmp_path / "x.zip/a.txt").write_bytes(b"a")
    assert archive.read_bytes(tmp_path / "x.zip/a.txt") == b"a"


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    root = pack(tmp_path / "x.zip", {"photos/images/a.png": b"", "photos/masks/a.png": b""})
    with pytest.raises(FileError) as caught:
        archive.check_folder(root / "images", "image folder")
    assert str(caught.value) == f"image folder {root}/images does not exist; {root} holds photos"


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("kept", [0, 10, 700, -1100])
def test_broken_archives_are_refused(tmp_path: Path, suffix: str, kept: int) -> None:
    root = pack(tmp_path / f"x.{suffix}", {"a": bytes(3000), "b": bytes(100_000)}, 0)
    whole = root.read_bytes()
    root.write_bytes(whole[:kept] if kept >= 0 else whole[: len(whole) // 2])
    with pytest.raises(FileError) as caught:
        archive.is_dir(root)
    assert str(caught.value).startswith(str(root))
    assert "pack it again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_changed_byte_is_noticed(tmp_path: Path, method: int) -> None:
    root = pack(tmp_path / "x.zip", {"a.txt": b"0123456789" * 50}, method)
    data = bytearray(root.read_bytes())
    data[data.index(b"a.txt") + 9] ^= 255
    root.write_bytes(data)
    with pytest.raises(FileError) as caught:
        archive.read_bytes(root / "a.txt")
    assert str(caught.value) == f"{root}/a.txt is damaged in its archive; pack x.zip again"


def test_what_cannot_be_read_in_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"x\.tgz is compressed as a whole.*\.zip or a plain \.tar"):
        archive.is_dir(pack(tmp_path / "x.tgz") / "images")
    with pytest.raises(FileError, match=r"holds a\.txt packed by method 14; pack it by deflate"):
        archive.is_dir(pack(tmp_path / "x.zip", method=zipfile.ZIP_LZMA))
    locked = pack(tmp_path / "y.zip", {"a": b"a"})
    data = bytearray(locked.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1
    locked.write_bytes(data)
    with pytest.raises(FileError, match=r"y\.zip has encrypted files; pack it without a password"):
        archive.is_dir(locked)


def test_a_tar_with_a_damaged_header_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as packed:
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text(name)
            packed.add(tmp_path / name, name)
    data = bytearray(path.read_bytes())
    data[1024 + 148] ^= 1  # the checksum of the second header
    path.write_bytes(data)
    with pytest.raises(FileError) as caught:
        archive.files_below(path)
    assert str(caught.value) == (
        f"{path} cannot be read: it is damaged at byte 1024; pack it again"
    )

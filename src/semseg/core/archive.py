"""Files inside .zip and .tar archives, read where they lie.

A file in an archive is named as if the archive were a folder: ``photos.zip/images/a.png``. Nothing
is unpacked. The index of an archive is read once per process, or inherited from the process that
started it; every access opens the archive anew and reads the bytes of one file, so that threads
and workers, forked or spawned, never share a position.

For paths outside of archives each function does what the method of ``Path`` of that name does.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from semseg.core import checks
from semseg.core.checks import FileError

_WHOLE = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_LOCAL_HEADER = 30  # bytes before the name in a .zip
_NAMES_SHOWN = 6
_ENCRYPTED = 1


@dataclass(frozen=True, slots=True)
class _Entry:
    offset: int
    """Where its bytes begin; in a .zip where its own header begins."""
    size: int
    packed: int
    method: int = zipfile.ZIP_STORED
    checksum: int | None = None


@dataclass(frozen=True, slots=True)
class _Index:
    files: dict[str, _Entry]
    folders: frozenset[str]


def inside(path: Path) -> tuple[Path, str] | None:
    """Return the archive that a path leads into and the name in it, or ``None``.

    Example:
        >>> inside(Path("photos/images/a.png")) is None
        True
    """
    text = str(path).lower()
    if ".zip" not in text and ".t" not in text:  # nearly always; the rest asks the disk
        return None
    for place in (path, *path.parents):
        if place.name.lower().endswith((".zip", ".tar", *_WHOLE)) and place.is_file():
            name = path.relative_to(place).as_posix()
            return place, "" if name == "." else name
    return None


def is_dir(path: Path) -> bool:
    """Tell whether a path is a folder, or one in an archive, or an archive."""
    found = inside(path)
    return path.is_dir() if found is None else found[1] in _index(found[0]).folders


def is_file(path: Path) -> bool:
    """Tell whether a path is a file."""
    found = inside(path)
    return path.is_file() if found is None else found[1] in _index(found[0]).files


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and of the folders in it, in the order of their names."""
    found = inside(folder)
    if found is None:
        return sorted(path for path in folder.rglob("*") if not path.is_dir())
    archive, name = found
    prefix = f"{name}/" if name else ""
    return sorted(archive / file for file in _index(archive).files if file.startswith(prefix))


def file_size(path: Path) -> int:
    """Return the number of bytes of a file, unpacked.

    Raises:
        FileNotFoundError: there is none.
    """
    found = inside(path)
    return path.stat().st_size if found is None else _entry(*found).size


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: there is none.
        FileError: the archive is damaged there.
    """
    found = inside(path)
    if found is None:
        return path.read_bytes()
    archive, entry = found[0], _entry(*found)
    with archive.open("rb") as file:
        data = _read(file, entry)
    if len(data) != entry.size or entry.checksum not in (None, zlib.crc32(data)):
        raise FileError(f"{path} is damaged in its archive; pack {archive.name} again")
    return data


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the content of a text file.

    Raises:
        FileNotFoundError: there is none.
        FileError: the archive is damaged there.
    """
    text = read_bytes(path).decode(encoding)
    return text.replace("\r\n", "\n")


def openable(path: Path) -> Path | BinaryIO:
    """Return what a reader of files takes: the path itself, or the content in memory.

    Raises:
        FileNotFoundError: the archive has no such file.
        FileError: the archive is damaged there.
    """
    return path if inside(path) is None else io.BytesIO(read_bytes(path))


def check_folder(path: Path, what: str) -> Path:
    """Return ``path`` if it is a folder; otherwise say which part of it is missing.

    Raises:
        FileError: it is none.
    """
    found = inside(path)
    if found is None:
        return checks.check_folder(path, what)
    archive, name = found
    index = _index(archive)
    if name in index.files:
        raise FileError(f"{what} {path} is a file; give a folder")
    if name not in index.folders:
        held = sorted({file.partition("/")[0] for file in index.files})
        shown = ", ".join(held[:_NAMES_SHOWN]) or "nothing"
        raise FileError(f"{what} {path} does not exist; {archive} holds {shown}")
    return path


def _entry(archive: Path, name: str) -> _Entry:
    try:
        return _index(archive).files[name]
    except KeyError:
        raise FileNotFoundError(archive / name) from None


def _index(archive: Path) -> _Index:
    state = archive.stat()
    return _indexed(archive, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)  # datasets come in hundreds of shards
def _indexed(archive: Path, _size: int, _changed: int) -> _Index:
    if archive.name.lower().endswith(_WHOLE):
        raise FileError(
            f"{archive} is compressed as a whole, so no file in it can be read by itself; give a "
            ".zip or a plain .tar"
        )
    try:
        entries = _zipped(archive) if archive.suffix.lower() == ".zip" else _tarred(archive)
    except (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, EOFError) as error:
        raise FileError(f"{archive} cannot be read: {error}; pack it again") from error
    files = {name.removeprefix("./"): entry for name, entry in entries.items()}
    folders = {"", *(str(p) for n in files for p in _parents(n))}
    return _Index(files, frozenset(folders))


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _zipped(archive: Path) -> dict[str, _Entry]:
    entries = {}
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & _ENCRYPTED:
                raise FileError(f"{archive} has encrypted files; pack it without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FileError(
                    f"{archive} holds {info.filename} packed by method {info.compress_type}; "
                    "pack it by deflate or without compression"
                )
            entries[info.filename] = _Entry(
                info.header_offset,
                info.file_size,
                info.compress_size,
                info.compress_type,
                info.CRC,
            )
    return entries


def _tarred(archive: Path) -> dict[str, _Entry]:
    with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as opened:
        entries = {
            info.name: _Entry(info.offset_data, info.size, info.size)
            for info in opened
            if info.isreg() and not info.issparse()
        }
        file.seek(opened.offset)  # tarfile takes a damaged header for the end
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"it is damaged at byte {opened.offset}")
        return entries


def _read(file: BinaryIO, entry: _Entry) -> bytes:
    """Return the bytes of an entry; fewer or others where the archive is damaged."""
    start = entry.offset
    if entry.checksum is not None:  # of a .zip
        file.seek(start)
        header = file.read(_LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\3\4"):
            return b""
        # name and what follows it may be longer here than in the index
        start += _LOCAL_HEADER + sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
    file.seek(start)
    data = file.read(entry.packed)
    if entry.method == zipfile.ZIP_STORED:
        return data
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return unpacker.decompress(data, entry.size + 1)
    except zlib.error:
        return b""

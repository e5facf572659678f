"""Writing files so that a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from semseg.core.checks import FileError, SemsegError


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file or folder beside ``path``, then rename it into place.

    The content is flushed to the disk before the rename, so after a kill or a power cut a file is
    either the old or the new version, whole. No system replaces a folder by a folder in one step:
    a kill between the two renames leaves the old one beside its place, where :func:`recover`
    finds it.

    Args:
        path: the file or folder to create or replace; a file replaces only a file, a folder only
            a folder.
        write: called with the temporary path; creates it as a file or as a folder.

    Raises:
        FileError: no space is left, or the place cannot be written; the old version is untouched.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with writing(path, kept=path.exists()):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(partial)
            write(partial)
            _sync(partial)
            _put(partial, path)
        except (OSError, SemsegError):
            _remove(partial)
            raise
        except BaseException as error:
            full = _tells_full_disk(error, path.parent)
            _remove(partial)
            if full:
                raise OSError(errno.ENOSPC, str(error)) from error
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomic(path, lambda partial: _write_text(partial, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: Path, kept: bool = False) -> Iterator[None]:
    """Turn an ``OSError`` inside into a :class:`FileError` that names ``path``.

    Args:
        path: what is written.
        kept: whether an older version stays whole, which the message then says.
    """
    try:
        yield
    except OSError as error:
        old = "; the version before it is kept" if kept else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FileError(
                f"no space left while writing {path}{old}; free some space and go on"
            ) from error
        reason = error.strerror or str(error)
        raise FileError(
            f"cannot write {path}: {reason}{old}; choose a place that can be written"
        ) from error


def recover(path: Path) -> None:
    """Clean up after a writer of ``path`` that was killed; the last whole version is kept.

    Puts a folder back that was moved aside and not yet replaced, and deletes what is partial. Only
    for a moment when nobody else writes ``path``: before a run is resumed, say.

    Raises:
        FileError: the place cannot be written.
    """
    path = Path(path)
    with writing(path):
        for aside in sorted(path.parent.glob(f".{glob.escape(path.name)}.old-*")):
            if path.exists():
                _remove(aside)
            else:
                aside.rename(path)
        for partial in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
            _remove(partial)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tells_full_disk(error: BaseException, folder: Path) -> bool:
    # safetensors raises an exception of its own with the number in its text; torch.save raises a
    # RuntimeError that says nothing, while what it wrote still fills the disk
    if f"(os error {errno.ENOSPC})" in str(error):
        return True
    return isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < 1 << 16


def _put(partial: Path, path: Path) -> None:
    if path.is_dir():
        if not partial.is_dir():
            raise FileError(f"{path} is a folder; a file would replace it: give a file name")
        aside = path.with_name(f".{path.name}.old-{os.getpid()}")
        _remove(aside)
        path.rename(aside)
        try:
            partial.rename(path)
        except BaseException:
            aside.rename(path)
            raise
        _remove(aside)
    else:
        partial.replace(path)
    _sync_entry(path.parent)


def _sync(path: Path) -> None:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if path.is_dir():
        _sync_entry(path)


def _sync_entry(folder: Path) -> None:
    if os.name == "nt":  # Windows has no descriptor of a folder to flush
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

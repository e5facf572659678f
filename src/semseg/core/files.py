"""Writing files so that a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from semseg.core.checks import FileError


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file or folder beside ``path``, then rename it into place.

    The content is flushed to the disk before the rename, so after a kill or a power cut ``path``
    is either the old or the new version, whole.

    Args:
        path: the file or folder to create or replace. An existing folder is replaced by a folder.
        write: called with the temporary path; creates it as a file or as a folder.

    Raises:
        FileError: no space is left, or the place cannot be written; the old version is untouched.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        write(partial)
        _sync(partial)
        _put(partial, path)
    except OSError as error:
        _remove(partial)
        raise _explain(path, error) from error
    except BaseException:
        _remove(partial)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomic(path, lambda partial: _write_text(partial, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(path: Path, error: OSError) -> FileError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        kept = "; the version before it is kept" if path.exists() else ""
        return FileError(f"no space left while writing {path}{kept}; free some space and go on")
    reason = error.strerror or str(error)
    return FileError(f"cannot write {path}: {reason}; choose a place that can be written")


def _put(partial: Path, path: Path) -> None:
    if path.is_dir():  # a folder cannot replace a folder in one step: move the old one aside
        aside = path.with_name(f".{path.name}.old-{os.getpid()}")
        _remove(aside)
        path.rename(aside)
        partial.rename(path)
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

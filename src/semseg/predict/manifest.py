"""The list of what was predicted: a line of JSON per image, and what is done after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from semseg.core.files import write_atomic

MANIFEST = "manifest.jsonl"
"""One line per image, in the output folder."""

Record = dict[str, Any]
"""A line: ``image`` and what became of it; ``error`` where nothing did."""


class Manifest:
    """A manifest that is being written; after a kill it says how far the call came.

    Args:
        path: the file.
        kept: lines of an earlier call that still hold; without any the file begins anew.

    Raises:
        OSError: it cannot be written.
        FileError: neither can the kept lines.
    """

    def __init__(self, path: Path, kept: Sequence[Record] = ()) -> None:
        self._path = path
        self._records = list(kept)
        if kept:
            self._write_all()
        # names that are no text are escaped as JSON has it, so reading gives them back
        self._file = path.open(
            "a" if kept else "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        )

    def add(self, record: Record) -> None:
        """Append one line."""
        self._records.append(record)
        self._file.write(_line(record))
        self._file.flush()

    def sort(self, place: Callable[[Record], int]) -> None:
        """Put the lines into the order of ``place``, if it is another one."""
        ordered = sorted(self._records, key=place)
        if ordered != self._records:
            self._records = ordered
            self._file.close()
            self._write_all()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _write_all(self) -> None:
        text = "".join(_line(record) for record in self._records)
        content = text.encode("utf-8", "backslashreplace")
        write_atomic(self._path, lambda partial: _write_bytes(partial, content))


def read_records(path: Path) -> list[Record]:
    """Return the lines; those that a kill left half-written are dropped.

    Returns:
        Nothing where there is no such file. A later line about the same image is the one that
        holds.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found: list[Record] = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("image"), str):
            found.append(record)
    return found


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)

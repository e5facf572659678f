"""Finished rows on the disk, so that a killed run goes on, and the file that is made of them.

Beside ``masks.tif`` lie ``masks.tif.part``, deflated tiles one after another, each after its
length, and ``masks.tif.part.json``: how many rows are in it, and what they were made of. Tiles are
flushed to the disk before the state that counts them, so the state never promises what is not
there, and what lies beyond it is cut off. At the end the tiles become a TIFF under another name,
which is renamed.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError
from semseg.core.files import recover, write_atomic, write_text, writing
from semseg.core.labels import LabelMap
from semseg.predict.raster_files import package

SIDE = 512
"""Height and width of the tiles of the output."""

_LEVEL = 6  # zlib's own; 9 takes twice the time for a hundredth of the size
_CLASSIC = (1 << 32) - (1 << 25)  # beyond it offsets need 64 bits; tables and tags are smaller
_NODATA = 42113  # GDAL's tag


class RowWriter:
    """A TIFF of ids that is written from top to bottom, and goes on after a kill.

    Args:
        out: the file to make.
        size: height and width.
        dtype: ``uint8`` or ``uint16``.
        made_of: all that the rows depend on, as JSON holds it. A run that was begun with something
            else is refused.
        overwrite: replace a file of an earlier run.

    Raises:
        FileError: the state is damaged, or the place cannot be written.
        InputError: ``out`` is there already, or the run was begun with something else.
    """

    def __init__(
        self,
        out: Path,
        size: tuple[int, int],
        dtype: np.dtype[Any],
        made_of: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.out, self.size, self.dtype = out, size, dtype
        self.part = out.with_name(f"{out.name}.part")
        self.state = out.with_name(f"{out.name}.part.json")
        self._made_of = json.loads(json.dumps(made_of))
        self.rows = self._bytes = 0
        self._waiting: list[NDArray[Any]] = []
        self._thread = ThreadPoolExecutor(1, "semseg-write")
        self._saving: Future[None] | None = None
        self._file: BinaryIO | None = None
        begun = self.state.exists()
        if begun:
            self._go_on()
        if out.exists() and not overwrite and not (begun and self.rows == size[0]):
            raise InputError(f"{out} already exists; choose another name, or allow overwriting it")
        with writing(self.part):
            out.parent.mkdir(parents=True, exist_ok=True)
            recover(out)
            recover(self.state)
            if begun and not self.part.exists():
                return  # killed between the two deletions at the end
            self._file = self.part.open("r+b" if begun else "w+b")
            self._file.truncate(self._bytes)
            self._file.seek(self._bytes)

    def _go_on(self) -> None:
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            self.rows, self._bytes, before = state["rows"], state["bytes"], state["made_of"]
            there = self.part.stat().st_size if self.part.exists() else 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"the unfinished run in {self.state} cannot be read; delete {self.state} to start "
                "anew"
            ) from error
        for key in sorted(self._made_of.keys() | before.keys()):
            old, new = before.get(key), self._made_of.get(key)
            if old != new:
                change = f"{key} {old!r}, now {key} is {new!r}"
                if len(change) > 120:
                    change = f"another {key}"
                raise InputError(
                    f"the unfinished run in {self.state} was begun with {change}; give the same "
                    f"again, or delete {self.state} to start anew"
                )
        made = self.rows == self.size[0] and self.out.exists() and not self.part.exists()
        if there < self._bytes and not made:
            raise FileError(
                f"{self.part} has {there} bytes of the {self._bytes} that were written; delete "
                f"{self.state} to start anew"
            )

    def add(self, rows: NDArray[Any]) -> None:
        """Take the next rows; a thread writes them while the next ones are made.

        Raises:
            FileError: no space was left for the rows before.
        """
        self._wait()
        self._saving = self._thread.submit(self._save, rows)

    def _wait(self) -> None:
        if self._saving is not None:
            self._saving.result()

    def _save(self, rows: NDArray[Any]) -> None:
        """Write whole rows of tiles, and keep what is left."""
        assert self._file is not None
        self._waiting.append(rows)
        held = sum(len(some) for some in self._waiting)
        if held < SIDE and self.rows + held < self.size[0]:
            return
        joined = np.concatenate(self._waiting)
        left = len(joined) if self.rows + held == self.size[0] else held // SIDE * SIDE
        with writing(self.part):
            for top in range(0, left, SIDE):
                band = joined[top : min(top + SIDE, left)]
                for tile in _deflated(band.astype(self.dtype, copy=False)):
                    self._bytes += self._file.write(struct.pack("<I", len(tile)) + tile)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.rows += left
        self._waiting = [joined[left:].copy()]
        state = {"rows": self.rows, "bytes": self._bytes, "made_of": self._made_of}
        write_text(self.state, json.dumps(state, indent=1) + "\n")

    def finish(
        self, palette: Sequence[int] | None, nodata: int | None, tags: Sequence[Any] = ()
    ) -> None:
        """Make the file, and delete what is beside it.

        Args:
            palette: 768 numbers, red, green and blue in turn.
            nodata: the id of pixels without data.
            tags: further TIFF tags, as tifffile takes them.

        Raises:
            FileError: no space is left.
        """
        self._wait()
        assert self.rows == self.size[0]
        if self._file is not None:
            write_atomic(self.out, lambda path: self._assemble(path, palette, nodata, tags))
            self.close()
            self.part.unlink()
        self.state.unlink()  # last: it says that the file is this run's

    def close(self) -> None:
        """Write what was taken and close the file of tiles; a later run goes on from there."""
        self._thread.shutdown()
        if self._file is not None:
            self._file.close()

    def _assemble(
        self, path: Path, palette: Sequence[int] | None, nodata: int | None, tags: Sequence[Any]
    ) -> None:
        tifffile: Any = package("tifffile", self.out)
        colours = None if palette is None else np.array(palette, np.uint16).reshape(-1, 3).T * 257
        more = list(tags)
        if nodata is not None:
            more.append((_NODATA, "s", 0, str(nodata), True))
        with tifffile.TiffWriter(path, bigtiff=self._bytes > _CLASSIC, byteorder="<") as writer:
            writer.write(
                self._tiles(),
                shape=self.size,
                dtype=self.dtype,
                tile=(SIDE, SIDE),
                compression="zlib",
                photometric="minisblack" if colours is None else "palette",
                colormap=colours,
                metadata=None,
                software="semseg",
                extratags=more,
            )

    def _tiles(self) -> Iterator[bytes]:
        assert self._file is not None
        self._file.seek(0)
        while head := self._file.read(4):
            yield self._file.read(struct.unpack("<I", head)[0])


def raw_ids(labels: LabelMap) -> tuple[NDArray[Any], int]:
    """Return the raw id of each class, and that of pixels without data: the first ignored one.

    If none is ignored it is the largest number of 8 bits, or 16, that no label has.
    """
    taken = {label.raw_id for label in labels.labels}
    fill = next((label.raw_id for label in labels.labels if label.ignored), None)
    if fill is None:
        fill = next(i for top in (255, 65535) for i in range(top, -1, -1) if i not in taken)
    dtype = np.uint8 if max(*taken, fill) <= 255 else np.uint16
    return np.array([label.raw_id for label in labels.classes], dtype), fill


def _deflated(band: NDArray[Any]) -> Iterator[bytes]:
    """Yield the tiles of up to ``SIDE`` rows; beyond the border they are 0."""
    height, width = band.shape
    for left in range(0, width, SIDE):
        tile = np.zeros((SIDE, SIDE), band.dtype.newbyteorder("<"))
        tile[:height, : width - left] = band[:, left : left + SIDE]
        yield zlib.compress(tile.tobytes(), _LEVEL)

"""Images larger than the memory: read, predicted and written window by window."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.core.memory import give_back
from semseg.core.preprocess import Preprocessing
from semseg.predict.raster_files import Missing, Raster, open_raster
from semseg.predict.raster_output import RowWriter, raw_ids
from semseg.predict.raster_values import ByteRule
from semseg.predict.tiles import tiled
from semseg.predict.tiling import Tiling
from semseg.predict.tta import Scores

Place = tuple[int, int, int, int]
"""Top, left, height and width of a window."""

Loaded = tuple[Tensor | None, Missing]
"""A normalised window, or ``None`` where all of it is missing, and what is missing."""


@dataclass(frozen=True, slots=True)
class RasterSummary:
    """What :func:`predict_raster` did.

    Args:
        out: the file.
        height: of the image.
        width: of the image.
        resumed: rows that an earlier run had finished.
        tiles: windows that this run read.
        seconds: wall time of this run.
    """

    out: Path
    height: int
    width: int
    resumed: int
    tiles: int
    seconds: float


def predict_raster(
    scores: Scores,
    preprocessing: Preprocessing,
    labels: LabelMap,
    source: str | Path,
    out: str | Path,
    tiling: Tiling | None = None,
    *,
    num_classes: int | None = None,
    device: str | torch.device = "cpu",
    batch: int = 1,
    made_of: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> RasterSummary:
    """Predict an image of any size and write its raw ids as a TIFF.

    The output is tiled and deflated, BigTIFF where it is needed, with the classes' colours where
    ids fit into a byte, and with the georeference of the source. Pixels without data, by the
    network's :class:`ValueRange` (in any band) or by the file's own word (in all bands), get the
    ignored raw id, which the file names as its nodata; windows without any data are not predicted.

    A run that was stopped goes on where it was when it is called again with the same arguments, and
    its file has the same bytes as one that was never stopped (on the same machine with the same
    number of threads, which a network's rounding may depend on).

    Args:
        scores: the network.
        preprocessing: what it takes; by its ``values`` numbers are read as in training.
        labels: what the K channels mean.
        source: the image; see :func:`semseg.predict.raster_files.open_raster`.
        out: the file to make; unfinished, ``out.part`` and ``out.part.json`` lie beside it.
        tiling: the tiles; those of 1024 if not given.
        num_classes: channels of the scores; as many as ``labels`` has, if not given. 1 for one
            sigmoid channel.
        device: of the network.
        batch: windows that the network takes at once.
        made_of: what else the result depends on, so that a stopped run does not go on with
            something else: the hash of the weights, say.
        overwrite: replace a file of an earlier run.
        on_progress: called with the number of tiles done and of all.

    Raises:
        FileError: the image is missing or damaged, or the result cannot be written.
        InputError: bands or numbers that do not fit, ``out`` exists, a stopped run had other
            settings, or a package is missing.
    """
    began = time.perf_counter()
    out, tiling, channels = Path(out), tiling or Tiling(), len(preprocessing.mean)
    classes = _channels(labels, num_classes)
    with closing(open_raster(source, channels)) as raster:
        if out.exists() and out.samefile(source):
            raise InputError(f"{out} is the image itself; choose another name for the result")
        rule = ByteRule(raster, channels, preprocessing.values)
        ids, fill = raw_ids(labels)
        facts = _facts(raster, preprocessing, labels, tiling) | dict(made_of or {})
        with closing(RowWriter(out, raster.size, ids.dtype, facts, overwrite)) as writer:
            resumed = writer.rows
            order = _places(tiling, raster.size, resumed)
            begin = tiling.count(*raster.size) - len(order)
            with ThreadPoolExecutor(1, "semseg-read") as pool:
                load = partial(_load, raster, rule, preprocessing)
                read = _Ahead(load, order, raster.size[1], pool, batch + 1, begin, on_progress)
                for rows in tiled(
                    scores,
                    read,
                    raster.size,
                    tiling,
                    num_classes=classes,
                    device=device,
                    batch=batch,
                    start=resumed,
                ):
                    found = ids[rows.labels]
                    read.mark(found, rows.top, fill)
                    writer.add(found)
            writer.finish(labels.palette() if ids.dtype == np.uint8 else None, fill, raster.tags)
    height, width = raster.size
    return RasterSummary(out, height, width, resumed, len(order), time.perf_counter() - began)


class _Ahead:
    """Windows in their order, the next ones loaded while the network runs."""

    def __init__(
        self,
        load: Callable[[Place], Loaded],
        order: Sequence[Place],
        width: int,
        pool: Executor,
        depth: int,
        done: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._load, self._pool, self._width, self._progress = load, pool, width, progress
        self._rest = iter(order)
        self._done, self._total = done, done + len(order)
        self._top = -1
        self._gone: NDArray[np.bool_] | None = None
        self._coming: deque[tuple[Place, Future[Loaded]]] = deque()
        for _ in range(depth):
            self._next()

    def __call__(self, y: int, x: int, height: int, width: int) -> Tensor | None:
        """Return a window, and remember what is missing in this row of tiles."""
        place, loaded = self._coming.popleft()
        assert place == (y, x, height, width)
        give_back()  # what the network freed since the last window; the peak depends on it
        self._next()
        image, missing = loaded.result()
        if y != self._top:
            self._top, self._gone = y, None
        if missing is not None:
            if self._gone is None:
                self._gone = np.zeros((height, self._width), np.bool_)
            self._gone[:, x : x + width] = missing
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
        return image

    def mark(self, ids: NDArray[Any], top: int, fill: int) -> None:
        """Write ``fill`` where rows from ``top`` on, of the last row of tiles, have no data."""
        if self._gone is not None:
            ids[self._gone[top - self._top :][: len(ids)]] = fill

    def _next(self) -> None:
        for place in islice(self._rest, 1):
            self._coming.append((place, self._pool.submit(self._load, place)))


def _load(raster: Raster, rule: ByteRule, preprocessing: Preprocessing, place: Place) -> Loaded:
    stored, missing = raster.window(*place)
    pixels, unreadable = rule(stored)
    if missing is None or unreadable is None:
        missing = unreadable if missing is None else missing
    else:
        missing = missing | unreadable
    if missing is not None and missing.all():
        return None, missing
    return preprocessing(torch.from_numpy(pixels).permute(2, 0, 1)), missing


def _channels(labels: LabelMap, num_classes: int | None) -> int:
    """Return K, and refuse labels of another network."""
    classes = labels.num_classes if num_classes is None else num_classes
    means = 2 if classes == 1 else classes
    if labels.num_classes != means:
        raise InputError(
            f"the label map has {labels.num_classes} classes, the network predicts {means}; give "
            "the labels it was trained with"
        )
    return classes


def _places(tiling: Tiling, size: tuple[int, int], start: int) -> list[Place]:
    """Return the windows in the order of :func:`semseg.predict.tiles.tiled`."""
    columns = tiling.spans(size[1])
    return [
        (row.start, column.start, row.length, column.length)
        for row in tiling.spans(size[0])
        if row.stop > start
        for column in columns
    ]


def _facts(
    raster: Raster, preprocessing: Preprocessing, labels: LabelMap, tiling: Tiling
) -> dict[str, Any]:
    """Return what the result depends on; of a folder the time of its description counts."""
    path = raster.path
    if path.is_dir():
        names = ("zarr.json", ".zarray", ".zgroup")
        path = next((path / name for name in names if (path / name).is_file()), path)
    state = path.stat()
    return {
        "source": raster.path.name,
        "source size": state.st_size,
        "source time": state.st_mtime_ns,
        "pixels": [*raster.size, raster.bands],
        "preprocessing": preprocessing.to_dict(),
        "labels": labels.to_dict(),
        "version": metadata.version("semseg"),
        **asdict(tiling),
    }

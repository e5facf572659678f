"""Many images: files in, files out, with a manifest."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import InputError, SemsegError, unknown_name
from semseg.core.files import write_atomic, writing
from semseg.data.bands import read_any
from semseg.predict import render
from semseg.predict.predictor import Prediction, Predictor
from semseg.predict.sources import Source, conversion_notes, find_images, output_names

T = TypeVar("T")
Pixels = NDArray[np.uint8]

MANIFEST = "manifest.jsonl"
"""One line per image, in the output folder."""

RENDERERS: dict[str, Callable[[Pixels, Prediction], Image.Image]] = {
    "palette": lambda image, p: render.palette_png(p.mask, p.labels),
    "ids": lambda image, p: render.ids_png(p.mask, p.labels),
    "color": lambda image, p: render.color_png(p.mask, p.labels),
    "overlay": lambda image, p: render.overlay(image, p.mask, p.labels),
    "confidence": lambda image, p: _confidence(p),
}
"""What :func:`predict_files` can write, by the name it is asked for."""

_THREADS = 2  # one decodes and one writes, more or less; the network has the other cores
_AHEAD = 4  # images that are decoded, or wait to be written, while the network runs


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be predicted, and why."""

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What :func:`predict_files` did.

    Args:
        images: number of images predicted.
        failures: those that could not be.
        out: the output folder.
        seconds: wall time.
    """

    images: int
    failures: tuple[Failure, ...]
    out: Path
    seconds: float


@dataclass(slots=True)
class _Job:
    path: Path
    files: dict[str, Path]
    record: dict[str, Any] = field(default_factory=dict)
    saving: Future[None] | None = None


def predict_files(
    predictor: Predictor,
    source: Source,
    out: str | Path,
    outputs: Sequence[str] = ("palette",),
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Predict image files and write the results and a manifest.

    One kind of output is written as ``out/<stem>.png``, several as ``out/<kind>/<stem>.png``.
    An image that cannot be read or predicted is reported, and the others are done. While the
    network runs, threads decode the next images and write the last ones.

    Args:
        predictor: the network.
        source: a file, a folder, a glob pattern or a list of files; see
            :func:`semseg.predict.sources.find_images`.
        out: folder to write into; made if it is not there.
        outputs: kinds, of :data:`RENDERERS`.
        overwrite: replace results of an earlier run.
        on_progress: called with the number of images done and of all.

    Returns:
        Counts and failures; each image has a line of JSON in ``out/manifest.jsonl`` with its path,
        height and width, outputs, seconds in the network and notes, or with its error.

    Raises:
        FileError: the source does not exist, or a result cannot be written.
        InputError: no images, two with one name, or ``out`` holds results or the images.
        UnknownNameError: a kind of output that does not exist.
    """
    began = time.perf_counter()
    out = Path(out)
    _check_kinds(outputs, predictor)
    images = find_images(source)
    jobs = [
        _Job(path, {kind: _file(out, kind, len(outputs) == 1, name) for kind in outputs})
        for path, name in zip(images, output_names(images), strict=True)
    ]
    _check_target(out, jobs, overwrite)
    failures: list[Failure] = []
    with writing(out), ThreadPoolExecutor(_THREADS) as pool:
        out.mkdir(parents=True, exist_ok=True)
        with (out / MANIFEST).open("w", encoding="utf-8") as manifest:
            for done, job in enumerate(_process(predictor, jobs, pool), start=1):
                if "error" in job.record:
                    failures.append(Failure(job.path, job.record["error"]))
                manifest.write(json.dumps(job.record, ensure_ascii=False) + "\n")
                manifest.flush()  # after a kill the manifest says how far it came
                if on_progress is not None:
                    on_progress(done, len(jobs))
    predicted = len(jobs) - len(failures)
    return Summary(predicted, tuple(failures), out, time.perf_counter() - began)


def _process(predictor: Predictor, jobs: list[_Job], pool: ThreadPoolExecutor) -> Iterator[_Job]:
    """Yield the jobs in their order, each when its files are written."""
    waiting: deque[_Job] = deque()
    for job, loaded in _ahead(pool, partial(_load, predictor), jobs):
        job.record["image"] = str(job.path)
        try:
            image, notes = loaded.result()
            began = time.perf_counter()
            prediction = predictor(image, confidence="confidence" in job.files)
        except SemsegError as error:
            named = str(job.path) in str(error)
            job.record["error"] = str(error) if named else f"{job.path}: {error}"
        else:
            height, width = prediction.mask.shape
            job.record |= {
                "height": height,
                "width": width,
                "outputs": {kind: str(file) for kind, file in job.files.items()},
                "seconds": round(time.perf_counter() - began, 4),
                "notes": notes,
            }
            job.saving = pool.submit(_save, job, image, prediction)
        waiting.append(job)
        if len(waiting) > _AHEAD:
            yield _written(waiting.popleft())
    while waiting:
        yield _written(waiting.popleft())


def _ahead(
    pool: ThreadPoolExecutor, load: Callable[[_Job], T], jobs: Iterable[_Job]
) -> Iterator[tuple[_Job, Future[T]]]:
    """Yield each job with its result to come; ``_AHEAD`` of them are worked on at a time."""
    remaining = iter(jobs)
    pending = deque((job, pool.submit(load, job)) for job in islice(remaining, _AHEAD))
    while pending:
        yield pending.popleft()
        pending.extend((job, pool.submit(load, job)) for job in islice(remaining, 1))


def _load(predictor: Predictor, job: _Job) -> tuple[Pixels, list[str]]:
    channels, values = predictor.channels, predictor.preprocessing.values
    pixels, missing = read_any(job.path, channels, values)
    if values is None and channels in (1, 3):
        return pixels, conversion_notes(job.path, channels)
    return pixels, [] if missing is None else [f"{int(missing.sum())} pixels without data"]


def _save(job: _Job, image: Pixels, prediction: Prediction) -> None:
    for kind, file in job.files.items():
        picture = RENDERERS[kind](image, prediction)
        write_atomic(file, partial(picture.save, format="PNG"))


def _written(job: _Job) -> _Job:
    if job.saving is not None:
        job.saving.result()
    return job


def _confidence(prediction: Prediction) -> Image.Image:
    assert prediction.confidence is not None  # _process asks for it
    return render.confidence_png(prediction.confidence)


def _file(out: Path, kind: str, alone: bool, name: str) -> Path:
    return (out if alone else out / kind) / f"{name}.png"


def _check_kinds(outputs: Sequence[str], predictor: Predictor) -> None:
    if not outputs:
        raise InputError(f"no output is asked for; known: {', '.join(RENDERERS)}")
    for kind in outputs:
        if kind not in RENDERERS:
            raise unknown_name("output", kind, RENDERERS)
    if "palette" in outputs and predictor.labels.palette() is None:
        raise InputError(
            "the label map has raw ids above 255, which no palette PNG holds; "
            "ask for ids or color instead of palette"
        )


def _check_target(out: Path, jobs: list[_Job], overwrite: bool) -> None:
    inputs = {job.path.parent.resolve() for job in jobs}
    targets = {file for job in jobs for file in job.files.values()}
    for file in targets:
        if file.parent.resolve() in inputs:
            raise InputError(f"{file.parent} holds the images themselves; choose another folder")
    if not overwrite and ((out / MANIFEST).exists() or any(file.exists() for file in targets)):
        raise InputError(
            f"{out} already holds predictions; choose another folder, or allow overwriting them"
        )

"""Many images: files in, files out, with a manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from semseg.core.checks import FileError, InputError, SemsegError
from semseg.core.files import writing
from semseg.data.bands import read_any
from semseg.predict.header import MAX_PIXELS, look, look_at_bands, own_limit, sizes
from semseg.predict.jobs import Job, check_target, plan
from semseg.predict.manifest import MANIFEST, Manifest, Record
from semseg.predict.outputs import check_outputs
from semseg.predict.pipeline import THREADS, decoded, predicted, save_files, saved
from semseg.predict.predictor import Predictor
from semseg.predict.resume import begin, check_same_images
from semseg.predict.settings import settings_of_call
from semseg.predict.sources import Source, find_images, output_names


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
        kept: number of images that an earlier call had predicted.
    """

    images: int
    failures: tuple[Failure, ...]
    out: Path
    seconds: float
    kept: int = 0


def predict_files(
    predictor: Predictor,
    source: Source,
    out: str | Path,
    outputs: Sequence[str] = ("palette",),
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    resume: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Summary:
    """Predict image files and write the results and a manifest.

    One kind of output is written as ``out/<stem>.png``, several as ``out/<kind>/<stem>.png``.
    An image that cannot be read or predicted is reported, and the others are done. While the
    network runs, threads decode the next images and write the last ones.

    A call that was killed goes on where it stopped when it is given again with ``resume``: an image
    is left out if it has a line in the manifest and its files are whole and newer than itself.
    What failed is tried again. Files and manifest are then those of a call that was not killed.

    Args:
        predictor: the network.
        source: a file, a folder, an archive, a glob pattern or a list of files; see
            :func:`semseg.predict.sources.find_images`.
        out: folder to write into; made if it is not there.
        outputs: kinds, of :data:`semseg.predict.outputs.OUTPUTS`.
        overwrite: replace results of an earlier run.
        on_progress: called with the number of images done and of all.
        resume: continue an earlier call; where there is none, begin.
        max_pixels: larger images are not decoded, and count as failed.

    Returns:
        Counts and failures; each image has a line of JSON in ``out/manifest.jsonl`` with its path,
        height and width, outputs, seconds in the network and notes, or with its error.
        ``out/settings.yaml`` says which network they are of and how it was run.

    Raises:
        FileError: the source does not exist, or a result cannot be written.
        InputError: no images, two with one name, or ``out`` holds results or the images; on
            resuming, results of another network, in other ways or of further images.
        UnknownNameError: a kind of output that does not exist.
    """
    began = time.perf_counter()
    out = Path(out)
    check_outputs(outputs, predictor.labels)
    if max_pixels < 1:
        raise InputError(f"max_pixels is at least 1, got {max_pixels}")
    images = find_images(source)
    jobs = plan(images, output_names(images), out, outputs)
    check_target(out, jobs, overwrite=overwrite, resume=resume)
    failures: list[Failure] = []
    with writing(out), own_limit():
        files = (file for job in jobs for file in job.files.values())
        records = begin(out, settings_of_call(predictor, outputs), files, resume)
        kept = _kept(out, jobs, records)
        done_before = {record["image"] for record in kept}
        left = [job for job in jobs if str(job.path) not in done_before]
        if not predictor.engine.plain:
            predictor.expect(sizes(images))
        load = partial(_load, predictor, max_pixels)
        with (
            Manifest(out / MANIFEST, kept) as m,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            finished = saved(save_files, predicted(predictor, decoded(load, left, pool)), pool)
            for done, job in enumerate(finished, start=len(kept) + 1):
                if job.failed:
                    failures.append(Failure(job.path, job.record["error"]))
                m.add(job.record)
                if on_progress is not None:
                    on_progress(done, len(jobs))
            place = {str(job.path): i for i, job in enumerate(jobs)}
            m.sort(lambda record: place[record["image"]])
    done = len(left) - len(failures)
    return Summary(done, tuple(failures), out, time.perf_counter() - began, len(kept))


def _kept(out: Path, jobs: Sequence[Job], records: Sequence[Record]) -> list[Record]:
    """Return the lines of an earlier call that still hold, in the order of the jobs."""
    check_same_images(out, (str(job.path) for job in jobs), records)
    last = {record["image"]: record for record in records}
    earlier = ((job, last.get(str(job.path))) for job in jobs)
    return [line for job, line in earlier if line is not None and job.is_done(line)]


def _load(predictor: Predictor, max_pixels: int, job: Job) -> None:
    channels, values = predictor.channels, predictor.preprocessing.values
    notes: list[str] = []
    try:
        if values is None and channels in (1, 3):
            notes = look(job.path, channels, max_pixels)
        else:
            look_at_bands(job.path, channels, max_pixels)
        pixels, missing = read_any(job.path, channels, values)
    except SemsegError as error:
        job.fail(error)
    except Exception as error:  # decoders meet damage in ways that nobody has listed
        reason = f"{type(error).__name__}: {error}"
        job.fail(FileError(f"image {job.path} cannot be read: {reason}; replace the file"))
    else:
        job.pixels = pixels
        notes += [] if missing is None else [f"{int(missing.sum())} pixels without data"]
        job.record = {"image": str(job.path), "notes": notes}

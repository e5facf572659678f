"""The way of many images: decoded ahead, predicted in order, written behind."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from semseg.core.checks import SemsegError
from semseg.predict.jobs import Job
from semseg.predict.outputs import needs_confidence, write_output
from semseg.predict.predictor import Predictor

AnyJob = TypeVar("AnyJob", bound=Job)

THREADS = 2
"""One decodes and one writes, more or less; the network has the other cores."""

AHEAD = 4
"""Images that are decoded, or wait to be written, while the network runs."""


def decoded(
    load: Callable[[AnyJob], None], jobs: Iterable[AnyJob], pool: ThreadPoolExecutor
) -> Iterator[AnyJob]:
    """Yield each job with its pixels, or failed; ``AHEAD`` of them are worked on at a time.

    Args:
        load: sets a job's pixels, or lets it fail.
        jobs: in any number.
        pool: where it is called.
    """
    remaining = iter(jobs)
    pending = deque((job, pool.submit(load, job)) for job in islice(remaining, AHEAD))
    while pending:
        job, loading = pending.popleft()
        loading.result()
        yield job
        pending.extend((job, pool.submit(load, job)) for job in islice(remaining, 1))


def predicted(predictor: Predictor, jobs: Iterable[AnyJob]) -> Iterator[AnyJob]:
    """Yield each job with its prediction and what the manifest tells of it, or failed.

    The next image is normalised while the network sees as many as it takes at a time.
    """
    workers = predictor.engine.streams + 1
    with ThreadPoolExecutor(workers, "semseg-predict") as pool:
        waiting: deque[Future[AnyJob]] = deque()
        for job in jobs:
            waiting.append(pool.submit(_predict, predictor, job))
            if len(waiting) >= workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _predict(predictor: Predictor, job: AnyJob) -> AnyJob:
    if job.pixels is None:
        return job
    began = time.perf_counter()
    try:
        job.prediction = predictor(job.pixels, needs_confidence(tuple(job.files)))
    except SemsegError as error:
        job.fail(error)
    else:
        height, width = job.prediction.mask.shape
        job.record |= {
            "height": height,
            "width": width,
            "outputs": {kind: str(file) for kind, file in job.files.items()},
            "seconds": round(time.perf_counter() - began, 4),
        }
    return job


def saved(
    save: Callable[[AnyJob], None], jobs: Iterable[AnyJob], pool: ThreadPoolExecutor
) -> Iterator[AnyJob]:
    """Yield each job when ``save`` is done with it; ``AHEAD`` of them may wait for that.

    Raises:
        FileError: a file cannot be written.
    """
    waiting: deque[AnyJob] = deque()
    for job in jobs:
        if not job.failed:
            job.saving = pool.submit(save, job)
        waiting.append(job)
        if len(waiting) > AHEAD:
            yield _written(waiting.popleft())
    while waiting:
        yield _written(waiting.popleft())


def save_files(job: Job) -> None:
    """Write all files of a job.

    Raises:
        FileError: one cannot be written.
    """
    assert job.pixels is not None  # failed jobs do not come here
    assert job.prediction is not None
    for kind, file in job.files.items():
        write_output(file, kind, job.path, job.pixels, job.prediction)


def _written(job: AnyJob) -> AnyJob:
    if job.saving is not None:
        job.saving.result()
    job.pixels = job.prediction = job.saving = None
    return job

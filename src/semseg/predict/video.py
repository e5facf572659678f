"""Videos and cameras: masks of each frame, an overlay as a video, and a manifest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event

import numpy as np
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.core.files import write_atomic, writing
from semseg.data.images import image_array
from semseg.predict import render
from semseg.predict.frames import Frame, FrameReader, camera_of, ends_when_interrupted
from semseg.predict.header import MAX_PIXELS, check_pixels
from semseg.predict.jobs import Job, check_target
from semseg.predict.manifest import MANIFEST, Manifest, Record
from semseg.predict.outputs import Pixels, check_outputs, output_file, write_output
from semseg.predict.pipeline import THREADS, predicted, saved
from semseg.predict.predictor import Predictor
from semseg.predict.resume import begin, check_same_images
from semseg.predict.run import Failure, Summary
from semseg.predict.settings import settings_of_call
from semseg.predict.video_writer import FrameWriter

_OVERLAY = "overlay"


@dataclass(slots=True)
class _FrameJob(Job):
    number: int = 0
    time: Fraction = Fraction(0)
    picture: Pixels | None = None
    """The frame of the overlay."""


def predict_video(
    predictor: Predictor,
    source: str | Path,
    out: str | Path,
    outputs: Sequence[str] = (_OVERLAY,),
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    resume: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_frames: int | None = None,
) -> Summary:
    """Predict the frames of a video or a camera.

    The overlay is a video, ``out/<stem>.mp4``, of the same size, rate and times and without sound.
    Other outputs are one file per frame, ``out/<number>.png``, with numbers from 0. Where several
    are asked for, each kind has a folder of its own in ``out``. A damaged frame is reported, and
    the others are done. Only a few frames are in memory at a time.

    With ``resume`` a call that was killed is continued as in :func:`semseg.predict.predict_files`;
    with an overlay, which nothing can be appended to, all frames are done again.

    A camera is read until ``max_frames`` or an interrupt (Ctrl-C), after which the files are whole.

    Args:
        predictor: the network.
        source: a video file, or ``camera:0`` for the first camera.
        out: folder to write into; made if it is not there.
        outputs: kinds, of :data:`semseg.predict.outputs.OUTPUTS`.
        overwrite: replace results of an earlier run.
        on_progress: called with the number of frames done and of all, which is an estimate, and 0
            where nobody knows.
        resume: continue an earlier call; where there is none, begin.
        max_pixels: frames that are larger are refused.
        max_frames: frames after these are left out.

    Returns:
        Counts and failures; each frame has a line of JSON in ``out/manifest.jsonl`` with the
        video's path, number, time in seconds, height and width, outputs, seconds in the network and
        notes, or with its error.

    Raises:
        FileError: the source cannot be opened, or a result cannot be written.
        InputError: PyAV is not installed, the frames are too large, no frame is there, or ``out``
            holds results or the video; on resuming, a camera, or results of another network, in
            other ways or of another video.
        UnknownNameError: a kind of output that does not exist.
    """
    began, name = time.perf_counter(), str(source)
    check_outputs(outputs, predictor.labels)
    if max_frames is not None and max_frames < 1:
        raise InputError(f"max_frames is at least 1, got {max_frames}")
    call = _Call(predictor, name, Path(out), tuple(outputs))
    check_target(call.out, [Job(Path(name), call.files(0))], overwrite=overwrite, resume=resume)
    with closing(FrameReader(name, sys.platform)) as reader, writing(call.out):
        check_pixels(Path(name), reader.size, max_pixels)
        if resume and reader.live:
            raise InputError("a camera cannot be continued; leave --resume out")
        call.begin(resume)
        run = partial(call.run, reader, on_progress, max_frames)
        if _OVERLAY in outputs:
            write_atomic(call.video, run)
        else:
            run(None)
    failures, kept = tuple(call.failures), len(call.kept)
    done = call.done - kept - len(failures)
    return Summary(done, failures, call.out, time.perf_counter() - began, kept)


class _Call:
    """One call of :func:`predict_video`."""

    def __init__(
        self, predictor: Predictor, name: str, out: Path, outputs: tuple[str, ...]
    ) -> None:
        self.predictor, self.name, self.out, self.outputs = predictor, name, out, outputs
        self.failures: list[Failure] = []
        self.kept: dict[int, Record] = {}
        self.done = 0
        live = camera_of(name) is not None
        stem = "".join(filter(str.isalnum, name)) if live else Path(name).stem
        self.video = output_file(out, _OVERLAY, len(outputs) == 1, stem).with_suffix(".mp4")

    def files(self, number: int) -> dict[str, Path]:
        """Return what is written of a frame; the overlay is one file for all."""
        alone = len(self.outputs) == 1
        return {
            kind: self.video
            if kind == _OVERLAY
            else output_file(self.out, kind, alone, f"{number:06}")
            for kind in self.outputs
        }

    def begin(self, resume: bool) -> None:
        """Make the folder ready, and keep the lines of an earlier call that still hold."""
        settings = settings_of_call(self.predictor, self.outputs)
        files = self.files(0)
        folders = {file.parent for file in files.values()}
        records = begin(
            self.out,
            settings,
            files.values(),
            resume,
            lambda file: file.parent in folders and file.stem.isdigit(),
        )
        check_same_images(self.out, [self.name], records)
        if _OVERLAY not in self.outputs:
            last = {record["frame"]: record for record in records if "frame" in record}
            self.kept = {
                number: last[number]
                for number in sorted(last)
                if Job(Path(self.name), self.files(number)).is_done(last[number])
            }
        self.done = len(self.kept)

    def run(
        self,
        reader: FrameReader,
        on_progress: Callable[[int, int], None] | None,
        max_frames: int | None,
        video: Path | None,
    ) -> None:
        """Predict all frames, and write the overlay into ``video``."""
        total = min(reader.count, max_frames or reader.count)
        with (
            ends_when_interrupted(reader.live) as stop,
            Manifest(self.out / MANIFEST, list(self.kept.values())) as manifest,
            ThreadPoolExecutor(THREADS) as pool,
            ExitStack() as opened,
        ):
            writer: FrameWriter | None = None
            jobs = self._jobs(islice(reader, max_frames), stop)
            for job in saved(self._save, predicted(self.predictor, jobs), pool):
                if job.picture is not None and video is not None:
                    if writer is None:
                        size = job.picture.shape[:2]
                        writer = FrameWriter(video, size, reader.rate, reader.time_base)
                        opened.enter_context(writer)
                    writer.write(job.picture, job.time)
                    job.picture = None
                self._note(job, manifest)
                if on_progress is not None:
                    on_progress(self.done, max(total, self.done) if total else 0)
            manifest.sort(lambda record: record["frame"])
        if self.done == len(self.failures):
            raise InputError(
                f"no frame of {self.name} could be predicted"
                + (f": {self.failures[0].message}" if self.failures else "; it has none")
            )

    def _jobs(self, frames: Iterable[Frame], stop: Event) -> Iterator[_FrameJob]:
        for frame in frames:
            if stop.is_set():
                return
            if frame.number in self.kept:
                continue
            job = _FrameJob(Path(self.name), self.files(frame.number))
            job.number, job.time = frame.number, frame.time
            job.record = {"image": self.name, "notes": []}
            if frame.pixels is None:
                job.fail(FileError(frame.error))
            else:
                image = Image.fromarray(frame.pixels)
                job.pixels = image_array(image, self.predictor.channels, self.name)
                job.record["notes"] += ["turned upright"] if frame.turned else []
            yield job

    def _save(self, job: _FrameJob) -> None:
        pixels, got = job.pixels, job.prediction
        assert pixels is not None  # failed jobs do not come here
        assert got is not None
        for kind, file in job.files.items():
            if kind == _OVERLAY:
                job.picture = np.asarray(render.overlay(pixels, got.mask, got.labels))
            else:
                write_output(file, kind, Path(f"{job.number:06}.png"), pixels, got)

    def _note(self, job: _FrameJob, manifest: Manifest) -> None:
        seconds = round(float(job.time), 6)
        if job.failed:
            message = f"{self.name}: frame {job.number} at {seconds:.3f} s: " + job.record[
                "error"
            ].removeprefix(f"{self.name}: ")
            self.failures.append(Failure(job.path, message))
            job.record["error"] = message
        manifest.add({"image": self.name, "frame": job.number, "time": seconds} | job.record)
        self.done += 1

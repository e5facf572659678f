"""One image on its way: what is written of it, and whether an earlier call has written it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semseg.core import archive
from semseg.core.checks import InputError, SemsegError
from semseg.predict.manifest import MANIFEST, Record
from semseg.predict.outputs import OUTPUTS, output_file
from semseg.predict.predictor import Prediction


@dataclass(slots=True)
class Job:
    """One image on its way through decoding, network and writing.

    Args:
        path: the image.
        files: what is written of it, by kind.
        record: its line in the manifest.
        pixels: ``(H, W, C)``, once it is decoded and until it is written.
        prediction: what the network made of it, for as long.
        saving: ends when the files are written.
    """

    path: Path
    files: dict[str, Path]
    record: Record = field(default_factory=dict)
    pixels: NDArray[np.uint8] | None = None
    prediction: Prediction | None = None
    saving: Future[None] | None = None

    def fail(self, error: SemsegError) -> None:
        """Note what went wrong, with the name of the image."""
        named = str(self.path) in str(error)
        self.record = {
            "image": str(self.path),
            "error": str(error) if named else f"{self.path}: {error}",
        }

    @property
    def failed(self) -> bool:
        """Whether something went wrong."""
        return "error" in self.record

    def is_done(self, record: Record) -> bool:
        """Tell whether an earlier line holds: the files are whole and newer than the image."""
        wanted = {kind: str(file) for kind, file in self.files.items()}
        if record.get("outputs") != wanted:  # one of an error has none
            return False
        if not all(OUTPUTS[kind].is_whole(file) for kind, file in self.files.items()):
            return False
        found = archive.inside(self.path)
        source = self.path if found is None else found[0]
        try:
            changed = source.stat().st_mtime_ns
            return all(changed <= file.stat().st_mtime_ns for file in self.files.values())
        except OSError:
            return False


def plan(
    images: Sequence[Path], names: Sequence[str], out: Path, outputs: Sequence[str]
) -> list[Job]:
    """Return a job for each image."""
    alone = len(outputs) == 1
    return [
        Job(path, {kind: output_file(out, kind, alone, name) for kind in outputs})
        for path, name in zip(images, names, strict=True)
    ]


def check_target(out: Path, jobs: Sequence[Job], *, overwrite: bool, resume: bool) -> None:
    """Refuse to write over the images, or over results unless told.

    Raises:
        InputError: files would be lost, or both were told.
    """
    if overwrite and resume:
        raise InputError("resume and overwrite exclude each other; give one of them")
    inputs = {job.path.parent.resolve() for job in jobs}
    targets = {file for job in jobs for file in job.files.values()}
    for folder in {file.parent for file in targets}:
        if folder.resolve() in inputs:
            raise InputError(f"{folder} holds the images themselves; choose another folder")
    if overwrite or resume:
        return
    if (out / MANIFEST).exists() or any(file.exists() for file in targets):
        raise InputError(
            f"{out} already holds predictions; choose another folder, or give --resume to continue "
            "them, --overwrite to replace them"
        )

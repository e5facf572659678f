"""The beginning of a call: a folder made ready, or one that a killed call has left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from semseg.core.checks import InputError
from semseg.predict.manifest import MANIFEST, Record, read_records
from semseg.predict.settings import SETTINGS, check_same_settings, write_settings


def begin(
    out: Path,
    settings: Mapping[str, Any],
    files: Iterable[Path],
    resume: bool,
    is_ours: Callable[[Path], bool] | None = None,
) -> list[Record]:
    """Make an output folder ready, and return the lines of the call that is continued.

    Args:
        out: the folder.
        settings: of this call.
        files: that it will write.
        resume: whether an earlier call is continued; without one it begins.
        is_ours: tells of other files in their folders whether this call may write them.

    Raises:
        FileError: the folder does not say how its predictions were made.
        InputError: they were made in another way.
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    targets = {out / MANIFEST, out / SETTINGS, *files}
    if resume:
        _remove_leftovers(targets, is_ours)
        if any(file.exists() for file in targets):
            check_same_settings(out, settings)
            return read_records(out / MANIFEST)
    if (out / MANIFEST).exists():  # its lines must never stand beside settings that are not theirs
        (out / MANIFEST).write_bytes(b"")
    write_settings(out, settings)
    return []


def check_same_images(out: Path, images: Iterable[str], records: Iterable[Record]) -> None:
    """Refuse to continue with images missing, whose results would belong to nothing.

    Raises:
        InputError: an image was predicted that is not asked for now.
    """
    asked = set(images)
    done = dict.fromkeys(record["image"] for record in records if "error" not in record)
    lost = [image for image in done if image not in asked]
    if lost:
        raise InputError(
            f"{out} holds predictions of {len(lost)} images that are not asked for now, the first "
            f"is {lost[0]}; continue with the same images, or choose another folder"
        )


def _remove_leftovers(targets: set[Path], is_ours: Callable[[Path], bool] | None) -> None:
    """Remove what a killed call had half written."""
    for folder in {file.parent for file in targets}:
        for path in folder.glob(".*.partial-*"):
            file = path.with_name(path.name[1:].rpartition(".partial-")[0])
            if file in targets or (is_ours is not None and is_ours(file)):
                path.unlink()

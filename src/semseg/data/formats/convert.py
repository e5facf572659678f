"""From one label format to another, checked by reading back what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError, check_folder
from semseg.core.labels import LabelMap
from semseg.data.formats.base import FORMATS, Annotation, LabelFormat, Mask, Size
from semseg.data.formats.find import ImageNames, detect_format, read_annotations
from semseg.data.images import IMAGE_SUFFIXES, image_size


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was done.

    Args:
        images: number of images.
        source: format that was read.
        target: format that was written.
        out: file or folder that was written.
    """

    images: int
    source: str
    target: str
    out: Path


def convert(
    source: Path,
    out: Path,
    to: str,
    labels: LabelMap,
    *,
    kind: str | None = None,
    images: Path | None = None,
    background: str | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write labels in another format and read them back: every pixel must be the same.

    Args:
        source: a file of labels or a folder of them.
        out: the file to write for a format that holds many images, a folder for the others.
        to: name of the format to write.
        labels: the classes.
        kind: name of the format of ``source``; found from the files if ``None``.
        images: folder of the images, needed where labels do not say their size; their names are
            written into formats that name images.
        background: name of the label of what no shape covers; see
            :func:`semseg.data.formats.base.uncovered`.
        overwrite: whether files may be replaced.
        on_progress: called with the images done and their number.

    Returns:
        A count, for messages.

    Raises:
        FileError: a file is missing or damaged, or would be replaced.
        InputError: a class is unknown, a size is missing or wrong, or the target format cannot
            hold these labels.
        UnknownNameError: no format of that name.
    """
    kind, target = kind or detect_format(source), FORMATS[to]
    annotations = read_annotations(source, kind)
    photos = _photos(annotations, images)
    files = _targets(out, target, annotations)
    for file in sorted(set(files)):
        if file.exists() and not overwrite:
            raise FileError(f"{file} exists; choose another place, or allow to overwrite")

    written: dict[str, tuple[Size, bytes]] = {}

    def masks() -> Iterator[Mask]:
        for done, (annotation, photo) in enumerate(zip(annotations, photos, strict=True), 1):
            mask = _mask(annotation, labels, photo, images or Path(), background)
            height, width = mask.ids.shape
            written[mask.image] = (height, width), _digest(mask.ids)
            yield mask
            if on_progress is not None:
                on_progress(done, len(annotations))

    if target.many:
        target.write(out, masks(), labels, background)
        back = {entry.image: entry for entry in target.read(out)}
    else:
        back = {}
        for file, mask in zip(files, masks(), strict=True):
            target.write(file, [mask], labels, background)
            back[mask.image] = target.read(file)[0]
    for image, (size, digest) in written.items():
        if _digest(back[image].ids(labels, size, background)) != digest:
            raise FileError(f"{out} does not give the pixels of {image} back; please report this")
    return Conversion(len(annotations), kind, to, out)


def _targets(out: Path, target: LabelFormat, annotations: list[Annotation]) -> list[Path]:
    """Return the file that each image's labels go to."""
    suffix = target.suffixes[0]
    if target.many:
        if out.suffix.lower() not in target.suffixes:
            raise InputError(
                f"{target.name} is one file for all images, but {out} is not named "
                f"{'/'.join(target.suffixes)}; give e.g. {out / f'labels{suffix}'}"
            )
        return [out] * len(annotations)
    if out.suffix.lower() in target.suffixes:
        raise InputError(f"{target.name} is one file for each image; give a folder, not {out}")
    return [out / PurePosixPath(one.image).with_suffix(suffix) for one in annotations]


def _photos(annotations: Sequence[Annotation], folder: Path | None) -> list[Path | None]:
    """Return the image file of each annotation, or ``None`` where no folder was given."""
    if folder is None:
        return [None] * len(annotations)
    check_folder(folder, "image folder")
    names = ImageNames(
        {
            file.relative_to(folder).with_suffix("").as_posix(): file
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES
        }
    )
    found: list[Path | None] = []
    for annotation in annotations:
        file = names.get(annotation.image)
        if file is None:
            raise FileError(
                f"{annotation.source} is for the image {annotation.image!r}, which {folder} lacks; "
                "add it, or give the folder that the names in the file begin from"
            )
        found.append(file)
    return found


def _mask(
    annotation: Annotation,
    labels: LabelMap,
    file: Path | None,
    folder: Path,
    background: str | None,
) -> Mask:
    """Draw the labels of one image, with the name and the size of its file where there is one."""
    name, size = annotation.image, None
    if file is not None:
        name, size = file.relative_to(folder).as_posix(), image_size(file)
    return Mask(name, annotation.ids(labels, size, background))


def _digest(ids: NDArray[Any]) -> bytes:
    return hashlib.sha256(ids.astype(np.uint16).tobytes()).digest()

"""Which files hold labels, of which format, and of which images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.data.formats.base import FORMATS, Annotation, LabelFormat
from semseg.data.formats.fields import read_text

_SKIPPED = {"classes.txt", "train.txt", "val.txt", "test.txt", "notes.txt"}  # beside YOLO's files
_TEXTS = (".json", ".geojson", ".xml", ".txt")


def read_annotations(
    source: Path, kind: str | None = None, under: Path | None = None
) -> list[Annotation]:
    """Read a file of labels, or all of a folder.

    Args:
        source: the file or folder; hidden files are passed over.
        kind: name of the format; found by :func:`detect_format` if ``None``.
        under: the folder that image names are relative to, if other than ``source``.

    Returns:
        One entry per image, in the order of the names of the files.

    Raises:
        UnknownNameError: no format of that name.
        FileError: a file is missing, damaged or not of that format.
        InputError: a file holds something wrong, no file was found, or two are for one image.
    """
    entry = FORMATS[kind or detect_format(source)]
    files = label_files(source, entry)
    top = under or (source if source.is_dir() else source.parent)
    found: list[Annotation] = []
    owners: dict[str, str] = {}
    for file in files:
        for annotation in entry.read(file):
            name = annotation.image
            if not entry.many:  # named by the file, so its subfolder counts
                name = (file.relative_to(top).parent / Path(name).name).as_posix()
            stem = Path(name).with_suffix("").as_posix()
            if stem in owners:
                raise InputError(
                    f"{owners[stem]} and {annotation.source} both label the image {stem}; keep one"
                )
            owners[stem] = annotation.source
            found.append(replace(annotation, image=name))
    return found


def label_files(source: Path, entry: LabelFormat) -> list[Path]:
    """Return the files of a format in a folder, or the one file.

    Raises:
        FileError: the folder or file does not exist.
        InputError: the folder holds none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileError(f"{source} does not exist; give a file of labels or a folder of them")
    files = [file for file in _visible(source) if file.suffix.lower() in entry.suffixes]
    if not files:
        raise InputError(
            f"{source} holds no {' or '.join(entry.suffixes)} files; give their folder"
        )
    return files


def detect_format(source: Path) -> str:
    """Return the name of the format of a file, or of the first file of labels in a folder.

    Text files are told by their suffix and by words in them, images by whether they have a
    palette, colours or one channel.

    Raises:
        FileError: there is no such file or folder.
        InputError: it is none of the formats.
    """
    if source.is_dir():
        suffixes = {suffix for name in FORMATS for suffix in FORMATS[name].suffixes}
        files = [file for file in _visible(source) if file.suffix.lower() in suffixes]
        # photographs may lie beside the files of a labelling tool
        files.sort(key=lambda file: file.suffix.lower() not in _TEXTS)
        if not files:
            raise InputError(f"{source} holds no file of labels; known: {', '.join(FORMATS)}")
        return detect_format(files[0])
    if not source.is_file():
        raise FileError(f"{source} does not exist; give a file of labels or a folder of them")
    suffix = source.suffix.lower()
    if suffix in _TEXTS:
        return _told_by_words(source, suffix)
    try:
        with Image.open(source) as image:
            mode = image.mode
    except (OSError, SyntaxError) as error:
        raise FileError(f"{source} cannot be read: {error}; replace the file") from error
    return "palette" if mode == "P" else "rgb" if mode in ("RGB", "RGBA") else "ids"


def _visible(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and file.name not in _SKIPPED
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _told_by_words(file: Path, suffix: str) -> str:
    known = [FORMATS[name] for name in FORMATS if suffix in FORMATS[name].suffixes]
    if len(known) == 1:
        return known[0].name
    text = read_text(file)
    fitting = [
        entry for entry in known if entry.marks and all(mark in text for mark in entry.marks)
    ]
    if not fitting:
        names = ", ".join(entry.name for entry in known)
        raise InputError(f"{file} is none of the formats {names}; say which one it is")
    # panoptic files have the words of instances and one more
    return max(fitting, key=lambda entry: len(entry.marks)).name


class ImageNames:
    """Image files by the names that labels call them.

    A name fits without its suffix; if none does, by its last part alone, as files of labels often
    come from a machine with other folders. Two images of one last part are not told apart by it.

    Args:
        files: image files by their relative path without suffix.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)
        self._last: dict[str, Path | None] = {}
        for stem, file in files.items():
            name = PurePosixPath(stem).name
            self._last[name] = None if name in self._last else file

    def get(self, image: str) -> Path | None:
        """Return the file of an image, or ``None``."""
        stem = PurePosixPath(image).with_suffix("")
        return self._files.get(stem.as_posix()) or self._last.get(stem.name)

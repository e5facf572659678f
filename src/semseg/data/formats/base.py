"""What every label format promises, and how it enters the list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import InputError, nearest
from semseg.core.labels import Label, LabelMap
from semseg.core.registry import Registry

Size = tuple[int, int]
"""Height and width."""

Key = str | int
"""What a file calls a class: its name, or its raw id."""

BACKGROUND_NAMES = ("background", "_background_", "__background__")


@dataclass(frozen=True, kw_only=True)
class Annotation(ABC):
    """The labels of one image, read from a file and not drawn yet.

    Args:
        image: name of the image, relative to the folder of images; a format that does not name
            images gives the name of its own file.
        size: height and width, where the file says them.
        source: the file, and the place in it, for messages.
        file: the file that holds the labels.
    """

    image: str
    size: Size | None
    source: str
    file: Path

    @property
    def keys(self) -> frozenset[Key]:
        """The classes the file names; empty where only its pixels tell."""
        return frozenset()

    @abstractmethod
    def ids(
        self, labels: LabelMap, size: Size | None = None, background: str | None = None
    ) -> NDArray[Any]:
        """Return the mask.

        Args:
            labels: the classes that may occur.
            size: the image's height and width; needed where the file does not say them.
            background: name of the label of what no shape covers; see :func:`uncovered`.

        Returns:
            ``(H, W)`` raw ids, all of them in ``labels``.

        Raises:
            FileError: the file is damaged.
            InputError: a class, id or colour is unknown, or the size is another one.
        """


@dataclass(frozen=True, slots=True)
class Mask:
    """What is to be written: an image's name, and its raw ids ``(H, W)``."""

    image: str
    ids: NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFormat:
    """One line of the list of formats."""

    name: str
    title: str
    suffixes: tuple[str, ...]
    """Of its files, the first for writing."""
    many: bool = False
    """Whether one file holds the labels of many images."""
    marks: tuple[str, ...] = ()
    """Words in a file by which it is told from other formats of its suffix."""
    read: Callable[[Path], Sequence[Annotation]]
    """``(file) -> labels of the images in it``."""
    write: Callable[[Path, Iterable[Mask], LabelMap, str | None], None]
    """``(file, masks, labels, background)``; exactly one mask unless ``many``."""


FORMATS: Registry[LabelFormat] = Registry("label format", "semseg.data.formats")


def register_format(**facts: Any) -> None:
    """Enter a format; ``facts`` are fields of :class:`LabelFormat`."""
    entry = LabelFormat(**facts)
    FORMATS.add(entry.name, entry)


def find_label(labels: LabelMap, key: Key, source: str) -> Label:
    """Return the label of that name or raw id.

    Raises:
        InputError: there is none.
    """
    for label in labels.labels:
        if key == (label.name if isinstance(key, str) else label.raw_id):
            return label
    if isinstance(key, str):
        hint = nearest(key, {label.name for label in labels.labels})
    else:
        hint = f"known: {', '.join(str(label.raw_id) for label in labels.labels[:12])}"
    kind = "class" if isinstance(key, str) else "class id"
    raise InputError(
        f"{source}: {kind} {key!r} is not in the label map ({hint}); add it as a class or as "
        "ignored"
    )


def uncovered(labels: LabelMap, background: str | None, source: str = "background") -> Label | None:
    """Return the label of pixels that no shape covers.

    It is the one named ``background``; without a name the label called background,
    ``_background_`` or ``__background__``; else the first ignored one; else there is none.

    Raises:
        InputError: the map has no label of the given name.
    """
    if background is not None:
        return find_label(labels, background, source)
    named = [label for label in labels.labels if label.name.lower() in BACKGROUND_NAMES]
    ignored = [label for label in labels.labels if label.ignored]
    return next(iter(named + ignored), None)


def check_size(stated: Size | None, size: Size | None, source: str) -> Size:
    """Return the size of a mask, from its file or from the image.

    Raises:
        InputError: neither says it, or they differ.
    """
    if stated is None and size is None:
        raise InputError(f"{source} does not say the size of its image; give the folder of images")
    if stated is not None and size is not None and stated != size:
        raise InputError(
            f"{source} is for an image of {stated[0]} x {stated[1]} (height x width), but the "
            f"image is {size[0]} x {size[1]}; give both the same size and orientation"
        )
    chosen = stated or size
    assert chosen is not None
    return chosen


def by_name(labels: LabelMap, ids: NDArray[Any], kind: str) -> dict[int, Label]:
    """Return the labels that occur in a mask, for a format that stores names.

    Raises:
        InputError: two labels share a name, so the file could not tell them apart.
    """
    named: dict[int, Label] = {}
    for raw_id in np.unique(ids).tolist():
        label = find_label(labels, int(raw_id), "mask")
        other = find_label(labels, label.name, "mask")
        if other is not label:
            raise InputError(
                f"{kind} tells classes by name, but ids {other.raw_id} and {label.raw_id} are both "
                f"named {label.name!r}; rename one"
            )
        named[label.raw_id] = label
    return named


def id_type(labels: LabelMap) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest type that holds every raw id."""
    return np.uint8 if max(label.raw_id for label in labels.labels) <= 255 else np.uint16

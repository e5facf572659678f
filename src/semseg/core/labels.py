"""The label map: the one place that says what a number in a mask means.

A mask file holds *raw ids*; a network learns *train ids* 0 … K-1; pixels that count for nothing
carry the *ignore id*. Every dataset has a :class:`LabelMap`, checkpoints and exported models carry
it, and predictions are written back through it. Off-by-one labels, palettes, "reduce zero label"
and merged classes are all cases of this mapping.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import InputError, ranges
from semseg.core.id_table import UNKNOWN, IdTable
from semseg.core.label import Label, default_color, read_labels, read_yaml, write_labels

__all__ = ["Label", "LabelMap", "default_color"]


@dataclass(frozen=True)
class LabelMap:
    """Names, ids and colours of a dataset's classes.

    Args:
        labels: one entry per raw id that may stand in a mask file; any other id is an error.

    Raises:
        InputError: raw ids or names repeat, or train ids are not 0 … K-1.

    Example:
        >>> labels = LabelMap.from_names(["sky", "road"], ignore={255: "void"})
        >>> labels.encode(np.array([[1, 255]], dtype=np.uint8))
        array([[  1, 255]], dtype=uint8)
        >>> labels.num_classes, labels.names
        (2, ('sky', 'road'))
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        if repeated := _repeated(label.raw_id for label in self.labels):
            raise InputError(f"label map lists raw ids {repeated} twice; give each id one line")
        train = {label.train_id for label in self.labels if label.train_id is not None}
        if not train:
            raise InputError("label map has no class that is not ignored; list at least one")
        if train != set(range(len(train))):
            raise InputError(
                f"train ids must be 0 … K-1 without gaps, got {sorted(train)}; "
                "leave them out to number the classes in their order"
            )
        if repeated := _repeated(self.names):  # scores are told apart by name
            raise InputError(f"label map has two classes named {repeated[0]!r}; rename one")

    # ---- making one ------------------------------------------------------------------------

    @classmethod
    def from_names(
        cls, names: Sequence[str], *, ignore: Mapping[int, str] | None = None
    ) -> LabelMap:
        """Return classes numbered 0 … K-1 in the order of ``names``, in the VOC colours."""
        labels = [Label(name, i, i, default_color(i)) for i, name in enumerate(names)]
        void = [Label(name, i, None, (0, 0, 0)) for i, name in (ignore or {}).items()]
        return cls((*labels, *void))

    @classmethod
    def from_dict(cls, data: Any, source: str = "label map") -> LabelMap:
        """Read a list of names or a dictionary; :func:`semseg.core.label.read_labels` says how.

        Raises:
            InputError: something else came; the message starts with ``source``.
        """
        try:
            return cls(read_labels(data))
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    @classmethod
    def from_yaml(cls, path: Path) -> LabelMap:
        """Read a ``classes.yaml``; see :func:`semseg.core.label.read_labels` for its form.

        Raises:
            FileError: the file is missing or is not YAML.
            InputError: its content is wrong.
        """
        return cls.from_dict(read_yaml(Path(path)), source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Return the form that :meth:`from_dict` reads, complete."""
        return write_labels(self.labels)

    # ---- what it says ----------------------------------------------------------------------

    @cached_property
    def classes(self) -> tuple[Label, ...]:
        """The label that stands for each train id, in their order."""
        first: dict[int, Label] = {}
        for label in self.labels:
            if label.train_id is not None:
                first.setdefault(label.train_id, label)
        return tuple(first[i] for i in range(len(first)))

    @property
    def num_classes(self) -> int:
        """K, the number of train ids."""
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each train id."""
        return tuple(label.name for label in self.classes)

    @property
    def ignore_id(self) -> int:
        """What stands in encoded masks where pixels count for nothing: 255, or 65535 if K > 255."""
        return 255 if self.num_classes <= 255 else 65535

    @property
    def colors(self) -> NDArray[np.uint8]:
        """``(K, 3)`` red, green, blue of each train id."""
        return np.array([label.color for label in self.classes], dtype=np.uint8)

    # ---- masks -----------------------------------------------------------------------------

    def encode(self, mask: NDArray[Any], source: str | Path = "mask") -> NDArray[Any]:
        """Turn raw ids into train ids; ignored pixels become :attr:`ignore_id`.

        Args:
            mask: ``(H, W)`` integers as read from a file.
            source: the file's name, for the message.

        Returns:
            ``(H, W)`` ``uint8``, or ``int32`` when there are more than 255 classes.

        Raises:
            InputError: the mask is not two-dimensional integers, or holds ids the map lacks.
        """
        if mask.ndim != 2 or mask.dtype.kind not in "uib":
            raise InputError(
                f"{source}: wanted a mask of integer ids (H, W), got {mask.dtype} of shape "
                f"{mask.shape}; convert colours to ids first"
            )
        encoded, unknown = self._encoder(mask)
        if unknown is not None:
            ids, counts = np.unique(mask[unknown], return_counts=True)
            shown = ", ".join(f"{i} ({n} pixels)" for i, n in zip(ids[:8], counts[:8], strict=True))
            more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
            raise InputError(
                f"{source}: holds the ids {shown}{more}, which the label map does not list; it "
                f"has {ranges(label.raw_id for label in self.labels)}. "
                "Add them as classes or as ignored"
            )
        return encoded.astype(np.uint8 if self.ignore_id == 255 else np.int32, copy=False)

    def decode(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Turn train ids back into the raw ids that files hold.

        Args:
            mask: ``(H, W)`` train ids; pixels with :attr:`ignore_id` become the first ignored
                label's raw id.

        Returns:
            ``(H, W)`` ``uint8``, or ``uint16`` when a raw id is above 255.

        Raises:
            InputError: a value is neither a train id nor the ignore id, or pixels are ignored
                and the map has no ignored label.
        """
        raw = self._from_train(self._decoder, mask)
        if (raw == UNKNOWN).any():
            raise InputError("mask holds ignored pixels, but no label of the map is ignored")
        top = max(label.raw_id for label in self.labels)
        return raw.astype(np.uint8 if top <= 255 else np.uint16)

    def colorize(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Return ``(H, W, 3)`` colours of ``(H, W)`` train ids; ignored pixels are black.

        Raises:
            InputError: a value is neither a train id nor the ignore id.
        """
        table = np.zeros((self.ignore_id + 1, 3), dtype=np.uint8)
        table[: self.num_classes] = self.colors
        return self._from_train(table, mask)

    def palette(self) -> list[int] | None:
        """Return 768 numbers for a palette PNG of raw ids, or ``None`` if an id exceeds 255."""
        if max(label.raw_id for label in self.labels) > 255:
            return None
        table = np.zeros((256, 3), dtype=np.uint8)
        for label in self.labels:
            table[label.raw_id] = label.color
        return [int(value) for value in table.flatten()]

    def difference(self, other: LabelMap) -> str | None:
        """Say in one clause how the classes differ, or ``None`` if they are the same in order."""
        if self.names == other.names:
            return None
        if len(self.names) != len(other.names):
            return f"{self.num_classes} classes against {other.num_classes}"
        i = next(i for i, (a, b) in enumerate(zip(self.names, other.names, strict=True)) if a != b)
        return f"class {i} is {self.names[i]!r} against {other.names[i]!r}"

    def _from_train(self, table: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
        mask = np.asarray(mask)
        wrong = (mask < 0) | (mask >= self.num_classes) & (mask != self.ignore_id)
        if wrong.any():
            raise InputError(
                f"mask holds values outside 0 … {self.num_classes - 1} and {self.ignore_id}: "
                f"{mask.min()} … {mask.max()}; it does not belong to this label map"
            )
        return table.take(mask, axis=0)

    @cached_property
    def _encoder(self) -> IdTable:
        """Train id of each raw id."""
        ignore_id = self.ignore_id
        return IdTable(
            {x.raw_id: ignore_id if x.train_id is None else x.train_id for x in self.labels}
        )

    @cached_property
    def _decoder(self) -> NDArray[np.int32]:
        """Raw id of each train id, and of the ignore id."""
        table = np.full(self.ignore_id + 1, UNKNOWN, dtype=np.int32)
        table[: self.num_classes] = [label.raw_id for label in self.classes]
        table[self.ignore_id] = next((x.raw_id for x in self.labels if x.ignored), UNKNOWN)
        return table


def _repeated(values: Iterable[Any]) -> list[Any]:
    return sorted(value for value, count in Counter(values).items() if count > 1)

"""The label map: the one place that says what a number in a mask means.

A mask file holds *raw ids*; a network learns *train ids* 0 … K-1; pixels that count for nothing
carry the *ignore id*. Every dataset has a :class:`LabelMap`, checkpoints and exported models carry
it, and predictions are written back through it. Off-by-one labels, palettes, "reduce zero label"
and merged classes are all cases of this mapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError, nearest

Color = tuple[int, int, int]


def default_color(index: int) -> Color:
    """Return colour ``index`` of the Pascal VOC palette: bits of the id spread over R, G, B.

    Example:
        >>> default_color(0), default_color(1), default_color(15)
        ((0, 0, 0), (128, 0, 0), (192, 128, 128))
    """
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> 0 & 1) << (7 - bit)
        green |= (index >> 1 & 1) << (7 - bit)
        blue |= (index >> 2 & 1) << (7 - bit)
        index >>= 3
    return red, green, blue


@dataclass(frozen=True, slots=True)
class Label:
    """One line of a label map.

    Args:
        name: what the pixels show.
        raw_id: the number in mask files, 0 … 65535.
        train_id: the class the network learns, or ``None`` if the pixels are ignored. Several
            labels may share a train id: they are merged, and the first one's raw id, name and
            colour stand for all of them when predictions are written.
        color: red, green, blue, each 0 … 255.
    """

    name: str
    raw_id: int
    train_id: int | None
    color: Color

    @property
    def ignored(self) -> bool:
        """Whether pixels of this label count for nothing."""
        return self.train_id is None


@dataclass(frozen=True)
class LabelMap:
    """Names, ids and colours of a dataset's classes.

    Args:
        labels: one entry per raw id that may stand in a mask file; any other id is an error.

    Raises:
        InputError: raw ids repeat, train ids are not 0 … K-1, or a value is out of range.

    Example:
        >>> labels = LabelMap.from_names(["sky", "road"], ignore={255: "void"})
        >>> labels.encode(np.array([[1, 255]], dtype=np.uint8))
        array([[  1, 255]], dtype=uint8)
        >>> labels.num_classes, labels.names
        (2, ('sky', 'road'))
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        raw = [label.raw_id for label in self.labels]
        if repeated := sorted({i for i in raw if raw.count(i) > 1}):
            raise InputError(f"label map lists raw ids {repeated} twice; give each id one line")
        train = {label.train_id for label in self.labels if label.train_id is not None}
        if not train:
            raise InputError("label map has no class that is not ignored; list at least one")
        if train != set(range(len(train))):
            raise InputError(
                f"train ids must be 0 … K-1 without gaps, got {sorted(train)}; "
                "leave them out to number the classes in their order"
            )
        for label in self.labels:
            if not 0 <= label.raw_id <= 65535:
                raise InputError(f"raw id of {label.name!r} is {label.raw_id}; wanted 0 … 65535")
            if len(label.color) != 3 or not all(0 <= c <= 255 for c in label.color):
                raise InputError(
                    f"colour of {label.name!r} is {label.color}; wanted three numbers 0 … 255"
                )

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
        """Read ``{"classes": [{name, id, color, ignore, train_id}, …]}`` or a list of names.

        ``id`` defaults to the position, ``color`` to the VOC palette, ``ignore`` to false and
        ``train_id`` to the position among the classes that are not ignored.

        Raises:
            InputError: something else came; the message starts with ``source``.
        """
        entries = data.get("classes") if isinstance(data, Mapping) else data
        if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
            raise InputError(f"{source} needs a list 'classes' of names or of {{name, id, color}}")
        labels: list[Label] = []
        next_train = 0
        for position, entry in enumerate(entries):
            item = {"name": entry} if isinstance(entry, str) else entry
            if not isinstance(item, Mapping):
                raise InputError(f"{source}: class {position} is {entry!r}; wanted a name or a map")
            known = {"name", "id", "color", "ignore", "train_id"}
            for key in sorted(item.keys() - known):
                raise InputError(
                    f"{source}: class {position} has no setting {key!r}; {nearest(key, known)}"
                )
            if "name" not in item:
                raise InputError(f"{source}: class {position} has no name; add one")
            raw_id = _integer(item.get("id", position), f"{source}: id of {item['name']!r}")
            train_id: int | None = None
            if not item.get("ignore", False):
                value = item.get("train_id", next_train)
                train_id = _integer(value, f"{source}: train_id of {item['name']!r}")
                next_train = max(next_train, train_id + 1)
            color = tuple(item.get("color") or default_color(raw_id))
            labels.append(Label(str(item["name"]), raw_id, train_id, color))
        try:
            return cls(tuple(labels))
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    @classmethod
    def from_yaml(cls, path: Path) -> LabelMap:
        """Read a ``classes.yaml``; see :meth:`from_dict` for its form.

        Raises:
            FileError: the file is missing or is not YAML; ``InputError``: its content is wrong.
        """
        import yaml

        path = Path(path)
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise FileError(
                f"{path} does not exist; write one with 'classes:' and a list of names"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise FileError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        return cls.from_dict(data, source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Return the form that :meth:`from_dict` reads, complete."""
        entries: list[dict[str, Any]] = []
        for label in self.labels:
            entry: dict[str, Any] = {
                "name": label.name,
                "id": label.raw_id,
                "color": list(label.color),
            }
            entry |= {"ignore": True} if label.ignored else {"train_id": label.train_id}
            entries.append(entry)
        return {"classes": entries}

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
        values = mask.astype(np.int64, copy=False)
        outside = (values < 0) | (values > 65535)
        encoded = self._encoder[np.where(outside, 0, values)]
        wrong = outside | (encoded == _UNKNOWN)
        if wrong.any():
            ids, counts = np.unique(values[wrong], return_counts=True)
            shown = ", ".join(f"{i} ({n} pixels)" for i, n in zip(ids[:8], counts[:8], strict=True))
            more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
            raise InputError(
                f"{source}: holds the ids {shown}{more}, which the label map does not list; it "
                f"has {_ranges(label.raw_id for label in self.labels)}. "
                "Add them as classes or as ignored"
            )
        return encoded.astype(np.uint8 if self.ignore_id == 255 else np.int32)

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
        values = np.asarray(mask).astype(np.int64, copy=False)
        ignored = values == self.ignore_id
        if ((values < 0) | (values >= self.num_classes) & ~ignored).any():
            raise InputError(
                f"mask holds values outside 0 … {self.num_classes - 1} and {self.ignore_id}: "
                f"{values.min()} … {values.max()}; it does not belong to this label map"
            )
        table = np.array([label.raw_id for label in self.classes], dtype=np.int64)
        raw = table[np.where(ignored, 0, values)]
        if ignored.any():
            void = next((label for label in self.labels if label.ignored), None)
            if void is None:
                raise InputError("mask holds ignored pixels, but no label of the map is ignored")
            raw[ignored] = void.raw_id
        top = max(label.raw_id for label in self.labels)
        return raw.astype(np.uint8 if top <= 255 else np.uint16)

    def colorize(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Return ``(H, W, 3)`` colours of ``(H, W)`` train ids; ignored pixels are black."""
        table = np.zeros((self.ignore_id + 1, 3), dtype=np.uint8)
        table[: self.num_classes] = self.colors
        colored: NDArray[np.uint8] = table[np.asarray(mask).astype(np.int64, copy=False)]
        return colored

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

    @cached_property
    def _encoder(self) -> NDArray[np.int64]:
        table = np.full(65536, _UNKNOWN, dtype=np.int64)
        for label in self.labels:
            table[label.raw_id] = self.ignore_id if label.train_id is None else label.train_id
        return table


_UNKNOWN = -1


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{what} is {value!r}; wanted a whole number")
    return value


def _ranges(ids: Iterable[int]) -> str:
    parts: list[list[int]] = []
    for i in sorted(ids):
        if parts and i == parts[-1][1] + 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)

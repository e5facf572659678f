"""One line of a label map, and the form in which people write such lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semseg.core import archive
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

    Raises:
        InputError: the id or the colour is out of range.
    """

    name: str
    raw_id: int
    train_id: int | None
    color: Color

    def __post_init__(self) -> None:
        if not 0 <= self.raw_id <= 65535:
            raise InputError(f"raw id of {self.name!r} is {self.raw_id}; wanted 0 … 65535")
        if len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color):
            raise InputError(
                f"colour of {self.name!r} is {self.color}; wanted three numbers 0 … 255"
            )

    @property
    def ignored(self) -> bool:
        """Whether pixels of this label count for nothing."""
        return self.train_id is None


_KEYS = ("name", "id", "color", "ignore", "train_id")


def read_labels(data: Any) -> tuple[Label, ...]:
    """Read ``{"classes": [{name, id, color, ignore, train_id}, …]}`` or a list of names.

    ``id`` defaults to the position, ``color`` to the VOC palette, ``ignore`` to false and
    ``train_id`` to the next number after the largest so far.

    Raises:
        InputError: something else came.

    Example:
        >>> [label.train_id for label in read_labels(["a", {"name": "b", "ignore": True}, "c"])]
        [0, None, 1]
    """
    entries = data.get("classes") if isinstance(data, Mapping) else data
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise InputError("needs a list 'classes' of names or of {name, id, color}")
    labels: list[Label] = []
    next_train = 0
    for position, entry in enumerate(entries):
        item = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(item, Mapping):
            raise InputError(
                f"class {position} is {entry!r}; wanted a name (in quotes if YAML takes it for "
                "something else) or a map"
            )
        label = _read_label(item, position, next_train)
        if label.train_id is not None:
            next_train = max(next_train, label.train_id + 1)
        labels.append(label)
    return tuple(labels)


def read_yaml(path: Path) -> Any:
    """Return the content of a ``classes.yaml``, for :func:`read_labels`.

    Raises:
        FileError: it is missing, cannot be read or is not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(archive.read_text(path))
    except FileNotFoundError as error:
        raise FileError(
            f"{path} does not exist; write one with 'classes:' and a list of names"
        ) from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}; give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def write_labels(labels: Iterable[Label]) -> dict[str, Any]:
    """Return the form that :func:`read_labels` reads, complete."""
    entries: list[dict[str, Any]] = []
    for label in labels:
        entry: dict[str, Any] = {
            "name": label.name,
            "id": label.raw_id,
            "color": list(label.color),
        }
        entry |= {"ignore": True} if label.ignored else {"train_id": label.train_id}
        entries.append(entry)
    return {"classes": entries}


def _read_label(item: Mapping[Any, Any], position: int, next_train: int) -> Label:
    for key in item:
        if key not in _KEYS:
            raise InputError(f"class {position} has no setting {key!r}; {nearest(str(key), _KEYS)}")
    name, ignore = item.get("name"), item.get("ignore", False)
    if not isinstance(name, str) or not name:
        raise InputError(f"class {position} has no name; add one, in quotes if it is a number")
    if not isinstance(ignore, bool):
        raise InputError(f"ignore of {name!r} is {ignore!r}; wanted true or false")
    raw_id = _integer(item.get("id", position), f"id of {name!r}")
    train_id = None
    if not ignore:
        train_id = _integer(item.get("train_id", next_train), f"train_id of {name!r}")
    return Label(name, raw_id, train_id, _color(item.get("color"), name, raw_id))


def _color(value: Any, name: str, raw_id: int) -> Color:
    if value is None:
        return default_color(raw_id)
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise InputError(f"color of {name!r} is {value!r}; wanted [red, green, blue]")
    red, green, blue = (_integer(channel, f"color of {name!r}") for channel in value)
    return red, green, blue


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{what} is {value!r}; wanted a whole number")
    return value

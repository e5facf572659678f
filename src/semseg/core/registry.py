"""Names of one kind of thing, filled by importing the modules of one package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Generic, TypeVar

from semseg.core.checks import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from name to entry that finds its entries by itself.

    Args:
        kind: the word used in messages, e.g. ``"network"``.
        package: dotted name of the package whose modules call :meth:`add` when imported.

    Every public module below ``package`` is imported on the first look-up; an import error is
    not swallowed, so a broken file cannot silently shorten the list.

    Example:
        >>> colours: Registry[int] = Registry("colour", "semseg.core")
        >>> colours.add("red", 1)
        >>> colours["red"], list(colours)
        (1, ['red'])
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def add(self, name: str, entry: T) -> None:
        """Enter ``entry``; a name can be taken once."""
        if name in self._entries:
            raise ValueError(
                f"{self.kind} name {name!r} is already taken by {self._entries[name]!r}"
            )
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        """Return the entry, or raise ``UnknownNameError`` with the nearest names."""
        self._discover()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        """Tell whether a name is taken."""
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in alphabetical order."""
        self._discover()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        """Return the number of entries."""
        self._discover()
        return len(self._entries)

    def _discover(self) -> None:
        if self._discovered:
            return
        root = importlib.import_module(self.package)
        for info in pkgutil.walk_packages(root.__path__, f"{self.package}."):
            if not info.name.rpartition(".")[2].startswith("_"):
                importlib.import_module(info.name)
        self._discovered = True

"""What a check says, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from semseg.core.labels import LabelMap
from semseg.data.doctor.look import Look

Severity = Literal["error", "warning", "note"]
"""An error makes training fail or labels wrong; a warning is likely a mistake; a note is a fact."""

Role = Literal["image", "mask"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect, with all files that have it.

    Args:
        check: short name of the defect, e.g. ``"color_mask"``.
        severity: how bad it is.
        message: what came, what was wanted, what to do.
        files: where; of a pair the file that is to blame. Empty if it is the dataset as a whole.
        looks: positions of the samples in :attr:`Evidence.looks`, for pictures.
    """

    check: str
    severity: Severity
    message: str
    files: tuple[str, ...] = ()
    looks: tuple[int, ...] = ()

    def line(self, shown: int = 3) -> str:
        """Return the finding in one line that names the first files.

        Example:
            >>> Finding("blank_image", "warning", "2 images are black", ("a", "b")).line(1)
            '2 images are black: a and 1 more'
        """
        if not self.files:
            return self.message
        more = len(self.files) - shown
        return (
            f"{self.message}: {', '.join(self.files[:shown])}"
            f"{f' and {more} more' if more > 0 else ''}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "check": self.check,
            "severity": self.severity,
            "message": self.message,
            "files": list(self.files),
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the checks look at.

    Args:
        looks: one per sample, of all splits.
        labels: the classes, or ``None`` where they cannot be read.
        channels: of the images as the dataset reads them.
        found: what opening the dataset has shown already.
    """

    looks: Sequence[Look]
    labels: LabelMap | None
    channels: int
    found: tuple[Finding, ...] = field(default=())

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in their order."""
        return tuple(dict.fromkeys(look.case.split for look in self.looks))

    def where(self, wanted: Callable[[Look], bool]) -> list[int]:
        """Return the positions of the samples for which ``wanted`` holds."""
        return [i for i, look in enumerate(self.looks) if wanted(look)]

    def finding(
        self,
        check: str,
        severity: Severity,
        message: str,
        positions: Sequence[int],
        of: Role = "mask",
    ) -> Finding:
        """Return a finding about the image or mask files of some samples."""
        files = (self.looks[i].case.file(of) for i in positions)
        return Finding(check, severity, message, tuple(files), tuple(positions))


Check = Callable[[Evidence], Iterator[Finding]]
"""A check says what it finds; nothing if all is well."""


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> count(1, "mask"), count(3, "mask"), count(2, "class")
        ('1 mask', '3 masks', '2 classes')
    """
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"

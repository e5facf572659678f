"""Every message for a mistake a user can mend: what came, what was wanted, what to do.

All errors meant for users derive from :class:`SemsegError`; the command line prints those as one
line with exit status 2 and lets everything else through as the bug it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class SemsegError(Exception):
    """A mistake that the caller can mend by following the message."""


class InputError(SemsegError, ValueError):
    """A value or a shape that cannot be used."""


class SettingError(SemsegError, TypeError):
    """A setting that does not exist, or of the wrong kind."""


class UnknownNameError(SemsegError, KeyError):
    """A name that is not in a registry."""

    def __str__(self) -> str:
        """Return the message as written; ``KeyError`` would put quotes around it."""
        return str(self.args[0])


class FileError(SemsegError, ValueError):
    """A file that is missing, damaged or not what it should be; the message names it."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return a hint with the known names nearest to ``name``, or all of them when few.

    Example:
        >>> nearest("lerning_rate", ["learning_rate", "momentum"])
        "did you mean 'learning_rate'?"
        >>> nearest("x", ["alpha", "beta"])
        "known: 'alpha', 'beta'"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    if not names:
        return "there are none"
    shown = ", ".join(map(repr, names[:12]))
    return f"known: {shown}{', …' if len(names) > 12 else ''}"


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers in order, with runs drawn together.

    Example:
        >>> ranges([7, 0, 2, 1, 255])
        '0-2, 7, 255'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Error for a name that a registry does not hold."""
    return UnknownNameError(f"unknown {kind} {name!r}; {nearest(name, known)}")


def unknown_setting(owner: str, unknown: Iterable[str], known: Iterable[str]) -> SettingError:
    """Error for settings that ``owner`` does not have."""
    known = sorted(known)
    first, *rest = sorted(unknown)
    others = f" (nor {', '.join(map(repr, rest))})" if rest else ""
    return SettingError(
        f"{owner} has no setting {first!r}{others}; {nearest(first, known)} "
        f"(it has {', '.join(known)})"
    )


def check_num_classes(owner: str, num_classes: int) -> None:
    """Refuse fewer than one class."""
    if num_classes < 1:
        raise InputError(
            f"{owner} needs num_classes >= 1, got {num_classes}; use 1 for a binary network "
            "with one sigmoid channel"
        )


def check_images(owner: str, images: Tensor, channels: int, min_size: int) -> None:
    """Refuse a batch that is not ``(N, channels, H, W)`` float with H, W >= ``min_size``."""
    if images.dim() != 4:
        raise InputError(
            f"{owner} takes images of shape (N, {channels}, H, W), got {tuple(images.shape)}; "
            "add the batch dimension with images[None]"
        )
    if not images.is_floating_point():
        raise SettingError(
            f"{owner} takes normalised float images, got {images.dtype}; "
            "apply the network's preprocessing first"
        )
    if images.shape[1] != channels:
        raise InputError(
            f"{owner} takes {channels} channels, got {images.shape[1]}; "
            f"create it with in_channels={images.shape[1]}"
        )
    height, width = images.shape[-2:]
    if height < min_size or width < min_size:
        raise InputError(
            f"{owner} takes images of at least {min_size} x {min_size} pixels, "
            f"got {height} x {width}; enlarge or pad them"
        )


def check_folder(path: Path, what: str) -> Path:
    """Return ``path`` if it is a folder; otherwise say which part of it is missing."""
    if path.is_dir():
        return path
    if path.exists():
        raise FileError(f"{what} {path} is a file; give a folder")
    parent = path
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    held = sorted(p.name for p in parent.iterdir())[:6] if parent.is_dir() else []
    holds = f" (it holds {', '.join(held)})" if held else ""
    raise FileError(f"{what} {path} does not exist; the nearest folder is {parent}{holds}")

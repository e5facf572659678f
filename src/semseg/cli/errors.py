"""Exit statuses; which exceptions are a user's mistake, and the one line each becomes."""

from __future__ import annotations

from cyclopts import CycloptsError

from semseg.core.checks import SemsegError

EXIT_BELOW_WANTED = 1  # the demo's network is worse than it must be
EXIT_MISTAKE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def one_line(error: Exception) -> str | None:
    r"""Return the message for a mistake the user can mend, or ``None`` for a bug.

    Example:
        >>> from semseg.core.checks import InputError
        >>> one_line(InputError("a mask is missing;\n add it"))
        'a mask is missing; add it'
        >>> one_line(ZeroDivisionError()) is None
        True
    """
    if isinstance(error, SemsegError):
        text = str(error)
    elif isinstance(error, CycloptsError):
        text = f"{error} (semseg --help)"
    else:
        return None
    return " ".join(text.split())

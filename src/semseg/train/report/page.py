"""What the pages share: the files of a run, and templates with one style."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

from semseg.core.checks import FileError


def render(template: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: file of this package.
        values: what it shows; one that the template needs and lacks is an error.
    """
    from jinja2 import Environment, StrictUndefined

    here = files(__package__)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "duration": duration, "number": "{:,}".format}
    style = here.joinpath("style.css").read_text(encoding="utf-8")
    text = here.joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(text).render(style=style, **values)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage, a dash for none.

    Example:
        >>> percent(0.5972, 2), percent(None)
        ('59.72', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return a time in the two largest units.

    Example:
        >>> duration(5), duration(754), duration(7300)
        ('5 s', '12 min 34 s', '2 h 1 min')
    """
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl``."""
    return [json.loads(line) for line in read(run / "metrics.jsonl").splitlines()]


def read_json(run: Path, name: str) -> Any:
    """Return the content of a JSON file of a run."""
    return json.loads(read(run / name))


def read(path: Path) -> str:
    """Return the text of a file of a run.

    Raises:
        FileError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"{path} cannot be read ({error.strerror}); a report needs the folder of a run that "
            "has been validated at least once"
        ) from error

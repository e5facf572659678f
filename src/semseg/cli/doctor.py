"""``semseg doctor``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from semseg.cli.console import output, progress
from semseg.cli.overrides import parse_overrides
from semseg.core.checks import SettingError

EXIT_ERRORS = 1

EXAMPLES = """Examples:

    semseg doctor photos --out photos_doctor
    semseg doctor camvid --root data/camvid --split train
    semseg doctor folder --root scans --settings.channels 1 --json
"""

command = App(name="doctor", help_epilogue=EXAMPLES)


@command.default
def doctor(
    data: str,
    /,
    *changes: Annotated[str, Parameter(allow_leading_hyphen=True, name="--settings.KEY")],
    root: Path | None = None,
    split: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    out: Path | None = None,
    workers: int | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Look for everything that is wrong with a dataset.

    Exit status 1 if there are errors; warnings and notes leave it 0.

    Args:
        data: a folder with images, masks and classes.yaml, or the name of a dataset.
        changes: settings of the dataset, e.g. `--settings.channels 1`.
        root: folder of the dataset's files, where `data` is a name.
        split: only these splits.
        out: folder for `doctor.html`, `doctor.json` and `quarantine.txt`.
        workers: processes that read files; one per core if left out, 0 reads in this one.
        as_json: print JSON instead of lines.
    """
    from semseg.data.doctor import diagnose
    from semseg.data.doctor.page import write_all

    name, folder = ("folder", Path(data)) if _is_folder(data, root) else (data, root)
    settings = {}
    for key, value in parse_overrides(changes).items():
        section, _, setting = key.partition(".")
        if section != "settings" or not setting:
            raise SettingError(f"doctor has no option --{key}; settings are --settings.NAME VALUE")
        settings[setting] = value
    with progress("samples") as on_progress:
        found = diagnose(
            name,
            folder,
            splits=split or None,
            settings=settings,
            workers=_cores() if workers is None else workers,
            on_progress=on_progress,
        )
    written = [] if out is None else write_all(found, out)
    console = output()
    if as_json:
        console.print(json.dumps(found.to_dict(), indent=1), markup=False, soft_wrap=True)
    else:
        for finding in found.findings:
            line = f"{finding.severity}: {finding.line()} [{finding.check}]"
            console.print(line, markup=False, soft_wrap=True)
        console.print(found.summary(), markup=False, soft_wrap=True)
        for file in written:
            console.print(str(file), markup=False, soft_wrap=True)
    return EXIT_ERRORS if found.of("error") else 0


def _is_folder(data: str, root: Path | None) -> bool:
    """Tell whether ``data`` means a folder: it looks like one, and no root says otherwise."""
    return root is None and (Path(data).is_dir() or len(Path(data).parts) > 1)


def _cores() -> int:
    """Return how many processes can run at the same time."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

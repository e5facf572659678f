"""``semseg report``."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from semseg.cli.console import output

EXAMPLES = """Examples:

    semseg report runs/camvid_enet
    semseg report runs/camvid_enet runs/camvid_erfnet --out compared.html
"""

command = App(name="report", help_epilogue=EXAMPLES)


@command.default
def report(*runs: Path, out: Path | None = None, images: int = 8) -> int:
    """Write the page of a run, or one page that compares several.

    Args:
        runs: run folders; of two or more the page compares scores, classes, courses and recipes.
        out: the page of a comparison; `comparison.html` here if not given. The page of one run
            is its own `report.html`.
        images: validation images shown in the page of one run.

    Prints the page's file, which needs nothing else.
    """
    from semseg.core.checks import InputError

    if not runs:
        raise InputError("report needs a run folder, or several; training leaves them in runs/")
    if len(runs) == 1:
        from semseg.train.report import write_report

        if out is not None:
            raise InputError("the page of one run is its own report.html; leave --out away")
        page = write_report(runs[0], images=images)
    else:
        from semseg.train.report.compare import write_comparison

        page = write_comparison(runs, out or Path("comparison.html"))
    output().print(page, soft_wrap=True)
    return 0

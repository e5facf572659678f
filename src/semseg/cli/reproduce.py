"""``semseg reproduce``."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from semseg.cli.console import output

EXAMPLES = """Examples:

    semseg reproduce runs/camvid_enet
    semseg reproduce runs/camvid_enet --seeds 1,2,3,4
"""

command = App(name="reproduce", help_epilogue=EXAMPLES)


@command.default
def reproduce(run: Path, /, *, seeds: str = "1,2") -> int:
    """Train a run again with other seeds, and say whether their scores lie within its interval.

    Args:
        run: the folder of a finished run.
        seeds: other seeds than its own, with commas between.

    The runs lie beside it, as NAME-seed1 and so on; a finished one is not trained again. Exit
    status 1 if a score lies outside.
    """
    from semseg.core.checks import InputError
    from semseg.train.reproduce import reproduce as again

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds takes whole numbers with commas, got {seeds!r}") from error
    found = again(run, numbers, say=lambda line: output().print(line, soft_wrap=True))
    for line in found.lines():
        output().print(line, soft_wrap=True)
    return 1 if found.outside else 0

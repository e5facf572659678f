"""``semseg crf-search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from semseg.cli.console import output, progress
from semseg.cli.overrides import parse_overrides

EXAMPLES = """Examples:

    semseg crf-search runs/camvid_enet
    semseg crf-search runs/camvid_enet --images 10 --data.root elsewhere/camvid
    semseg predict runs/camvid_enet photos --out masks --crf
"""

command = App(name="crf-search", help_epilogue=EXAMPLES)


@command.default
def crf_search(
    run: Path,
    /,
    *changes: Annotated[str, Parameter(allow_leading_hyphen=True, name="--SECTION.KEY")],
    split: str = "val",
    images: int = 30,
    iterations: int = 10,
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Tune a dense CRF for a trained network, and say what it gains.

    Widths and weights are chosen on some validation images and judged on all others. They are
    written to `crf.json` in the run folder, where `semseg predict --crf` finds them.

    Args:
        run: a run folder; its best weights are taken.
        changes: recipe keys with other values, e.g. `--data.root elsewhere`.
        split: which images.
        images: tune on so many, but on no more than half.
        iterations: rounds of mean field.
        device: e.g. `cpu` or `cuda:0`; `auto` takes a GPU if there is one.
        seed: of the choice of images and of the drawings for the interval.
    """
    import json

    from semseg.core.files import write_text
    from semseg.predict.refine import CRF_FILE
    from semseg.train.crf_search import search_crf

    with progress("settings") as on_progress:
        found = search_crf(
            run,
            overrides=parse_overrides(changes),
            split=split,
            images=images,
            iterations=iterations,
            device=device,
            seed=seed,
            progress=lambda done: on_progress(done, 0),
        )
    write_text(run / CRF_FILE, json.dumps(found.to_dict(), indent=2) + "\n")
    settings = ", ".join(f"{name} {value:g}" for name, value in found.settings.items())
    low, high, gain = (100 * x for x in (found.low, found.high, found.gain))
    for line in (
        f"best: {settings}",
        f"{found.tuned_on} images it was tuned on: mIoU {100 * found.tuned_before:.2f} % without, "
        f"{100 * found.tuned_after:.2f} % with",
        f"{found.judged_on} other images: mIoU {100 * found.before:.2f} % without, "
        f"{100 * found.after:.2f} % with; gain {gain:+.2f}, {low:+.2f} … {high:+.2f} in 95 % of "
        f"{found.drawings} drawings of these images",
        f"written to {run / CRF_FILE}",
    ):
        output().print(line, soft_wrap=True)

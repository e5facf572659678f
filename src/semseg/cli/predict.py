"""``semseg predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from semseg.cli.console import output, progress
from semseg.cli.errors import EXIT_SOME_FAILED

EXAMPLES = """Examples:

    semseg predict runs/camvid_enet photos --out masks
    semseg predict runs/camvid_enet 'photos/**/*.jpg' --out masks --outputs ids overlay
    semseg predict best.safetensors photo.jpg --out masks --device cpu
"""

command = App(name="predict", help_epilogue=EXAMPLES)


@command.default
def predict(
    run: Path,
    source: str,
    /,
    *,
    out: Path,
    outputs: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (
        "palette",
    ),
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    device: str | None = None,
    crf: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Segment images and write masks, colours and overlays.

    Args:
        run: a run folder (its best weights) or a `.safetensors` file.
        source: an image, a folder of images or a pattern in quotes.
        out: folder to write into; `manifest.jsonl` there tells what was done.
        outputs: any of `palette`, `ids`, `color`, `overlay`, `confidence`.
        overwrite: replace results of an earlier call.
        device: e.g. `cpu` or `cuda:0`; a GPU if there is one.
        crf: refine masks by the dense CRF that `semseg crf-search` tuned for this run.
    """
    from semseg.predict import Predictor, predict_files
    from semseg.predict.refine import read_crf

    predictor = Predictor(run, device, crf=read_crf(run) if crf else None)
    with progress("images") as on_progress:
        summary = predict_files(predictor, source, out, outputs, overwrite, on_progress)
    for failure in summary.failures:
        sys.stderr.write(f"semseg: {' '.join(failure.message.split())}\n")
    output().print(
        f"{summary.images} images in {summary.seconds:.1f} s, {len(summary.failures)} failed; "
        f"written to {summary.out}",
        soft_wrap=True,
    )
    return EXIT_SOME_FAILED if summary.failures else 0

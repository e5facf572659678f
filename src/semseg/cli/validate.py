"""``semseg validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from semseg.cli.console import output
from semseg.cli.overrides import parse_overrides

EXAMPLES = """Examples:

    semseg validate runs/camvid_enet
    semseg validate runs/camvid_enet --data.root elsewhere/camvid --absent gt
"""

command = App(name="validate", help_epilogue=EXAMPLES)


@command.default
def validate(
    run: Path,
    /,
    *changes: Annotated[str, Parameter(allow_leading_hyphen=True, name="--SECTION.KEY")],
    split: str = "val",
    absent: Literal["present", "gt", "all"] = "present",
    device: str = "auto",
) -> None:
    """Measure a trained network on its validation images.

    Always float32 and one image at a time, whatever the training did.

    Args:
        run: a run folder; its best weights are measured.
        changes: recipe keys with other values, e.g. `--data.root elsewhere`.
        split: which images.
        absent: classes that count in the mean: those in truth or prediction, those in the truth
            (`gt`), or all of them.
        device: e.g. `cpu` or `cuda:0`; `auto` takes a GPU if there is one.
    """
    from rich.table import Table

    from semseg.core.checkpoint import read_info
    from semseg.train import validate_run

    scores = validate_run(
        run, overrides=parse_overrides(changes), split=split, absent=absent, device=device
    )
    labels = read_info(run / "best.safetensors").labels
    assert labels is not None  # training always stores them
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    for name, iou in zip(labels.names, scores.iou, strict=True):
        table.add_row(name, f"{100 * iou:.2f}")
    console = output()
    console.print(table)
    console.print(
        f"mIoU {100 * scores.miou:.2f} % (classes that count: {scores.absent}), "
        f"Dice {100 * scores.dice:.2f} %, pixel accuracy {100 * scores.accuracy:.2f} %, "
        f"mean class accuracy {100 * scores.mean_accuracy:.2f} %, "
        f"frequency-weighted IoU {100 * scores.fw_iou:.2f} %",
        soft_wrap=True,
    )

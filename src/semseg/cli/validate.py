"""``semseg validate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from semseg.cli.console import output
from semseg.cli.overrides import parse_overrides

if TYPE_CHECKING:
    from rich.table import Table

    from semseg.train.evaluation import Measured

EXAMPLES = """Examples:

    semseg validate runs/camvid_enet
    semseg validate runs/camvid_enet --data.root elsewhere/camvid --absent gt
    semseg validate runs/camvid_enet --metrics boundary_iou,ece --interval --out scores.json
"""

UNSAID = ("absent", "per_class", "reliability")
"""What a metric's line leaves to the table and the JSON."""

command = App(name="validate", help_epilogue=EXAMPLES)


@command.default
def validate(
    run: Path,
    /,
    *changes: Annotated[str, Parameter(allow_leading_hyphen=True, name="--SECTION.KEY")],
    split: str = "val",
    absent: Literal["present", "gt", "all"] = "present",
    device: str = "auto",
    metrics: str = "",
    interval: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    parity: str = "",
    out: Path | None = None,
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
        metrics: more scores, with commas between: `boundary_iou`, `bf_score`, `trimap`, `ece`,
            `pq`, `per_image`.
        interval: draw the images anew, a thousand times, and tell between which bounds the scores
            lie in 95 % of the drawings.
        seed: of these draws.
        parity: also score as `torchmetrics`, `cityscapesscripts`, `mmsegmentation` or `detectron2`
            does, under its own names.
        out: file for everything found, as JSON.
    """
    import json

    from semseg.core.files import write_text
    from semseg.metrics.parity import check_tool
    from semseg.metrics.parity import parity as score_as
    from semseg.train.evaluation import measure_run

    if parity:
        check_tool(parity)  # before minutes of work
    measured = measure_run(
        run,
        overrides=parse_overrides(changes),
        split=split,
        absent=absent,
        device=device,
        metrics=[name.strip() for name in metrics.split(",") if name.strip()],
        interval=interval,
        seed=seed,
    )
    found = measured.to_dict()
    if parity:
        found["parity"] = {parity: score_as(measured.matrix, parity)}
    _show(measured, found.get("parity", {}))
    if out is not None:
        write_text(out, json.dumps(found, indent=2, allow_nan=False) + "\n")
        output().print(f"written to {out}", soft_wrap=True)


def _show(measured: Measured, parity: dict[str, dict[str, Any]]) -> None:
    """Print the table of classes, then a line for each kind of score; the JSON holds the rest."""
    console, scores, interval = output(), measured.scores, measured.interval
    console.print(_table(measured))
    mean = f"mIoU {100 * scores.miou:.2f} %"
    if interval is not None:
        bounds = _bounds(interval.low["miou"], interval.high["miou"])
        mean += f", {bounds} in 95 % of {interval.drawings} drawings of {interval.images} images"
    console.print(
        f"{mean} (classes that count: {scores.absent}), "
        f"Dice {100 * scores.dice:.2f} %, pixel accuracy {100 * scores.accuracy:.2f} %, "
        f"mean class accuracy {100 * scores.mean_accuracy:.2f} %, "
        f"frequency-weighted IoU {100 * scores.fw_iou:.2f} %",
        soft_wrap=True,
    )
    for name, result in measured.metrics.items():
        rule = f" (classes that count: {result['absent']})" if "absent" in result else ""
        values = [f"{k} {_said(v)}" for k, v in result.items() if k not in UNSAID]
        console.print(f"{name}: {', '.join(values)}{rule}", soft_wrap=True)
    for tool, result in parity.items():
        values = [f"{k} {v}" for k, v in result.items() if isinstance(v, float)]
        console.print(f"as {tool}: {', '.join(values)}", soft_wrap=True)


def _table(measured: Measured) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = {"IoU %": [f"{100 * value:.2f}" for value in measured.scores.iou]}
    if measured.interval is not None:
        columns["95 %"] = [_bounds(low, high) for low, high in measured.interval.iou]
    for name, result in measured.metrics.items():
        if "per_class" in result:
            columns[f"{name} %"] = [_said(value) for value in result["per_class"]]
    for heading in ("class", *columns):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for row in zip(measured.labels.names, *columns.values(), strict=True):
        table.add_row(*row)
    return table


def _bounds(low: float, high: float) -> str:
    return f"{100 * low:.2f} … {100 * high:.2f}"


def _said(value: float | list[float | None] | None) -> str:
    """Return shares as per cent, and counts as they are."""
    if isinstance(value, list):
        return " ".join(_said(one) for one in value)
    if isinstance(value, float):
        return f"{100 * value:.2f}"
    return "nan" if value is None else str(value)

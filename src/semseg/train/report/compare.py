"""Several runs side by side: scores, classes, courses, and what differs in their recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semseg.core.checks import InputError
from semseg.core.files import write_text
from semseg.core.labels import LabelMap
from semseg.train.config import differences, load_recipe
from semseg.train.report.page import percent, read_json, read_rows, render
from semseg.train.report.plots import curves

SILENT = ("name", "out", "data.root", "data.workers", "train.device", "train.max_minutes")
"""Settings whose difference tells nothing of the result."""


@dataclass(frozen=True, slots=True)
class Held:
    """What is read of one run."""

    name: str
    model: str
    result: dict[str, Any]
    rows: list[dict[str, Any]]
    data: dict[str, Any]
    labels: LabelMap
    changes: list[str]

    @property
    def interval(self) -> str:
        """Bounds of the mIoU in percent; a dash for runs of older versions, which have none."""
        low, high = self.result.get("interval", {"miou": (None, None)})["miou"]
        return f"{percent(low)} – {percent(high)}" if low is not None else percent(None)


def write_comparison(runs: Sequence[str | Path], out: Path) -> Path:
    """Write one page that compares runs, the best first.

    Args:
        runs: run folders, two or more; their classes must be the same.
        out: the file.

    Returns:
        The file.

    Raises:
        FileError: a folder lacks a file that every run leaves.
        InputError: fewer than two runs, or other classes.
    """
    if len(runs) < 2:
        raise InputError(f"a comparison needs two runs or more, got {len(runs)}")
    held = [_read(Path(run), Path(runs[0])) for run in runs]
    for one in held[1:]:
        if difference := held[0].labels.difference(one.labels):
            raise InputError(
                f"{one.name} and {held[0].name} have other classes, so their scores do not "
                f"compare: {difference}"
            )
    best_first = sorted(held, key=lambda one: -one.result["miou"])
    rules = {one.result["absent"] for one in held}
    same_images = len({one.data["val"]["fingerprint"] for one in held}) == 1
    html = render(
        "compare.html",
        title=" against ".join(one.name for one in best_first[:3]),
        runs=best_first,
        first=held[0].name,
        names=held[0].labels.names,
        top={name: _top(held, name) for name in held[0].labels.names},
        rules=sorted(rules),
        same_images=same_images,
        course=curves("course", {one.name: _course(one) for one in best_first}),
    )
    write_text(out, html)
    return out


def _read(run: Path, first: Path) -> Held:
    config = load_recipe(run)
    changed = differences(config, load_recipe(first))
    return Held(
        name=run.resolve().name,
        model=config.model.name,
        result=read_json(run, "result.json"),
        rows=read_rows(run),
        data=read_json(run, "data.json"),
        labels=LabelMap.from_dict(read_json(run, "labels.json"), source=str(run / "labels.json")),
        changes=[line for line in changed if line.partition(":")[0] not in SILENT],
    )


def _course(run: Held) -> tuple[list[float], list[float]]:
    held = [row for row in run.rows if row.get("val_miou") is not None]
    return [row["epoch"] for row in held], [100 * row["val_miou"] for row in held]


def _top(runs: Sequence[Held], name: str) -> float | None:
    """Return the highest IoU of a class, if any run has one."""
    return max((v for r in runs if (v := r.result["iou"][name]) is not None), default=None)

"""The report of a run: one HTML file that needs nothing else, for a screen or a phone."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import SemsegError
from semseg.core.files import write_text
from semseg.core.labels import LabelMap
from semseg.train.report.examples import Examples, choose_examples
from semseg.train.report.page import read, read_json, read_rows, render
from semseg.train.report.plots import curves, heat_map, reliability

RULES = {
    "present": "{counted} of {classes} classes: those that occur in truth or predictions",
    "gt": "{counted} of {classes} classes: those that occur in the truth",
    "all": "all {classes} classes; one that occurs nowhere counts as 0",
}
"""What the mean is over, by the rule for absent classes."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One line of the table of classes; shares are ``None`` where there is nothing to divide by.

    Args:
        name: of the class.
        color: CSS colour.
        iou: intersection over union.
        interval: bounds of ``iou`` in 95 of 100 drawings of the validation images.
        recall: share of the truth's pixels that were found.
        precision: share of the predicted pixels that are right.
        truth: pixels in the truth.
        predicted: pixels in the predictions, where the truth is labelled.
        training: share of the labelled pixels of the training images.
    """

    name: str
    color: str
    iou: float | None
    interval: tuple[float, float] | None
    recall: float | None
    precision: float | None
    truth: int
    predicted: int
    training: float | None


def write_report(run: Path, *, images: int = 8) -> Path:
    """Write ``report.html`` into a run folder.

    The validation images shown are read again from the dataset; if that cannot be, the report says
    why in their place.

    Args:
        run: a run folder with ``result.json``, so with at least one validation behind it.
        images: how many validation images are shown, half of them the worst.

    Returns:
        The file.

    Raises:
        FileError: the folder lacks a file that every run leaves, or the report cannot be written.
    """
    run = Path(run)
    result, rows = read_json(run, "result.json"), read_rows(run)
    labels = LabelMap.from_dict(read_json(run, "labels.json"), source=str(run / "labels.json"))
    data = read_json(run, "data.json")
    counts = np.array(result["confusion"], dtype=np.int64)
    examples, problem = None, None
    try:
        examples = choose_examples(run, images) if images else None
    except SemsegError as error:
        problem = str(error)
    html = render(
        "report.html",
        name=run.resolve().name,
        place=shlex.quote(run.as_posix()),
        model=_model(run),
        result=result,
        interval=result.get("interval"),  # runs of older versions have none
        rule=_rule(result, labels),
        rows=rows,
        plots=_plots(rows, result),
        heat_map=heat_map("confusion", counts, labels.names),
        classes=_classes(labels, result, counts, data),
        examples=examples,
        reliability=_reliability(examples),
        problem=problem,
        config=read(run / "config.yaml"),
        environment=read_json(run, "environment.json"),
        data=data,
        ignored=[label.name for label in labels.labels if label.ignored],
    )
    write_text(run / "report.html", html)
    return run / "report.html"


def _plots(rows: list[dict[str, Any]], result: dict[str, Any]) -> dict[str, str]:
    """Return the curves by their titles."""

    def line(key: str, factor: float = 1) -> tuple[list[float], list[float]]:
        held = [row for row in rows if row.get(key) is not None]
        return [row["epoch"] for row in held], [factor * row[key] for row in held]

    terms = sorted({key for row in rows for key in row if key.startswith("loss_")})
    losses = {"sum": line("loss")}
    if len(terms) > 1:
        losses |= {term.removeprefix("loss_"): line(term) for term in terms}
    scores = {"mIoU": line("val_miou", 100), "pixel accuracy": line("val_accuracy", 100)}
    return {
        "Validation, %": curves("validation", scores, mark=result["epoch"]),
        "Training loss": curves("loss", losses),
        "Learning rate": curves("lr", {"rate": line("lr")}),
    }


def _classes(
    labels: LabelMap, result: dict[str, Any], counts: NDArray[np.int64], data: dict[str, Any]
) -> list[ClassRow]:
    bounds = result.get("interval", {}).get("iou")
    right, truth, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return [
        ClassRow(
            name=label.name,
            color="rgb({}, {}, {})".format(*label.color),
            iou=result["iou"][label.name],
            interval=_bounds(bounds[i]) if bounds else None,
            recall=_share(right[i], truth[i]),
            precision=_share(right[i], predicted[i]),
            truth=int(truth[i]),
            predicted=int(predicted[i]),
            training=data["frequencies"].get(label.name),
        )
        for i, label in enumerate(labels.classes)
    ]


def _bounds(pair: list[float | None]) -> tuple[float, float] | None:
    low, high = pair
    return None if low is None or high is None else (low, high)


def _reliability(examples: Examples | None) -> str | None:
    if examples is None or not examples.calibration["reliability"]:
        return None
    return reliability("reliability", examples.calibration["reliability"])


def _rule(result: dict[str, Any], labels: LabelMap) -> str:
    counted = sum(value is not None for value in result["iou"].values())
    return RULES[result["absent"]].format(counted=counted, classes=labels.num_classes)


def _model(run: Path) -> str:
    import yaml

    return str(yaml.safe_load(read(run / "config.yaml"))["model"]["name"])


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None

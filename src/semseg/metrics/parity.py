"""The same counts scored as other tools score them, under their names for the numbers.

Tools differ in which classes a mean is over, in rounding and in scale. These functions answer
whether a difference to a published number lies there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from semseg.core.checks import unknown_name
from semseg.metrics.base import Floats, numbers, ratio
from semseg.metrics.confusion import ConfusionMatrix

TOOLS = ("torchmetrics", "cityscapesscripts", "mmsegmentation", "detectron2")


def parity(
    matrix: ConfusionMatrix, tool: str, categories: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Any]:
    """Return the numbers that ``tool`` gives for these counts.

    - ``torchmetrics`` (1.9): ``MulticlassJaccardIndex``, ``MulticlassAccuracy`` and
      ``MulticlassF1Score`` with ``ignore_index``; means over classes in truth or prediction, so a
      class that is only predicted lowers the mean accuracy too.
    - ``cityscapesscripts`` (2.3): ``classScores`` and ``categoryScores``; ``nan`` (here None) for
      classes in neither. Its scores by instance need instances and are not given.
    - ``mmsegmentation``: ``IoUMetric`` with ``mIoU``, ``mDice`` and ``mFscore``; per cent,
      rounded to two digits; means over the classes for which a number is defined.
    - ``detectron2``: ``SemSegEvaluator``; per cent; means over the classes in the truth. Its
      ``BoundaryIoU`` compares differences of label numbers and is not given.

    Args:
        matrix: the counts.
        tool: one of the names above.
        categories: train ids of each category, for ``cityscapesscripts``.

    Raises:
        UnknownNameError: no such tool.

    Example:
        >>> import torch
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
        >>> parity(matrix, "mmsegmentation")["mIoU"], parity(matrix, "detectron2")["pACC"]
        (50.0, 66.66666666666667)
    """
    tools: dict[str, Callable[[Floats], dict[str, Any]]] = {
        "torchmetrics": _torchmetrics,
        "cityscapesscripts": lambda counts: _cityscapes(counts, categories or {}),
        "mmsegmentation": _mmsegmentation,
        "detectron2": _detectron2,
    }
    check_tool(tool)
    return tools[tool](matrix.counts.cpu().numpy().astype(np.float64))


def check_tool(tool: str) -> None:
    """Refuse a tool whose rules are not known.

    Raises:
        UnknownNameError: it is not.
    """
    if tool not in TOOLS:
        raise unknown_name("tool", tool, TOOLS)


def _parts(counts: Floats) -> tuple[Floats, Floats, Floats]:
    return np.diag(counts), counts.sum(1), counts.sum(0)


def _nan_ratio(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, ratio(part, whole), np.nan)


def _torchmetrics(counts: Floats) -> dict[str, Any]:
    right, truth, predicted = _parts(counts)
    union = truth + predicted - right
    present = union > 0
    iou, recall = ratio(right, union), ratio(right, truth)
    f1 = ratio(2 * right, truth + predicted)
    total = truth.sum()
    return {
        "MulticlassJaccardIndex(macro)": float(iou[present].mean()),
        "MulticlassJaccardIndex(micro)": float(right.sum() / union.sum()),
        "MulticlassJaccardIndex(weighted)": float((truth * iou).sum() / total),
        "MulticlassJaccardIndex(none)": iou.tolist(),
        "MulticlassAccuracy(macro)": float(recall[present].mean()),
        "MulticlassAccuracy(micro)": float(right.sum() / total),
        "MulticlassF1Score(macro)": float(f1[present].mean()),
    }


def _cityscapes(counts: Floats, categories: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    right, truth, predicted = _parts(counts)
    classes = _nan_ratio(right, truth + predicted - right)
    result = {"averageScoreClasses": float(np.nanmean(classes)), "classScores": numbers(classes)}
    if categories:
        scores = {}
        for name, ids in categories.items():
            inside = counts[np.ix_(ids, ids)].sum()
            whole = counts[ids].sum() + counts[:, ids].sum() - inside
            scores[name] = float(inside / whole) if whole else None
        known = [score for score in scores.values() if score is not None]
        result["averageScoreCategories"] = float(np.mean(known))
        result["categoryScores"] = scores
    return result


def _mmsegmentation(counts: Floats) -> dict[str, Any]:
    right, truth, predicted = _parts(counts)
    precision, recall = _nan_ratio(right, predicted), _nan_ratio(right, truth)
    with np.errstate(invalid="ignore"):  # 0 / 0 where precision and recall are both 0
        fscore = 2 * precision * recall / (precision + recall)
    values = {
        "aAcc": right.sum() / truth.sum(),
        "mIoU": _nan_ratio(right, truth + predicted - right),
        "mAcc": recall,
        "mDice": _nan_ratio(2 * right, truth + predicted),
        "mFscore": fscore,
        "mPrecision": precision,
        "mRecall": recall,
    }
    return {key: float(np.round(np.nanmean(value) * 100, 2)) for key, value in values.items()}


def _detectron2(counts: Floats) -> dict[str, Any]:
    right, truth, predicted = _parts(counts)
    there = truth > 0
    iou = _nan_ratio(right, truth + predicted - right)
    recall = _nan_ratio(right, truth)
    share = truth / truth.sum()
    return {
        "mIoU": float(100 * iou[there].mean()),
        "fwIoU": float(100 * (iou * share)[there].sum()),
        "mACC": float(100 * recall[there].mean()),
        "pACC": float(100 * right.sum() / truth.sum()),
        "IoU": numbers(np.where(there, 100 * iou, np.nan)),
        "ACC": numbers(np.where(there, 100 * recall, np.nan)),
    }

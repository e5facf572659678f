"""Counts of (truth, prediction) pairs, exact and in one pass over the cache.

Both labels become one index into a table that has a row for every id that occurs, the ignore id
too: dropping its row afterwards is cheaper than masking pixels before. The work goes in pieces that
stay in the cache, as narrow integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.argmax import upsample_argmax
from semseg.kernels.upsample import Size

PIECE = 2**19
"""Pixels worked on at once by a CPU."""

TABLE = 2**16
"""Entries of the table up to which ids are counted as they are."""

RUNS = 0.1
"""Runs per pixel above which every pixel is counted by itself."""

SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
"""What ids are widened to that PyTorch computes nothing with."""


@torch.no_grad()
def confusion_matrix(
    prediction: Tensor,
    target: Tensor,
    num_classes: int,
    ignore_id: int = 255,
    *,
    size: Size | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Count the pixels of each pair of true and predicted class.

    Args:
        prediction: integer ids 0 … K-1 in the shape of ``target``; or float logits
            ``(N, K, h, w)``, whose labels are taken at full size as
            :func:`~semseg.kernels.upsample_argmax` does (one sigmoid channel for two classes).
        target: integers, 0 … K-1 or the ignore id.
        num_classes: K; 2 for one sigmoid channel.
        ignore_id: target value of pixels that count for nothing, outside the classes.
        size: what logits are enlarged to, when the target covers only its upper left part; the
            target's size if left out.
        align_corners: how logits are enlarged.

    Returns:
        ``(K, K)`` int64, rows are the truth, columns the prediction, on the target's device.

    Raises:
        InputError: shapes that do not fit, or ids outside the classes.

    Example:
        >>> truth, predicted = torch.tensor([0, 1, 0, 255]), torch.tensor([0, 1, 1, 0])
        >>> confusion_matrix(predicted, truth, 2).tolist()
        [[1, 1], [0, 1]]
    """
    if num_classes < 1 or 0 <= ignore_id < num_classes:
        raise InputError(
            f"confusion_matrix needs num_classes >= 1 and an ignore_id outside its classes, "
            f"got {num_classes} and {ignore_id}"
        )
    if target.is_floating_point():
        raise InputError(f"confusion_matrix takes integer targets, got {target.dtype}")
    if prediction.is_floating_point():
        prediction = _labels(prediction, target, num_classes, size, align_corners)
    if prediction.shape != target.shape:
        raise InputError(
            f"prediction is {tuple(prediction.shape)}, target {tuple(target.shape)}; "
            "bring the prediction to the mask's size first"
        )
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=target.device)
    predicted, truth = (
        ids.reshape(-1).to(SIGNED.get(ids.dtype, ids.dtype)) for ids in (prediction, target)
    )
    piece = PIECE if target.device.type == "cpu" else max(1, target.numel())
    for p, t in zip(torch.split(predicted, piece), torch.split(truth, piece), strict=True):
        if not (p.numel() and _add(counts, p, t, ignore_id)):
            _add_counted(counts, predicted, truth, p, t, ignore_id)
    return counts


def _labels(
    logits: Tensor, target: Tensor, num_classes: int, size: Size | None, align_corners: bool
) -> Tensor:
    """Return labels of logits in the target's shape."""
    held = 2 if logits.dim() == 4 and logits.shape[1] == 1 else logits.shape[1]
    if target.dim() != 3 or logits.dim() != 4 or len(logits) != len(target) or held != num_classes:
        raise InputError(
            f"confusion_matrix takes logits (N, {num_classes}, h, w) for targets (N, H, W), got "
            f"{tuple(logits.shape)} for {tuple(target.shape)}"
        )
    height, width = target.shape[1:]
    size = (height, width) if size is None else size
    if size[0] < height or size[1] < width:
        raise InputError(
            f"confusion_matrix enlarges to {tuple(size)}, which does not cover the target's "
            f"{(height, width)}; give the size of the padded images"
        )
    narrow = torch.uint8 if num_classes <= 256 else torch.int32
    return upsample_argmax(logits, size, align_corners, dtype=narrow)[:, :height, :width]


def _add(counts: Tensor, prediction: Tensor, target: Tensor, ignore_id: int) -> bool:
    """Add the pairs of one piece, or return ``False`` if it holds anything unusual."""
    classes = len(counts)
    low, high = (int(v) for v in target.aminmax())
    least, most = (int(v) for v in prediction.aminmax())
    base = min(low, 0)
    entries = (high - base + 1) * classes
    if least < 0 or most >= classes or entries > TABLE:
        return False
    narrow = torch.int16 if entries <= 2**15 else torch.int32
    # the product is a tensor of its own, which may then be overwritten
    index = torch.mul(target.to(narrow), classes).add_(prediction.to(narrow))
    if base:
        index.sub_(base * classes)
    table = _count(index, entries).view(-1, classes)
    outside = [i for i in range(low, high + 1) if not 0 <= i < classes and i != ignore_id]
    if outside and table[torch.tensor(outside, device=table.device) - base].any():
        return False
    first, last = max(low, 0), min(high, classes - 1) + 1
    if first < last:
        counts[first:last] += table[first - base : last - base]
    return True


def _count(index: Tensor, entries: int) -> Tensor:
    """Return how often each index occurs; regions are counted by their runs along the rows."""
    if index.device.type == "cpu":
        changes = index[1:] != index[:-1]
        if int(changes.count_nonzero()) < RUNS * len(index):
            end = index.new_tensor([len(index) - 1], dtype=torch.int64)
            last = torch.cat([changes.nonzero()[:, 0], end])
            lengths = last.diff(prepend=end.new_tensor([-1]))
            which = index.index_select(0, last).to(torch.int64)
            return lengths.new_zeros(entries).index_add_(0, which, lengths)
    return torch.bincount(index, minlength=entries)


def _add_counted(
    counts: Tensor, predicted: Tensor, truth: Tensor, p: Tensor, t: Tensor, ignore_id: int
) -> None:
    """Add the pairs of one piece without the ignored pixels, or say what is wrong with the ids."""
    classes = len(counts)
    counted = t != ignore_id
    t, p = t[counted].to(torch.int64), p[counted].to(torch.int64)
    for piece, whole, what in ((t, truth, "target"), (p, predicted, "prediction")):
        if piece.numel() and not 0 <= int(piece.min()) <= int(piece.max()) < classes:
            values = whole[truth != ignore_id]
            raise InputError(
                f"{what} holds ids {int(values.min())} … {int(values.max())}; wanted "
                f"0 … {classes - 1}{f' or {ignore_id}' if what == 'target' else ''}"
            )
    counts += torch.bincount(t * classes + p, minlength=classes**2).view(classes, classes)

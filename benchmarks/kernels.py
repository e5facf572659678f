"""Compare the kernels with the plain formulas by turns: ``python benchmarks/kernels.py``.

Prints both times (least and median of the repetitions), their ratio, the ratio of processor times
on one thread, which other work on the machine hardly changes, and the most memory that each way
held besides its inputs; writes ``benchmarks/results/kernels.json``. Names given as arguments choose
what to compare: argmax, confidence, loss, confusion. The logits are those of a network that is
trained here (see ``kernel_logits.py``), and random ones, the worst case for ``upsample_argmax``.
``torchmetrics`` is compared if it is installed.
"""

from __future__ import annotations

import os

# Before torch starts its threads: some kernels leave both of them on one core otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_PROC_BIND", "true")

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernel_logits import trained_logits
from kernel_timing import DEVICE, compare
from semseg.kernels import confusion_matrix, upsample_argmax, upsample_cross_entropy

RESULTS = Path(__file__).parent / "results" / "kernels.json"
SCENES = {"19 x 1024 x 2048": (19, (1024, 2048)), "150 x 512 x 512": (150, (512, 512))}


def full(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge as everybody does."""
    return F.interpolate(logits, size, mode="bilinear")


def each_logits() -> list[tuple[str, Tensor, tuple[int, int], str]]:
    """Return name, logits, full size and kind of every case."""
    cases = []
    for name, (classes, size) in SCENES.items():
        for stride in (8, 4):
            trained = trained_logits(classes, size[0] // stride, size[1] // stride).to(DEVICE)
            random = torch.randn(trained.shape, device=DEVICE)
            cases.append((f"{name}, stride {stride}, trained", trained, size, "trained"))
            cases.append((f"{name}, stride {stride}, random", random, size, "random"))
    return cases


def compare_argmax() -> list[dict[str, Any]]:
    """Labels at full size, against interpolate with argmax and with the faster max."""
    rows = []
    for name, logits, size, kind in each_logits():
        values = full(logits, size)
        first, second = values.topk(2, 1).values.unbind(1)
        wrong = (upsample_argmax(logits, size) != values.argmax(1)) & (first - second > 1e-5)
        del values, first, second
        wanted = (">= 15" if kind == "trained" else ">= 2") if DEVICE.type == "cpu" else ">= 4"
        row = compare(
            f"argmax {name}",
            lambda x=logits, s=size: upsample_argmax(x, s),
            lambda x=logits, s=size: full(x, s).argmax(1),
            9,
            wanted,
        )
        row["wrong_labels"] = int(wrong.sum())
        row["output_mb"] = size[0] * size[1] * 8 / 1e6
        rows.append(row)
        row = compare(
            f"  (against max) {name}",
            lambda x=logits, s=size: upsample_argmax(x, s),
            lambda x=logits, s=size: full(x, s).max(1).indices,
            9,
            "",
        )
        rows.append(row)
    return rows


def compare_confidence() -> list[dict[str, Any]]:
    """Labels and the winner's probability, against softmax of all values."""
    return [
        compare(
            f"argmax with confidence {name}",
            lambda x=logits, s=size: upsample_argmax(x, s, return_confidence=True),
            lambda x=logits, s=size: full(x, s).softmax(1).max(1),
            5,
            "",
        )
        for name, logits, size, kind in each_logits()
        if kind == "trained"
    ]


def compare_loss() -> list[dict[str, Any]]:
    """Loss and gradient, against interpolate with cross entropy."""
    rows = []
    cases = (
        ((16, 150, 128, 128), 512, 2),
        ((4, 150, 64, 64), 512, 3),
        ((4, 19, 96, 96), 768, 5),
        ((4, 11, 180, 240), 360, 7),  # CamVid at stride 2, the least that gains
    )
    for shape, height, repeat in cases:
        width = height * shape[3] // shape[2]
        torch.manual_seed(0)
        logits = torch.randn(shape, device=DEVICE, requires_grad=True)
        target = torch.randint(shape[1], (shape[0], height, width), device=DEVICE)
        target[:, :20] = 255

        def ours(x: Tensor = logits, t: Tensor = target) -> Tensor:
            return torch.autograd.grad(upsample_cross_entropy(x, t), x)[0]

        def plain(x: Tensor = logits, t: Tensor = target) -> Tensor:
            size = (t.shape[1], t.shape[2])
            loss = F.cross_entropy(full(x, size), t, ignore_index=255)
            return torch.autograd.grad(loss, x)[0]

        wanted = plain()
        away = float((ours() - wanted).abs().max() / wanted.abs().max())
        del wanted
        stride = height // shape[2]
        name = f"loss K = {shape[1]}, {shape[0]} x {height} x {width}, stride {stride}"
        row = compare(name, ours, plain, repeat, ">= 1, memory <= 30 %")
        row["memory_share"] = round(row["ours"]["memory_mb"] / row["plain"]["memory_mb"], 3)
        row["gradient_away"] = away
        print(f"{'':<58} memory {row['memory_share']:.1%}, gradient {away:.1e} away")
        rows.append(row)
    return rows


def compare_confusion() -> list[dict[str, Any]]:
    """Counts of full-size labels, against torchmetrics without and with its checks."""
    try:
        from torchmetrics.classification import MulticlassConfusionMatrix
    except ImportError:
        print("torchmetrics is not installed: nothing to compare the confusion matrix with")
        return []
    classes, size = SCENES["19 x 1024 x 2048"]
    prediction = upsample_argmax(trained_logits(classes, 128, 256).to(DEVICE), size)
    target = prediction.roll((9, 9), (1, 2)) % classes
    target[:, :100] = 255
    rows = []
    for checks in (False, True):
        theirs = MulticlassConfusionMatrix(classes, ignore_index=255, validate_args=checks)
        theirs = theirs.to(DEVICE)
        narrow = prediction.to(torch.uint8), target.to(torch.uint8)
        for kind, (p, t) in (("int64", (prediction, target)), ("uint8", narrow)):
            row = compare(
                f"confusion {kind}, torchmetrics {'checks' if checks else 'does not check'}",
                lambda p=p, t=t: confusion_matrix(p, t, classes),
                lambda m=theirs: m.update(prediction, target),
                9,
                ">= 5",
            )
            theirs.reset()
            theirs.update(prediction, target)
            row["equal"] = torch.equal(confusion_matrix(p, t, classes), theirs.confmat)
            rows.append(row)
    return rows


COMPARISONS = {
    "argmax": compare_argmax,
    "confidence": compare_confidence,
    "loss": compare_loss,
    "confusion": compare_confusion,
}


def main() -> None:
    """Compare, print and write the figures."""
    chosen = sys.argv[1:] or list(COMPARISONS)
    print(f"{'milliseconds':<58} {'ours':>17} {'plain':>19} {'ratio':>20} {'MB':>19}")
    print(
        f"{'':<58} {'least':>8} {'median':>8} {'least':>9} {'median':>9} "
        f"{'least':>6} median {'1 core':>6} {'ours':>9} {'plain':>9}  wanted"
    )
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    figures = known.get("figures", {})
    for name in chosen:
        figures[name] = COMPARISONS[name]()
    record = {
        "device": DEVICE.type,
        "machine": torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "torch": torch.__version__,
        "figures": figures,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Plots as inline SVG that takes the colours of the page around it, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

ACCENT = "#2f7fc1"
"""Readable on white and on black."""

_INK = "#010203"  # stands for the page's text colour until the SVG is written
_MAX_NAMES = 60  # more classes than this have no room for their names
_MAX_NUMBERS = 16

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # letters stay letters, in the font of the page
    "svg.hashsalt": "semseg",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def curves(
    name: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    mark: float | None = None,
) -> str:
    """Return lines over epochs.

    Args:
        name: prefix of the ids in the SVG.
        lines: ``(epochs, values)`` by name; the first is drawn strongest.
        mark: an epoch to point out.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.subplots()
        for i, (label, (epochs, values)) in enumerate(lines.items()):
            strength = {"color": ACCENT, "lw": 2} if i == 0 else {"alpha": 0.7, "lw": 1}
            marker = "o" if len(epochs) < 20 else ""
            axes.plot(epochs, values, label=label, marker=marker, ms=3, **strength)
        if mark is not None:
            axes.axvline(mark, color=_INK, lw=0.8, ls=":")
        if len(lines) > 1:
            axes.legend()
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25, lw=0.5)
        return _svg(figure, name)


def reliability(name: str, rows: Sequence[tuple[float, float, int]]) -> str:
    """Return how often a network is right, over how sure it is.

    Args:
        name: prefix of the ids in the SVG.
        rows: ``(mean confidence, accuracy, pixels)`` of each bin that is not empty.
    """
    sure, right, pixels = (np.array(column) for column in zip(*rows, strict=True))
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=_INK, lw=0.8, ls=":")
        axes.plot(100 * sure, 100 * right, color=ACCENT, lw=1)
        # areas as shares of the pixels; the smallest can still be seen
        axes.scatter(100 * sure, 100 * right, s=8 + 300 * pixels / pixels.sum(), color=ACCENT)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("right, %")
        axes.grid(alpha=0.25, lw=0.5)
        return _svg(figure, name)


def heat_map(name: str, counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """Return a confusion matrix ``(K, K)``, each row as shares of the truth's pixels."""
    truth = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(truth, 1)
    classes = len(names)
    size = min(9.0, 2.2 + 0.45 * classes)
    with rc_context(_STYLE):
        figure = Figure(figsize=(size, size), layout="constrained")
        axes = figure.subplots()
        color = np.array([int(ACCENT[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        tints = np.broadcast_to(color, (classes, classes, 3))
        # shares as opacity: the page shows through, whatever its colour
        axes.imshow(np.concatenate([tints, shares[..., None]], axis=2), interpolation="nearest")
        if classes <= _MAX_NUMBERS:
            for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
                text = f"{100 * shares[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8)
        if classes <= _MAX_NAMES:
            axes.set_xticks(range(classes), names, rotation=90)
            axes.set_yticks(range(classes), names)
        axes.tick_params(length=0)
        axes.set_xlabel("prediction")
        axes.set_ylabel("truth")
        return _svg(figure, name)


def _svg(figure: Figure, name: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # several SVGs share one page, and so one space of ids
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', svg, count=1)

"""The comparison of RTSeg (arXiv:1803.02758): every decoder over every trunk, one figure.

    python benchmarks/rtseg.py

Times the twelve networks as ``benchmarks/speed.py`` does, in their form for prediction, at the
paper's 512 x 1024, and writes ``benchmarks/results/rtseg.json`` and ``rtseg.png``: milliseconds,
operations and parameters by decoder and trunk.
"""

from __future__ import annotations

import json
from typing import Any

from cyclopts import App

from speed import RESULTS
from speed import main as measure_speed

DECODERS = ("skipnet", "unet_rtseg", "dilation_rtseg")
TRUNKS = ("vgg16", "resnet18", "mobilenet", "shufflenet")
FIGURES = {
    "p50": "milliseconds, median",
    "gflop": "GFLOP for one image",
    "parameters": "parameters, millions",
}

app = App(help=__doc__)


def draw(rows: list[dict[str, Any]], title: str) -> None:
    """Draw one panel per figure: groups of trunks, one bar per decoder."""
    from matplotlib.figure import Figure

    by_name = {row["network"]: row for row in rows}
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, len(FIGURES)), FIGURES.items(), strict=True):
        for i, decoder in enumerate(DECODERS):
            values = [by_name[f"{decoder}_{trunk}"].get(key, 0) for trunk in TRUNKS]
            values = [value / 1e6 for value in values] if key == "parameters" else values
            places = [place + (i - 1) * 0.27 for place in range(len(TRUNKS))]
            bars = axes.bar(places, values, 0.25, label=decoder.removesuffix("_rtseg"))
            axes.bar_label(bars, fmt="%.3g", fontsize=7)
        axes.set_xticks(range(len(TRUNKS)), TRUNKS)
        axes.set(ylabel=label, yscale="log")
        axes.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(RESULTS / "rtseg.png", dpi=80)


@app.default
def main(
    size: str = "512x1024", seconds: float = 2.0, threads: int = 0, device: str = "cpu"
) -> None:
    """Measure and draw the grid.

    Args:
        size: height x width of the images.
        seconds: time of each network after warming up.
        threads: threads of the CPU; 0 for PyTorch's choice.
        device: ``cpu`` or ``cuda``.
    """
    names = [f"{decoder}_{trunk}" for decoder in DECODERS for trunk in TRUNKS]
    form = ("fused_channels_last",)
    measure_speed(
        *names,
        sizes=(size,),
        forms=form,
        seconds=seconds,
        threads=threads,
        device=device,
        out="rtseg",
    )
    record = json.loads((RESULTS / "rtseg.json").read_text(encoding="utf-8"))
    draw(record["rows"], f"{size}, {record['threads']} threads, {record['machine']}, fused")


if __name__ == "__main__":
    app()

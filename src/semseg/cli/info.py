"""``semseg info``."""

from __future__ import annotations

from cyclopts import App

from semseg.cli.console import output

command = App(name="info", help_epilogue="Examples:\n\n    semseg info unet\n")


@command.default
def info(name: str, /) -> None:
    """Show one network: paper, parameters, cost, output shapes, results.

    Args:
        name: one of `semseg list`.
    """
    from dataclasses import asdict

    from semseg.models import model_entry
    from semseg.models.summary import in_words, size_in_words, summarize

    entry = model_entry(name)
    summary = summarize(name)
    lines = {
        "network": f"{entry.name} ({entry.family})",
        "title": entry.title,
        "paper": f"{entry.paper}, {entry.year}",
        "idea": entry.idea,
        "code": entry.repository or "none by the authors",
        "verified by": entry.verified,
        "parameters": f"{summary.parameters:,}",
        "cost": f"{summary.flops / 1e9:.2f} GFLOP for one {size_in_words(entry)} "
        "(a multiplication and an addition count 2)",
        "output stride": str(summary.output_stride),
        "receptive field": in_words(summary.receptive_field, entry.takes),
    }
    for head, shape in summary.heads.items():
        lines[f"head {head}"] = " x ".join(map(str, shape))
    for setting, value in asdict(entry.config).items():
        lines[f"setting {setting}"] = repr(value)
    for result in entry.published:
        lines[f"published on {result.dataset}"] = f"mIoU {result.miou} ({result.source})"

    console = output()
    length = max(map(len, lines))
    for key, value in lines.items():
        console.print(f"[bold]{key:<{length}}[/bold]  {value}", soft_wrap=True)

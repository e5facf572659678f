"""``semseg list``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from semseg.cli.console import output

EXAMPLES = """Examples:

    semseg list
    semseg list --family realtime --sort parameters
    semseg list --family dilated --max-params 30M --sort year
"""

SUFFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


def count(kind: Any, tokens: Sequence[Any]) -> float:
    """Read a number such as ``500k``, ``10M`` or ``5e6``.

    Example:
        >>> from types import SimpleNamespace
        >>> count(float, [SimpleNamespace(value="2.5M")])
        2500000.0
    """
    text = tokens[0].value.strip()
    factor = SUFFIXES.get(text[-1:].lower(), 1)
    return float(text[:-1] if factor > 1 else text) * factor


command = App(name="list", help_epilogue=EXAMPLES)


@command.default
def list_networks(
    *,
    family: str | None = None,
    sort: Literal["name", "year", "parameters"] = "name",
    max_params: Annotated[float | None, Parameter(converter=count)] = None,
) -> None:
    """List the networks with year, parameters and paper.

    Args:
        family: only this folder of networks, e.g. `realtime`.
        sort: order of the lines.
        max_params: only networks with at most this many parameters, e.g. `10M`.
    """
    from rich.table import Table

    from semseg.core.checks import unknown_name
    from semseg.models import list_models, model_entry

    entries = [model_entry(name) for name in list_models()]
    families = {entry.family for entry in entries}
    if family is not None and family not in families:
        raise unknown_name("family", family, families)
    shown = [e for e in entries if family is None or e.family == family]
    shown = [e for e in shown if max_params is None or e.num_params <= max_params]
    if sort == "year":
        shown.sort(key=lambda entry: (entry.year, entry.name))
    elif sort == "parameters":
        shown.sort(key=lambda entry: (entry.num_params, entry.name))

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "family", "year"):
        table.add_column(heading)
    table.add_column("parameters", justify="right")
    for heading in ("verified by", "title"):
        table.add_column(heading)
    for e in shown:
        table.add_row(e.name, e.family, str(e.year), f"{e.num_params:,}", e.verified, e.title)
    output().print(table)
